// SPDX-License-Identifier: Apache-2.0
#include "storage/collect.h"

#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "base/check.h"
#include "base/fault_point.h"
#include "base/log.h"
#include "base/try.h"
#include "storage/chain_lock.h"
#include "storage/chain_writer.h"
#include "storage/collect_plan.h"
#include "storage/segment_mover.h"

namespace varve::storage {
namespace {

constexpr int kMaxRestarts = 5;

/// How much of a segment is alive: its frames and footer by the share of its chunks, and manifests as they are.
SegmentUse use_of(StoreImplementation& store, const CollectableSegment& segment, const Liveness& liveness) {
  SegmentUse use;
  use.ordinal = segment.ordinal;
  use.bytes = segment.bytes;
  const Liveness::Count count = liveness.in(segment.ordinal);
  std::uint64_t manifests = kSegmentHeaderBytes;
  for (const FooterImage& image : segment.images) manifests += image.begin + image.written_bytes - image.offset;
  const double share =
      segment.chunks == 0 ? 0 : static_cast<double>(count.chunks) / static_cast<double>(segment.chunks);
  const std::uint64_t rest = segment.bytes - std::min(segment.bytes, manifests);
  use.live_bytes = count.manifest_bytes + static_cast<std::uint64_t>(share * static_cast<double>(rest));
  use.live_chunks = count.chunks;
  use.keeps_notes = !store.notes_to_keep(segment.ordinal).empty();
  return use;
}

CollectPlan make_plan(StoreImplementation& store, std::string_view chain, const Liveness& liveness, double spare,
                      bool as_if_sealed, CollectReport& report) {
  std::vector<SegmentUse> candidates;
  std::vector<std::pair<SegmentUse, std::string>> others;
  report.segments = report.bytes = report.live_bytes = 0;
  for (const CollectableSegment& segment : store.segments_of(chain)) {
    const SegmentUse use = use_of(store, segment, liveness);
    ++report.segments;
    report.bytes += use.bytes;
    report.live_bytes += std::min(use.bytes, use.live_bytes);
    if (segment.why_not.empty() || as_if_sealed)
      candidates.push_back(use);
    else if (use.live_bytes < use.bytes / 2)
      report.left_alone.push_back(fmt::format("{}: {}", to_string(segment.name), segment.why_not));
  }
  CollectPlan plan = plan_collection(std::move(candidates), report.live_bytes, spare);
  report.planned_bytes = plan.freed_bytes;
  return plan;
}

class CollectorImplementation final : public Collector {
 public:
  CollectorImplementation(ChainWriterImplementation& writer, const CollectOptions& options)
      : store_(writer.store()), writer_(writer), options_(options) {}
  ~CollectorImplementation() override { give_up(); }

  Result<bool> run(const Pause& pause) override;
  const CollectReport& report() const override { return report_; }

 private:
  enum class Step : std::uint8_t { start, mark, copy, seal, remove, done };

  /// One step, or a part of it; false: paused.
  Result<bool> go_on(const Pause& pause);
  Status start();
  Result<bool> mark(const Pause& pause);
  Result<bool> copy(const Pause& pause);
  Status seal();
  Status remove();
  Status start_again();
  void leave_alone(std::uint32_t ordinal, const std::string& why);
  void give_up();
  void forget_plan();

