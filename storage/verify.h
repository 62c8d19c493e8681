// SPDX-License-Identifier: Apache-2.0
//
// verify(): reads every byte of a store, and says what is damaged and which images that hits (docs/formats/).
//
// It trusts nothing, changes nothing, and works beside writers. Any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "storage/io.h"
#include "storage/manifest.h"
#include "storage/pace.h"
#include "storage/store.h"

namespace varve::storage {

struct VerifyOptions {
  bool deep = false;  ///< unpack every frame and compare every chunk with its name, besides all checksums
  /// Set: read at this pace, from the disk where it can, and no further than until it is stopped. Must outlive the
  /// call.
  Pace* pace = nullptr;
};

enum class VerifyStatus : std::uint8_t {
  good,         ///< exit status 0
  unfinished,   ///< no damage, and a segment that was not sealed: the newest images may be absent. Exit status 3
  damage,       ///< exit status 1
  interrupted,  ///< no damage in what was read before the pace was stopped. Exit status 4
};

/// One thing that is wrong. Fields that do not apply are empty.
struct VerifyFinding {
  std::string file;  ///< where it lies, or should
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  std::string image;   ///< "main/3": hit by it
  std::string region;  ///< of that image
  ByteRange range;     ///< of that region
  std::string what;
  friend bool operator==(const VerifyFinding&, const VerifyFinding&) = default;
};

struct UnfinishedTail {
  std::string file;
  std::uint64_t offset = 0;  ///< end of the last whole image
  std::uint64_t bytes = 0;   ///< from there to the file's end
};

struct VerifyReport {
  VerifyStatus status = VerifyStatus::good;
  std::vector<VerifyFinding> findings;
  std::uint64_t findings_left_out = 0;  ///< beyond the bound of the list
  std::vector<ImageSummary> good;
  std::vector<ImageSummary> damaged;
  std::vector<UnfinishedTail> unfinished;
  std::uint64_t segments = 0;
  std::uint64_t records = 0;
  std::uint64_t chunks = 0;
  std::uint64_t bytes_read = 0;
  bool interrupted = false;  ///< not everything was read; `good` and `damaged` are those images that were judged
};

/// Errors: `not_found` when there is no store, `unsupported` for a newer format, `io`. Damage is in the report.
Result<VerifyReport> verify(Io& io, const VerifyOptions& options);

}  // namespace varve::storage
