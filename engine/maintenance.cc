// SPDX-License-Identifier: Apache-2.0
#include "engine/maintenance.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/clock.h"
#include "base/log.h"

namespace varve {
namespace {

constexpr std::uint64_t kSlackImages = 8;
constexpr std::uint64_t kMostSlackImages = 64;
/// So many deltas behind a full image are made one even where that gives no space: they are read when one is restored.
constexpr std::uint64_t kMostImages = 1024;
constexpr std::uint64_t kSlackBytes = std::uint64_t{8} << 20;
constexpr std::uint64_t kSlackBytesAtTheEnd = std::uint64_t{64} << 10;
constexpr std::uint64_t kSliceNs = 1'000'000;  // at least, with each image
constexpr unsigned kPatienceMs = 20;           // images wait meanwhile
constexpr unsigned kPatienceAtTheEndMs = 2000;

/// What may be stored before a collection begins; it leaves about half of the garbage that is allowed.
constexpr std::uint64_t allowed_bytes(std::uint64_t live_bytes) { return live_bytes + live_bytes / 4; }
constexpr double kSpare = 0.1;
/// Beyond so many times that, images wait for the collection.
constexpr std::uint64_t kLimit = 3;

}  // namespace

void Maintenance::go_on(std::uint64_t line, std::uint64_t image_ns, const std::function<Demand()>& demand) {
  worked_ = true;
  ++images_since_;
  if (policy_.keep == 0 || demand() == Demand::all) return;
  const std::uint64_t begin_ns = monotonic_ns();
  if (collector_ == nullptr && images_since_ >= wait_for_) retain(line, false);
  // A store that grew to twice what is allowed gets as much time as the images themselves.
  const bool far_behind = store_.stored_bytes(chain_) > 2 * allowed_bytes(live_bytes_) + kSlackBytes;
  const std::uint64_t slice_ns = std::max(kSliceNs, far_behind ? image_ns : image_ns / 4);
  collect(
      [&] {
        const Demand now = demand();
        if (now == Demand::image && at_the_limit()) return false;
        return now == Demand::all || (now == Demand::image && monotonic_ns() - begin_ns >= slice_ns);
      },
      false);
}

std::uint64_t Maintenance::batch() const {
  return std::clamp<std::uint64_t>(policy_.keep, kSlackImages, kMostSlackImages);
}

bool Maintenance::at_the_limit() {
  // None is dropped while a collection is under way.
  if (images_since_ >= batch()) return true;
  // Before the first collection nobody knows what is alive.
  return live_bytes_ != 0 && store_.stored_bytes(chain_) > kLimit * allowed_bytes(live_bytes_) + kSlackBytes;
}

void Maintenance::finish(std::uint64_t line) {
  if (policy_.keep == 0 || !worked_) return;
  collector_.reset();  // begun anew, for all that was dropped since
  retain(line, true);
  collect({}, true);
}

void Maintenance::retain(std::uint64_t line, bool all) {
  const auto images = images_of(store_, chain_);
  const RetentionPlan plan = plan_retention(images, policy_, {line}, store_.chunk_bytes());
  images_since_ = 0;
  // Each turn costs the manifest of a full image or more.
  const bool pays =
      plan.drop.size() >= batch() && (plan.drop_bytes >= plan.compact_bytes || plan.drop.size() >= kMostImages);
  wait_for_ = plan.drop.size() >= batch() ? batch() : batch() - plan.drop.size();
  if (plan.drop.empty() || !(pays || all)) return;
  wait_for_ = batch();
  const auto retained = apply_retention(store_, writer_, chain_, plan);
  if (!retained) return failed(retained.error());
  dropped_ = true;
  const MutexLock lock(mutex_);
  status_.images_dropped += retained->dropped;
  status_.images_compacted += retained->compacted;
  before_.images_dropped = status_.images_dropped;
  before_.images_compacted = status_.images_compacted;
}

bool Maintenance::collection_due(bool at_the_end) {
  const std::uint64_t stored = store_.stored_bytes(chain_);
  // What was alive when the last collection looked may be garbage since: after a drop only looking tells.
  if (at_the_end) return dropped_ || stored > live_bytes_ + live_bytes_ / 8 + kSlackBytesAtTheEnd;
  return dropped_ && stored > std::max(allowed_bytes(live_bytes_) + kSlackBytes, retry_at_bytes_);
}

void Maintenance::collect(const storage::Pause& pause, bool at_the_end) {
  if (collector_ == nullptr) {
    if (!collection_due(at_the_end)) return;
    storage::CollectOptions options;
    options.spare = kSpare;
    options.patience_ms = at_the_end ? kPatienceAtTheEndMs : kPatienceMs;
    collector_ = storage::make_collector(store_, writer_, options);
  }
  const auto done = collector_->run(pause);
  const storage::CollectReport& report = collector_->report();
  count(report, done && *done);
  if (!done && done.error().code() == ErrorCode::busy) {
    // Somebody reads: nothing is wrong, and the next image tries again.
    log::info("engine", "{}", done.error().message());
    return;
  }
  if (done && !*done) return;
  const std::uint64_t stored = store_.stored_bytes(chain_);
  live_bytes_ = done ? std::min(report.live_bytes, stored) : live_bytes_;
  dropped_ = dropped_ && !done;
  // Not at once again what could not be done, or was not worth it.
  retry_at_bytes_ = stored + std::max(kSlackBytes, stored / 8);
  if (!done) failed(done.error());
  collector_.reset();
}

void Maintenance::count(const storage::CollectReport& report, bool finished) {
  const MutexLock lock(mutex_);
  status_.segments_dropped = before_.segments_dropped + report.segments_dropped;
  status_.segments_rewritten = before_.segments_rewritten + report.segments_rewritten;
  status_.bytes_freed = before_.bytes_freed + report.bytes_freed;
  status_.bytes_rewritten = before_.bytes_rewritten + report.bytes_rewritten;
  status_.live_bytes = report.live_bytes;
  status_.collecting = !finished;
  if (finished) ++status_.collections;
  if (finished) before_ = status_;
}

void Maintenance::failed(const Error& error) {
  log::info("engine", "maintenance of chain '{}': {}", chain_, error.message());
  const MutexLock lock(mutex_);
  ++status_.failures;
  status_.last_failure = error.message();
  status_.collecting = false;
  before_ = status_;
}

MaintenanceStatus Maintenance::status() {
  const std::uint64_t stored = store_.stored_bytes(chain_);
  const MutexLock lock(mutex_);
  MaintenanceStatus status = status_;
  status.stored_bytes = stored;
  return status;
}

}  // namespace varve
