// SPDX-License-Identifier: Apache-2.0
#include "engine/capture_copier.h"

#include "base/fault_point.h"

namespace varve {

std::size_t Copier::copy(const MemorySpan& span) {
  std::size_t done = 0;
  while (done < span.bytes) {
    if (extent_.memory == nullptr) {
      if (stop_ && pool_.must_grow() && stop_(bytes_ - copied_)) break;
      extent_ = pool_.acquire(stall_);
    }
    const Placed placed = place(extent_, span, done, chunk_bytes_);
    if (placed.bytes == 0) {
      publish();
      continue;
    }
    pages_.add(placed.to, span.begin + done, placed.bytes);
    done += placed.bytes;
    count(placed.bytes);
  }
  return done;
}

void Copier::count(std::size_t bytes) {
  const bool before = copied_ * 2 < bytes_;
  copied_ += bytes;
  if (before && copied_ * 2 >= bytes_) VARVE_FAULT_POINT(capture_half);
}

StagingStall Copier::finish() {
  if (extent_.memory != nullptr) publish();
  return stall_;
}

void Copier::publish() {
  pages_.fence();
  stream_.publish(extent_);
  extent_ = {};
}

}  // namespace varve
