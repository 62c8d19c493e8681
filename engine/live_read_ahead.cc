// SPDX-License-Identifier: Apache-2.0
#include "engine/live_read_ahead.h"

#include <utility>

#include "base/processors.h"
#include "base/signals.h"

namespace varve {
namespace {

/// Less is read before a thread has started.
constexpr std::size_t kWorthAThread = std::size_t{8} << 20;

bool is_worth_a_thread(const std::vector<MemorySpan>& held) {
  std::size_t bytes = 0;
  for (const MemorySpan& span : held) bytes += span.bytes;
  return bytes >= kWorthAThread && usable_processors() > 1;
}

}  // namespace

LiveReadAhead::LiveReadAhead(std::shared_ptr<LiveReader> reader, std::vector<MemorySpan> held, std::byte* memory,
                             Ahead ahead)
    : reader_(std::move(reader)) {
  if (memory == nullptr) {
    own_memory_ = storage::AlignedBuffer(kMemoryBytes);
    memory = own_memory_.data();
  }
  for (std::size_t i = 0; i < kBlocks; ++i) blocks_[i].memory = memory + i * LiveReader::kBlockBytes;
  const bool wanted = ahead == Ahead::always || (ahead == Ahead::automatic && is_worth_a_thread(held));
  reader_->begin(std::move(held));
  if (wanted) start();
}

LiveReadAhead::~LiveReadAhead() {
  if (!thread_.has_value()) return;
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    room_.notify_one();
  }
  pthread_join(*thread_, nullptr);
}

/// Niceness and processors are those of the consumer, which starts it.
void LiveReadAhead::start() {
  const BlockedSignals blocked;  // inherited by the thread
  pthread_t thread;
  const int refused = pthread_create(
      &thread, nullptr,
      [](void* self) -> void* {
        static_cast<LiveReadAhead*>(self)->run();
        return nullptr;
      },
      this);
  if (refused == 0) thread_ = thread;
}

void LiveReadAhead::run() {
  pthread_setname_np(pthread_self(), "varve-reader");
  while (true) {
    std::uint64_t next = 0;
    {
      MutexLock lock(mutex_);
      if (read_ - returned_ == kBlocks)
        while (read_ - returned_ > kBlocks / 2 && !stopping_) room_.wait(mutex_);
      if (stopping_) return;
      next = read_;
    }
    const bool any = reader_->read(blocks_[next % kBlocks]);
    MutexLock lock(mutex_);
    if (any)
      ++read_;
    else
      at_end_ = true;
    changed_.notify_one();
    if (!any) return;
  }
}

bool LiveReadAhead::take_block() {
  if (!thread_.has_value()) {
    used_ = reader_->read(blocks_.front()) ? &blocks_.front() : nullptr;
    return used_ != nullptr;
  }
  MutexLock lock(mutex_);
  if (used_ != nullptr && read_ - ++returned_ == kBlocks / 2) room_.notify_one();
  used_ = nullptr;
  while (read_ == returned_ && !at_end_) changed_.wait(mutex_);
  if (read_ == returned_) return false;
  used_ = &blocks_[returned_ % kBlocks];
  return true;
}

std::optional<CapturedPiece> LiveReadAhead::next() {
  if (used_ == nullptr || piece_ == used_->pieces.size()) {
    if (!take_block()) return {};
    piece_ = 0;
  }
  return used_->pieces[piece_++];
}

}  // namespace varve