  StoreImplementation& store_;
  ChainWriterImplementation& writer_;
  const CollectOptions options_;
  CollectReport report_;
  Step step_ = Step::start;
  int restarts_ = 0;
  std::unique_ptr<Liveness> liveness_;
  std::uint64_t collections_ = 0;                       // when it was marked
  std::vector<SegmentUse> waiting_;                     // to be rewritten, in order
  std::set<std::uint32_t> dead_;                        // of this round, nothing to copy
  std::set<std::uint32_t> moved_;                       // of this round, copied
  std::uint64_t copied_bytes_ = 0;                      // of this round
  std::unique_ptr<ChainWriterImplementation> sibling_;  // writes the copies
  std::unique_ptr<SegmentMover> mover_;
};

Result<bool> CollectorImplementation::run(const Pause& pause) {
  while (step_ != Step::done) {
    auto gone_on = go_on(pause);
    if (!gone_on && gone_on.error().code() != ErrorCode::busy) give_up();
    if (!gone_on) return gone_on.error();
    if (options_.progress) options_.progress(report_);
    if (!*gone_on) return false;
  }
  return true;
}

Result<bool> CollectorImplementation::go_on(const Pause& pause) {
  switch (step_) {
    case Step::start: VARVE_TRY(start()); break;
    case Step::mark: return mark(pause);
    case Step::copy: return copy(pause);
    case Step::seal: VARVE_TRY(seal()); break;
    case Step::remove: VARVE_TRY(remove()); break;
    case Step::done: break;
  }
  return true;
}

Status CollectorImplementation::start() {
  // Manifests of compaction and notes must be as safe as what they stand for: in a sealed and recorded segment. And
  // removals of an earlier collection must be durable before notes about what was removed may go.
  VARVE_TRY(writer_.seal());
  VARVE_TRY(store_.io().sync_directory(kSegmentFolder));
  VARVE_TRY(store_.refresh());
  VARVE_TRY(store_.check_collectable());
  liveness_ = std::make_unique<Liveness>(store_);
  collections_ = store_.collections();
  report_.left_alone.clear();
  step_ = Step::mark;
  return {};
}

Result<bool> CollectorImplementation::mark(const Pause& pause) {
  const auto held = store_.hold();
  if (!held) return held.error();
  VARVE_TRY(store_.refresh_if_collected());
  if (store_.collections() != collections_) {  // another chain was collected: a place that was marked may be gone
    VARVE_TRY(start_again());
    return true;
  }
  VARVE_TRY_ASSIGN(const bool all, liveness_->mark(pause));
  if (!all) return false;
  VARVE_FAULT_POINT(collection_marked);
  CollectPlan plan = make_plan(store_, writer_.chain(), *liveness_, options_.spare, false, report_);
  waiting_ = std::move(plan.rewrite);
  std::vector<std::uint32_t> leaving;
  for (const SegmentUse& segment : plan.dead) dead_.insert(segment.ordinal);
  for (const SegmentUse& segment : plan.dead) leaving.push_back(segment.ordinal);
  for (const SegmentUse& segment : waiting_) leaving.push_back(segment.ordinal);
  store_.set_leaving(leaving, true);
  // What is dead goes first: that needs no space, and gives some.
  step_ = !dead_.empty() ? Step::remove : waiting_.empty() ? Step::done : Step::copy;
  return true;
}

Result<bool> CollectorImplementation::copy(const Pause& pause) {
  if (sibling_ == nullptr) {
    VARVE_TRY_ASSIGN(sibling_, writer_.make_sibling());
  }
  while (!waiting_.empty() && copied_bytes_ < options_.round_bytes) {
    const SegmentUse& segment = waiting_.front();
    auto moved = [&]() -> Result<bool> {
      if (mover_ == nullptr) {
        VARVE_TRY_ASSIGN(mover_, SegmentMover::open(*liveness_, *sibling_, segment.ordinal,
                                                    store_.name_of_segment(segment.ordinal)));
      }
      return mover_->move(pause);
    }();
    if (moved && !*moved) return false;
    mover_.reset();
    if (moved) {
      moved_.insert(segment.ordinal);
      copied_bytes_ += segment.live_bytes;
    } else if (moved.error().code() == ErrorCode::corruption) {
      leave_alone(segment.ordinal, moved.error().cause());
    } else {
      return moved;
    }
    waiting_.erase(waiting_.begin());
  }
  step_ = Step::seal;
  return true;
}

Status CollectorImplementation::seal() {
  VARVE_TRY(sibling_->close());
  for (const CollectableSegment& segment : store_.segments_of(writer_.chain()))
    if (segment.name.writer == sibling_->id()) report_.bytes_rewritten += segment.bytes;
  sibling_.reset();
  copied_bytes_ = 0;
  VARVE_FAULT_POINT(collection_sealed);
  step_ = Step::remove;
  return {};
}

Status CollectorImplementation::remove() {
  VARVE_TRY_ASSIGN(const std::unique_ptr<Lock> alone, lock_store_exclusive(store_.io(), options_.patience_ms));
  VARVE_FAULT_POINT(collection_locked);
  VARVE_TRY(store_.refresh_held());
  VARVE_TRY(store_.check_collectable());
  // Another chain's collection may have removed the other place of a chunk that we were about to rely on.
  if (store_.collections() != collections_) return start_again();
  std::set<std::uint32_t> leaving = dead_;
  leaving.insert(moved_.begin(), moved_.end());
  VARVE_TRY_ASSIGN(const std::set<std::uint32_t> needed, liveness_->needed_by_newer(leaving));
  for (const std::uint32_t ordinal : needed) {
    leave_alone(ordinal, "an image that was written meanwhile needs it");
    leaving.erase(ordinal);
  }
  const std::vector<std::uint32_t> ordinals(leaving.begin(), leaving.end());
  if (!ordinals.empty()) {
    VARVE_TRY_ASSIGN(const std::uint64_t freed, store_.remove_segments(writer_.chain(), ordinals));
    report_.bytes_freed += freed;
  }
  for (const std::uint32_t ordinal : ordinals)
    ++(dead_.contains(ordinal) ? report_.segments_dropped : report_.segments_rewritten);
  dead_.clear();
  moved_.clear();
  VARVE_TRY(store_.refresh_held());
  collections_ = store_.collections();
  step_ = waiting_.empty() ? Step::done : Step::copy;
  return {};
}

Status CollectorImplementation::start_again() {
  forget_plan();
  step_ = Step::start;
  if (++restarts_ <= kMaxRestarts) return {};
  restarts_ = 0;
  return fail(ErrorCode::busy, {fmt::format("collecting garbage of chain '{}' was put off", writer_.chain()),
                                "other chains of the store are being collected all the time", "try again later"});
}

void CollectorImplementation::leave_alone(std::uint32_t ordinal, const std::string& why) {
  report_.left_alone.push_back(fmt::format("{}: {}", to_string(store_.name_of_segment(ordinal)), why));
  store_.set_leaving(std::span(&ordinal, 1), false);
}

/// What was copied is sealed even so: a segment that is being written can't be collected by the next one.
void CollectorImplementation::give_up() {
  mover_.reset();
  if (sibling_ != nullptr)
    if (auto closed = sibling_->close(); !closed)
      log::info("storage", "copies of a collection were not sealed: {}", closed.error().message());
  sibling_.reset();
  forget_plan();
}

void CollectorImplementation::forget_plan() {
  std::vector<std::uint32_t> ordinals(dead_.begin(), dead_.end());
  ordinals.insert(ordinals.end(), moved_.begin(), moved_.end());
  for (const SegmentUse& segment : waiting_) ordinals.push_back(segment.ordinal);
  store_.set_leaving(ordinals, false);
  waiting_.clear();
  dead_.clear();
  moved_.clear();
}

}  // namespace

double CollectReport::cost() const {
  const std::uint64_t net = net_freed();
  return net == 0 ? 0 : static_cast<double>(bytes_rewritten) / static_cast<double>(net);
}

std::unique_ptr<Collector> make_collector(Store& store, ChainWriter& writer, const CollectOptions& options) {
  auto& implementation = static_cast<ChainWriterImplementation&>(writer);
  VARVE_CHECK(&store == &implementation.store());
  return std::make_unique<CollectorImplementation>(implementation, options);
}

Result<CollectReport> estimate_collection(Store& store, std::string_view chain, const CollectOptions& options,
                                          const Assumption& assumption) {
  auto& implementation = static_cast<StoreImplementation&>(store);
  VARVE_TRY_ASSIGN(const std::shared_ptr<Lock> held, store.hold());
  VARVE_TRY(implementation.refresh_held());
  VARVE_TRY(implementation.check_collectable());
  Liveness liveness(implementation);
  VARVE_TRY(liveness.mark({}, assumption));
  CollectReport report;
  make_plan(implementation, chain, liveness, options.spare, true, report);
  return report;
}

}  // namespace varve::storage
