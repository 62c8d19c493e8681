// SPDX-License-Identifier: Apache-2.0
#include "engine/capture_stream.h"

#include <unistd.h>

#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "base/try.h"

namespace varve {
namespace {

// Faulting in for the next cut delays this image: a little after each extent, the rest of it later.
constexpr std::uint64_t kWarmUpNs = 500'000;

}  // namespace

StagedStream::StagedStream(std::shared_ptr<StagingPool> pool, std::shared_ptr<CaptureCostModel> costs)
    : owner_(getpid()), pool_(std::move(pool)), costs_(std::move(costs)) {
  filled_.reserve(64);
}

StagedStream::~StagedStream() {
  discard();
  // In a child of the program: the thread that reads ahead is not there, and can't be waited for.
  if (getpid() != owner_) static_cast<void>(live_.release());
}

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

void StagedStream::finish(std::unique_ptr<ForkHolder> holder, std::shared_ptr<LiveReader> live) {
  MutexLock lock(mutex_);
  VARVE_CHECK(!finished_);  // one cut per stream
  finished_ = true;
  if (!discarded_ && holder != nullptr) {
    finished_holder_ = std::move(holder);
    finished_live_ = std::move(live);
  }
  changed_.notify_one();
}

void StagedStream::discard() {
  if (getpid() != owner_) return;  // in a child of the program: all of it is the parent's, and locks may be held
  give_current_back();
  end();
  std::vector<Extent> unread;
  std::unique_ptr<ForkHolder> unread_holder;
  std::shared_ptr<LiveReader> unread_live;
  {
    MutexLock lock(mutex_);
    discarded_ = true;
    unread.assign(filled_.begin() + static_cast<std::ptrdiff_t>(taken_), filled_.end());
    taken_ = filled_.size();
    unread_holder = std::move(finished_holder_);
    unread_live = std::move(finished_live_);
  }
  for (const Extent& extent : unread) pool_->release(extent);
}

Result<std::optional<CapturedPiece>> StagedStream::next() {
  if (error_) return *error_;
  if (at_end_) return std::optional<CapturedPiece>();
  if (piece_ == current_.pieces) {
    if (Status advanced = advance(); !advanced) {
      error_ = advanced.error();
      end();
      return *error_;
    }
    if (source_ == Source::live) return std::optional(live_piece_);
    if (source_ == Source::none) {
      end();
      return std::optional<CapturedPiece>();
    }
  }
  const PieceRecord& record = *current_.record(piece_++);
  CapturedPiece piece;
  piece.region = record.region;
  piece.begin = record.begin;
  piece.content = {current_.memory + record.offset, record.bytes};
  piece.second_pass = read_live_ && source_ == Source::holder;
  return std::optional<CapturedPiece>(piece);
}

void StagedStream::end() {
  at_end_ = true;
  end_live();
  if (holder_ != nullptr) holder_->let_go();
}

void StagedStream::end_live() {
  live_.reset();
  if (live_memory_) pool_->release(*live_memory_);
  live_memory_.reset();
}

Status StagedStream::advance() {
  give_current_back();
  if (holder_ == nullptr) {
    if (take_staged())
      source_ = Source::staging;
    else if (holder_ != nullptr)
      VARVE_TRY(begin_held());
  }
  if (live_ != nullptr) VARVE_TRY(take_live());
  if (source_ == Source::none && holder_ != nullptr) {
    VARVE_TRY_ASSIGN(const std::optional<Extent> extent, holder_->next());
    if (!extent) return {};
    current_ = *extent;
    source_ = Source::holder;
  }
  taken_at_ns_ = monotonic_ns();
  return {};
}

Status StagedStream::begin_held() {
  read_live_ = unread_live_ != nullptr;
  if (!read_live_) return holder_->ask(holder_->spans());
  static_assert(LiveReadAhead::kMemoryBytes <= kExtentBytes);
  live_memory_ = pool_->try_acquire();
  live_ = std::make_unique<LiveReadAhead>(std::move(unread_live_), holder_->spans(),
                                          live_memory_ ? live_memory_->memory : nullptr);
  return {};
}

/// The next piece that is read in place; after the last one the holder is asked for the rest.
Status StagedStream::take_live() {
  if (const auto piece = live_->next()) {
    live_piece_ = *piece;
    live_bytes_ += piece->content.size();
    source_ = Source::live;
    return {};
  }
  auto rest = live_->take_rest();
  end_live();
  return holder_->ask(std::move(rest));
}

/// Waits for the next filled extent. False when there are no more; what is held, if anything, is ours then.
bool StagedStream::take_staged() {
  MutexLock lock(mutex_);
  while (taken_ == filled_.size() && !finished_) changed_.wait(mutex_);
  if (taken_ == filled_.size()) {
    holder_ = std::move(finished_holder_);
    unread_live_ = std::move(finished_live_);
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
  if (source_ != Source::none)
    costs_->consumed(source_ == Source::live ? live_piece_.content.size() : current_.used,
                     monotonic_ns() - taken_at_ns_);
  const bool staged = source_ == Source::staging;
  source_ = Source::none;
  const Extent extent = std::exchange(current_, {});
  piece_ = 0;
  if (!staged) return;
  pool_->release(extent);
  pool_->warm_up(kWarmUpNs);
}

}  // namespace varve
