// SPDX-License-Identifier: Apache-2.0
//
// SegmentScanner walks the records of a segment, commit by commit, and checks every byte (docs/formats/segment.md,
// "Which images exist"). Opening a store uses it for segments without a footer, `varve verify` for all.
//
// Threads: one at a time.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "storage/footer.h"
#include "storage/frame.h"
#include "storage/io.h"
#include "storage/record.h"

namespace varve::storage {

/// Reads pieces of a file through one window. The spans hold until the next call.
class WindowReader {
 public:
  WindowReader(File& file, std::uint64_t file_bytes);
  /// REQUIRES: within the file. `corruption` when the file is shorter than it was.
  Result<std::span<const std::byte>> at(std::uint64_t offset, std::uint64_t bytes);
  std::uint64_t file_bytes() const { return file_bytes_; }
  /// What is read next comes from the file.
  void forget() { window_.clear(); }

 private:
  Status load(std::uint64_t offset, std::uint64_t bytes);

  File& file_;
  std::uint64_t file_bytes_;
  std::vector<std::byte> window_;
  std::uint64_t begin_ = 0;
};

struct ScanProblem {
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  std::string what;
  bool unreadable = false;  ///< the medium failed: nobody knows what stands there
};

struct ScannedFrame {
  FooterFrame frame;
  bool good = false;
};

/// A run of records that begins like a commit. Accepted when `problems` is empty.
struct ScannedCommit {
  std::uint64_t gap_begin = 0;  ///< where the search began; below `begin` when something else lies before it
  bool gap_is_zero = true;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;  ///< where the next one begins, or the search for it
  std::vector<ScannedFrame> frames;
  std::vector<ChunkName> names;  ///< of all frames whose payload is right
  std::optional<FooterImage> image;
  std::optional<FooterNote> note;
  std::vector<ScanProblem> problems;
  std::uint64_t records = 0;

  bool accepted() const { return problems.empty(); }
};

struct ScanOptions {
  std::uint32_t chunk_bytes = kMinChunkBytes;
  /// Set: every frame is unpacked, and the chunks compared with their names, but for differences, which need others.
  const HashSecret* secret = nullptr;
  /// What the medium can't give becomes a problem of its commit, and the scan goes on behind it; else it is an error,
  /// since what can't be read may not be taken for a torn end.
  bool pass_unreadable = false;
};

class SegmentScanner {
 public:
  /// Scans [begin, end) of a segment with these ids. REQUIRES: end at most the file's length.
  SegmentScanner(File& file, std::uint64_t key, std::uint64_t begin, std::uint64_t end, const ScanOptions& options);

  /// The next commit, whole or not; empty at the end. Errors are those of reading only.
  Result<std::optional<ScannedCommit>> next();
  /// Reads from this offset on once more, as it is now. A living writer may have committed what was found wrong, and
  /// more, before the bytes behind it were read: who finds a commit behind damage in an open segment looks again.
  void look_again(std::uint64_t offset);
  /// After the end: whether anything but zeros followed the last commit that next() gave, and from where.
  bool tail_is_zero() const { return gap_is_zero_; }
  std::uint64_t tail_begin() const { return gap_begin_; }

 private:
  Result<ScannedCommit> read_commit(std::uint64_t begin);
  /// False: the commit can't be followed beyond this record.
  Result<bool> read_record(std::uint64_t offset, ScannedCommit& commit);
  void check_frame(const RecordHeader& header, std::span<const std::byte> payload, ScannedCommit& commit);
  void check_closing(const RecordHeader& header, std::span<const std::byte> payload, ScannedCommit& commit);
  Status check_padding(std::uint64_t from, std::uint64_t until, ScannedCommit& commit);
  bool passes(const Error& error) const { return options_.pass_unreadable && medium_failed(error); }
  StoredAt at(std::uint64_t offset) const { return {name_, offset}; }

  WindowReader reader_;
  std::string name_;
  std::uint64_t key_;
  std::uint64_t position_;
  std::uint64_t end_;
  ScanOptions options_;
  FrameScratch scratch_;
  std::uint64_t gap_begin_;
  bool gap_is_zero_ = true;
  // Of the commit being read.
  std::uint64_t nonce_ = 0;
  std::uint64_t combined_ = 0;
  bool closed_ = false;
};

}  // namespace varve::storage
