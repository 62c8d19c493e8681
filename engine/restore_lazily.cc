// SPDX-License-Identifier: Apache-2.0
//
// What an engine does about a lazy restore: hands regions over, waits for them, gives up (lazy_restore.h).
#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "base/log.h"
#include "base/try.h"
#include "engine/engine_implementation.h"
#include "engine/mapping.h"

namespace varve {

std::unique_ptr<LazyRestore> EngineImplementation::open_lazily(const std::shared_ptr<const ResolvedImage>& resolved) {
  LazyStatus status;
  status.image = to_string(ImageName{resolved->manifest.chain, resolved->manifest.number});
  const auto open = [&]() -> Result<std::unique_ptr<LazyRestore>> {
    VARVE_TRY_ASSIGN(auto held, store_->hold());
    return LazyRestore::create({*store_, resolved, std::move(held), std::max(1U, options_.threads)});
  };
  auto lazily = open();
  if (!lazily) {
    status.eager_why = fmt::format("{}: {}", lazily.error().what(), lazily.error().cause());
    log::warn_once("engine", fmt::format("a lazy restore falls back to an eager one: {}", lazily.error().message()));
  }
  MutexLock lock(lazy_mutex_);
  lazy_status_ = std::move(status);
  return lazily ? std::move(*lazily) : nullptr;
}

void EngineImplementation::take_lazily(LazyRestore& lazily, std::vector<FillTarget>& targets) {
  std::vector<AddressRange> mappings;
  auto found = private_anonymous_mappings();
  if (found) mappings = std::move(*found);
  for (auto& target : targets) {
    const auto& region = regions_.all().find(target.record->name)->second;
    if (region->tracking != nullptr) region->tracking->expect_drop();
    region->tracking.reset();  // a page belongs to one userfaultfd: tracked again once it is in place
    const auto taken = lazily.take(region, target, mappings);
    for (const auto& range : taken) insert_range(target.kept, range);
    target.wanted = subtract(target.wanted, region->grid.inside(taken));
  }
  MutexLock lock(lazy_mutex_);
  lazy_status_.eager_why = found ? lazily.left_why() : found.error().message();
}

std::shared_ptr<LazyRestore> EngineImplementation::lazy() {
  MutexLock lock(lazy_mutex_);
  return lazy_;
}

void EngineImplementation::set_lazy(std::unique_ptr<LazyRestore> lazily) {
  MutexLock lock(lazy_mutex_);
  lazy_ = std::move(lazily);
}

LazyStatus EngineImplementation::lazy_status() {
  if (!owner_.is_this()) return {};
  MutexLock lock(lazy_mutex_);
  LazyStatus status = lazy_status_;
  if (lazy_ == nullptr) return status;
  status.streaming = !lazy_->over();
  status.lazy_bytes = lazy_->lazy_bytes();
  status.placed_bytes = lazy_->placed_bytes();
  status.faults = lazy_->faults();
  if (const auto failure = lazy_->failure()) status.failure = failure->message();
  return status;
}

void EngineImplementation::retire_lazy() {
  LazyStatus last = lazy_status();
  last.streaming = false;
  std::shared_ptr<LazyRestore> retired;  // ends without the lock
  MutexLock lock(lazy_mutex_);
  lazy_status_ = std::move(last);
  retired.swap(lazy_);
}

bool EngineImplementation::restoring_lazily() {
  const auto streaming = lazy();
  return streaming != nullptr && !streaming->over();
}

Status EngineImplementation::settle() {
  const auto streaming = lazy();
  if (streaming == nullptr) return {};
  VARVE_TRY(streaming->wait());
  retire_lazy();
  return {};
}

Status EngineImplementation::wait_restored() {
  VARVE_TRY(check_process(fmt::format("wait for the lazy restore of chain '{}'", options_.chain)));
  // Without api_mutex_: other threads may go on. Another restore may have taken its place: then for that one.
  while (const auto streaming = lazy()) {
    const Status ended = streaming->wait();
    if (!ended || streaming == lazy()) return ended;
  }
  return {};
}

Status EngineImplementation::abandon_lazy() {
  const auto streaming = lazy();
  if (streaming == nullptr) return {};
  streaming->stop();
  if (!streaming->in_place()) half_restored_ = streaming->image();
  streaming->release();
  retire_lazy();
  for (const auto& [name, region] : regions_.all()) VARVE_TRY(track_again(*region));
  return {};
}

Status EngineImplementation::end_lazy() {
  const Status settled = settle();
  if (const auto failed = lazy(); failed != nullptr) {
    failed->end();
    retire_lazy();
  }
  return settled;
}

Status EngineImplementation::track_again(Region& region) const {
  const auto pages = region.whole_pages();
  if (region.tracking != nullptr || pages.size_bytes() == 0) return {};
  auto& service = tracker::Service::process();
  auto tracking = service.track(pages, wanted_.tracker, this);
  if (!tracking) {  // what protect() got is not to be had any more: everything is looked at instead
    log::warn_once("engine", tracking.error().message());
    tracking = service.track(pages, tracker::BackEndKind::hash, this);
  }
  if (!tracking) return tracking.error();
  region.tracking = std::move(*tracking);
  region.counted = {};
  return {};
}

}  // namespace varve
