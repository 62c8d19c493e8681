// SPDX-License-Identifier: Apache-2.0
//
// Reading at a bounded rate: a ReadPace says when the next bytes may be read, and can end it all; PacedIo is an Io that
// asks it before each read.
//
// Threads: ReadPace any; PacedIo as its inner Io.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "storage/io.h"

namespace varve::storage {

class ReadPace {
 public:
  /// 0: as fast as it goes.
  explicit ReadPace(std::uint64_t bytes_per_second) : bytes_per_second_(bytes_per_second) {}

  /// Waits until `bytes` more may be read. False: stop() was called.
  bool take(std::uint64_t bytes);
  /// From now on nothing is read any more; who waits returns at once.
  void stop();
  bool stopped() const { return stopped_.load(); }

  /// For progress: what has been read, and what is to be read in all, as far as it is known.
  std::uint64_t bytes() const { return bytes_.load(); }
  std::uint64_t expected_bytes() const { return expected_bytes_.load(); }
  void expect(std::uint64_t bytes) { expected_bytes_.fetch_add(bytes); }

 private:
  const std::uint64_t bytes_per_second_;
  std::atomic<bool> stopped_{false};
  std::atomic<std::uint64_t> bytes_{0};
  std::atomic<std::uint64_t> expected_bytes_{0};
  Mutex mutex_;
  Condition changed_;
  std::uint64_t due_ns_ VARVE_GUARDED_BY(mutex_) = 0;  // when what was taken so far has been paid for
};

/// What files opened for reading give is paced, and comes from the disk where it can: what the page cache holds may
/// differ from what a restart finds. Everything else goes to `inner`, which must outlive it.
class PacedIo final : public Io {
 public:
  PacedIo(Io& inner, ReadPace& pace) : inner_(inner), pace_(pace) {}

  IoKind kind() const override { return inner_.kind(); }
  const std::string& why() const override { return inner_.why(); }
  const std::string& directory() const override { return inner_.directory(); }
  Result<FileSystemTraits> file_system() override { return inner_.file_system(); }
  Result<std::unique_ptr<File>> open(std::string_view name, OpenMode mode) override;
  Result<std::vector<std::string>> list(std::string_view folder) override { return inner_.list(folder); }
  Status make_directory(std::string_view name) override { return inner_.make_directory(name); }
  Status rename(std::string_view from, std::string_view to) override { return inner_.rename(from, to); }
  Status remove(std::string_view name) override { return inner_.remove(name); }
  Status sync_directory(std::string_view folder) override { return inner_.sync_directory(folder); }
  Result<std::unique_ptr<Lock>> lock(std::uint64_t byte, bool exclusive) override {
    return inner_.lock(byte, exclusive);
  }
  void fill_random(std::span<std::byte> into) override { inner_.fill_random(into); }

 private:
  Io& inner_;
  ReadPace& pace_;
};

}  // namespace varve::storage
