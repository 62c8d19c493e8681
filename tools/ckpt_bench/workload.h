// SPDX-License-Identifier: Apache-2.0
//
// The program that is checkpointed: in each epoch it reads all of its memory once, as a sweep over a grid does, and
// changes the pages that the pattern names as it passes them.
//
// Threads: one.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tools/ckpt_bench/memory.h"

namespace varve::tools {

enum class Pattern : std::uint8_t {
  scattered,
  contiguous,
  skewed,  ///< few pages often, many rarely, by a power law
};
std::string_view to_string(Pattern pattern);
/// REQUIRES: one of pattern_names().
Pattern parse_pattern(std::string_view name);
std::vector<std::string> pattern_names();

struct WorkloadShape {
  std::uint64_t bytes = 0;
  double dirty = 0.01;  ///< share of the pages that an epoch changes
  Pattern pattern = Pattern::scattered;
  bool repeat_pages = false;  ///< the same pages each epoch; else others
  DataKind data = DataKind::random;
  std::uint64_t variation = 0;  ///< another one names other pages
};
/// Kinds of programs: data, and the pattern in which it is written. stencil: a front that moves over a field;
/// particles: the same cells are active each epoch; graph, key-value: hot and cold pages; text: edits anywhere; zeros,
/// random.
std::vector<std::string> workload_names();
/// REQUIRES: one of them. Size and share stay as they are.
void set_workload(WorkloadShape& shape, std::string_view name);

/// "1 % scattered, the same pages, 1.00 GiB random"
std::string describe(const WorkloadShape& shape);

/// Which pages each epoch changes: ascending page numbers. The same shape gives the same sequence.
class PageSequence {
 public:
  explicit PageSequence(const WorkloadShape& shape);
  const std::vector<std::uint32_t>& next();
  std::uint64_t pages_per_epoch() const { return count_; }

 private:
  void draw();
  void draw_skewed();
  std::uint64_t random();

  WorkloadShape shape_;
  std::uint64_t pages_;
  std::uint64_t count_;
  std::uint64_t random_ = 0x853c49e6748fea9b;
  std::uint64_t epoch_ = 0;
  std::vector<std::uint32_t> current_;
};

struct EpochTime {
  std::uint64_t ns = 0;
  std::uint64_t processor_ns = 0;  ///< of this thread: without what others took of the processors
};
/// One epoch. `salt` differs from epoch to epoch and is not 0.
EpochTime run_epoch(std::span<std::byte> memory, const std::vector<std::uint32_t>& pages, DataKind data,
                    std::uint64_t salt);

inline constexpr std::size_t kPageBytes = 4096;  ///< the pattern's unit
/// The bytes of page `index`, counted from the page boundary at or below the memory's begin.
std::span<std::byte> page_of(std::span<std::byte> memory, std::uint64_t index);

}  // namespace varve::tools
