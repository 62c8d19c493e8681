// SPDX-License-Identifier: Apache-2.0
#include "engine/capture_stream.h"

#include <unistd.h>

#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "base/try.h"

namespace varve {
namespace {

// Faulting in for the next cut delays this image: a little after each extent, the rest of it with later images.
constexpr std::uint64_t kWarmUpNs = 500'000;
constexpr std::uint64_t kWarmUpAtEndNs = 20'000'000;

}  // namespace

StagedStream::StagedStream(std::shared_ptr<StagingPool> pool, std::shared_ptr<CaptureCostModel> costs)
    : owner_(getpid()), pool_(std::move(pool)), costs_(std::move(costs)) {
  filled_.reserve(64);
}

StagedStream::~StagedStream() { discard(); }

void StagedStream::publish(const Extent& extent) {
  {
    MutexLock lock(mutex_);
    if (!discarded_) {
      filled_.push_back(extent);
      changed_.notify_one();
      return;
    }
  }
  pool_->release(extent);
}

void StagedStream::finish(std::unique_ptr<ForkHolder> holder) {
  MutexLock lock(mutex_);
  VARVE_CHECK(!finished_);  // one cut per stream
  finished_ = true;
  if (!discarded_) finished_holder_ = std::move(holder);
  changed_.notify_one();
}

void StagedStream::discard() {
  if (getpid() != owner_) return;  // in a child of the program: all of it is the parent's, and locks may be held
  give_current_back();
  holder_.reset();
  at_end_ = true;
  std::vector<Extent> unread;
  std::unique_ptr<ForkHolder> unread_holder;
  {
    MutexLock lock(mutex_);
    discarded_ = true;
    unread.assign(filled_.begin() + static_cast<std::ptrdiff_t>(taken_), filled_.end());
    taken_ = filled_.size();
    unread_holder = std::move(finished_holder_);
  }
  for (const Extent& extent : unread) pool_->release(extent);
}

Result<std::optional<CapturedPiece>> StagedStream::next() {
  if (error_) return *error_;
  if (at_end_) return std::optional<CapturedPiece>();
  if (piece_ == current_.pieces) {
    if (Status advanced = advance(); !advanced) {
      error_ = advanced.error();
      holder_.reset();
      return *error_;
    }
    if (source_ == Source::none) {
      at_end_ = true;
      holder_.reset();
      pool_->warm_up(kWarmUpAtEndNs);
      return std::optional<CapturedPiece>();
    }
  }
  const PieceRecord& record = *current_.record(piece_++);
  CapturedPiece piece;
  piece.region = record.region;
  piece.begin = record.begin;
  piece.content = {current_.memory + record.offset, record.bytes};
  return std::optional<CapturedPiece>(piece);
}

Status StagedStream::advance() {
  give_current_back();
  if (holder_ == nullptr && take_staged()) {
    source_ = Source::staging;
  } else if (holder_ != nullptr) {
    VARVE_TRY_ASSIGN(const std::optional<Extent> extent, holder_->next());
    if (!extent) return {};
    current_ = *extent;
    source_ = Source::holder;
  }
  taken_at_ns_ = monotonic_ns();
  return {};
}

/// Waits for the next filled extent. False when there are no more; the holder, if any, is ours then.
bool StagedStream::take_staged() {
  MutexLock lock(mutex_);
  while (taken_ == filled_.size() && !finished_) changed_.wait(mutex_);
  if (taken_ == filled_.size()) {
    holder_ = std::move(finished_holder_);
    return false;
  }
  current_ = filled_[taken_++];
  if (taken_ == filled_.size()) {  // all read: the list starts over, and stays as short as staging is
    filled_.clear();
    taken_ = 0;
  }
  return true;
}

void StagedStream::give_current_back() {
  if (source_ != Source::none) costs_->consumed(current_.used, monotonic_ns() - taken_at_ns_);
  const bool staged = source_ == Source::staging;
  source_ = Source::none;
  const Extent extent = std::exchange(current_, {});
  piece_ = 0;
  if (!staged) return;
  pool_->release(extent);
  pool_->warm_up(kWarmUpNs);
}

}  // namespace varve
