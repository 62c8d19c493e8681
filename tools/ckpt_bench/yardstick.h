// SPDX-License-Identifier: Apache-2.0
//
// What the engine is measured against, in the same run: the least that a stall could take, and what a program would do
// without an engine. Nothing here uses the engine or its back ends.
//
// Threads: one caller.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "tools/ckpt_bench/memory.h"
#include "varve/result.h"

namespace varve::tools {

/// Lists the pages of a range that were written, once, without changing anything: PAGEMAP_SCAN (6.7), else reading
/// /proc/self/pagemap as older kernels have to. Time in nanoseconds.
class ListingScan {
 public:
  static Result<ListingScan> create();
  Result<std::uint64_t> run(std::span<const std::byte> memory);
  bool by_pagemap_scan() const { return by_scan_; }

  ListingScan(ListingScan&& other) noexcept;
  ListingScan& operator=(ListingScan&&) = delete;
  ~ListingScan();

 private:
  ListingScan() = default;
  Result<std::uint64_t> scan(std::span<const std::byte> memory);
  Result<std::uint64_t> read_entries(std::span<const std::byte> memory);

  int fd_ = -1;
  bool by_scan_ = true;
  std::vector<std::uint64_t> room_;
};

/// Copies the pages into warm memory, run by run. REQUIRES: `into` holds them and was touched before. Nanoseconds.
std::uint64_t copy_pages(std::span<std::byte> memory, const std::vector<std::uint32_t>& pages,
                         std::span<std::byte> into);

/// write(2) of everything to a fresh file and fdatasync(2), which is what a program without an engine does. The file is
/// removed afterwards. Nanoseconds, from open to the end of the flush.
Result<std::uint64_t> write_everything(const std::string& path, std::span<const std::byte> memory);
/// The same, and the file stays.
Result<std::uint64_t> write_file(const std::string& path, std::span<const std::byte> memory);
/// read(2) of such a file into memory, and the end of that. Nanoseconds.
Result<std::uint64_t> read_file(const std::string& path, std::span<std::byte> memory);

struct DirectTiming {
  std::uint64_t ns = 0;
  bool direct = true;  ///< false: the file system takes no O_DIRECT, and the page cache was used
};
/// Sequential writing of that many bytes to a fresh, preallocated file, a few pieces at a time, with fdatasync(2). The
/// time begins after the preallocation, which a store does ahead of its writes too. The file stays.
Result<DirectTiming> write_direct(const std::string& path, std::uint64_t bytes);
/// Sequential reading of a file past the page cache, a few pieces at a time.
Result<DirectTiming> read_direct(const std::vector<std::string>& paths, std::uint64_t& bytes);
/// Asks the kernel to drop what it has cached of a file. Needs no privilege.
void drop_cached(const std::string& path);

}  // namespace varve::tools
