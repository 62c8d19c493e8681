// SPDX-License-Identifier: Apache-2.0
#include "varve/safe_point.h"

#include <algorithm>
#include <string>
#include <utility>

#include <fmt/format.h>

namespace varve {

void SafePoint::enter() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return !wanted_; });
  ++inside_;
}

void SafePoint::leave() {
  const std::lock_guard lock(mutex_);
  --inside_;
  if (wanted_) changed_.notify_all();
}

void SafePoint::stand() {
  leave();
  enter();
}

Status SafePoint::cut(const std::function<Status()>& body, std::chrono::milliseconds patience) {
  // Longer is for ever, since sums and conversions of such times overflow.
  constexpr std::chrono::milliseconds kLongest = std::chrono::hours(24 * 365);
  const auto deadline = std::chrono::steady_clock::now() + std::min(patience, kLongest);
  const auto wait = [&](std::unique_lock<std::mutex>& lock, const auto& condition) {
    if (patience <= kLongest) return changed_.wait_until(lock, deadline, condition);
    changed_.wait(lock, condition);
    return true;
  };
  const auto too_late = [&](std::string cause) {
    return fail(ErrorCode::busy, {"cut at a safe point refused", std::move(cause),
                                  "let each worker call pass() more often, step out while it blocks, or wait longer"});
  };

  std::unique_lock lock(mutex_);
  if (!wait(lock, [&] { return !wanted_; }))
    return too_late(fmt::format("another cut took longer than {} ms", patience.count()));
  wanted_ = true;
  const bool all_stand = wait(lock, [&] { return inside_ == 0; });
  const std::size_t missing = inside_;
  Status status;
  if (all_stand) {
    // Without the mutex, so that workers that come meanwhile sleep on the condition and not on a lock.
    lock.unlock();
    status = body();
    lock.lock();
  }
  wanted_ = false;
  changed_.notify_all();
  if (all_stand) return status;
  return too_late(
      fmt::format("{} of its workers did not come to a safe point within {} ms", missing, patience.count()));
}

Status SafePoint::Worker::cut(const std::function<Status()>& body, std::chrono::milliseconds patience) {
  const Outside outside(*this);
  return point_.cut(body, patience);
}

}  // namespace varve
