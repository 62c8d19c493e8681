// SPDX-License-Identifier: Apache-2.0
//
// The way of one cut's content from the program's thread to the consumer: a queue of filled extents, then (perhaps)
// what a holder has: what can be read in place first, the rest extent by extent.
//
// Threads: publish and finish by the thread in capture(); next and discard by the consumer.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/mutex.h"
#include "engine/capture.h"
#include "engine/capture_cost.h"
#include "engine/capture_extent.h"
#include "engine/fork_holder.h"
#include "engine/live_read_ahead.h"
#include "engine/live_reader.h"
#include "engine/staging.h"

namespace varve {

class StagedStream final : public CaptureStream {
 public:
  StagedStream(std::shared_ptr<StagingPool> pool, std::shared_ptr<CaptureCostModel> costs);
  ~StagedStream() override;

  Result<std::optional<CapturedPiece>> next() override;
  void discard() override;
  std::uint64_t live_bytes() const override { return live_bytes_; }

  /// Gives a filled extent to the consumer; straight back to the pool when nobody wants it any more.
  void publish(const Extent& extent);
  /// Nothing more is copied; what `holder` has, if any, follows: first what `live`, if any, can read in its place.
  void finish(std::unique_ptr<ForkHolder> holder, std::shared_ptr<LiveReader> live);

 private:
  enum class Source : std::uint8_t { none, staging, live, holder };
  /// Makes the next extent the current one; Source::none at the end.
  Status advance();
  void give_current_back();
  bool take_staged();
  /// After what was staged.
  Status begin_held();
  Status take_live();
  void end();
  void end_live();

  const pid_t owner_;
  const std::shared_ptr<StagingPool> pool_;
  const std::shared_ptr<CaptureCostModel> costs_;

  Mutex mutex_;
  Condition changed_;
  std::vector<Extent> filled_ VARVE_GUARDED_BY(mutex_);
  std::size_t taken_ VARVE_GUARDED_BY(mutex_) = 0;  // of filled_
  bool finished_ VARVE_GUARDED_BY(mutex_) = false;
  bool discarded_ VARVE_GUARDED_BY(mutex_) = false;
  std::unique_ptr<ForkHolder> finished_holder_ VARVE_GUARDED_BY(mutex_);
  std::shared_ptr<LiveReader> finished_live_ VARVE_GUARDED_BY(mutex_);

  // The consumer's own.
  std::unique_ptr<ForkHolder> holder_;
  std::shared_ptr<LiveReader> unread_live_;
  std::optional<Extent> live_memory_;    // staging that nobody needs, warm as it is
  std::unique_ptr<LiveReadAhead> live_;  // while there is more to read in place
  CapturedPiece live_piece_;
  std::uint64_t live_bytes_ = 0;
  bool read_live_ = false;
  std::optional<Error> error_;
  bool at_end_ = false;
  Extent current_;
  Source source_ = Source::none;
  std::uint32_t piece_ = 0;
  std::uint64_t taken_at_ns_ = 0;
};

}  // namespace varve
