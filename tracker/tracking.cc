// SPDX-License-Identifier: Apache-2.0
#include "tracker/tracking.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/try.h"
#include "tracker/forked.h"
#include "tracker/mappings.h"

namespace varve::tracker {
namespace {

constexpr std::uint64_t kSliceNs = 200'000;
constexpr std::size_t kSmallestSlice = std::size_t{256} << 10;
constexpr std::size_t kLargestSlice = std::size_t{64} << 20;
constexpr std::size_t kPagesAtOnce = 16384;  // for which a cut may have to wait: some 20 us

std::string name_of(PageRange range) { return fmt::format("tracking of memory {:#x}-{:#x}", range.begin, range.end); }

Error in_child(PageRange range) {
  return fail(ErrorCode::unsupported,
              {name_of(range) + " refused", "this process is a child forked by the one that tracks",
               "take checkpoints in the parent, or open the engine after the fork"});
}

// Calls visit(part) for parts of at most kPagesAtOnce pages.
template <class Visit>
void in_parts(PageRange range, Visit visit) {
  const std::size_t step = kPagesAtOnce * page_bytes();
  for (std::uintptr_t at = range.begin; at < range.end; at += std::min(step, range.end - at))
    visit(PageRange{at, at + std::min(step, range.end - at)});
}

}  // namespace

TrackingImpl::TrackingImpl(ServiceImpl& service, PageRange range, const void* owner, BackEnd* back_end, std::string why)
    : service_(service), range_(range), owner_(owner), added_to_(back_end), back_end_(back_end), why_(std::move(why)) {}

Result<std::unique_ptr<TrackingImpl>> TrackingImpl::create(ServiceImpl& service, PageRange range, const void* owner,
                                                           BackEnd* back_end, std::string why) {
  std::unique_ptr<TrackingImpl> made(new TrackingImpl(service, range, owner, back_end, std::move(why)));
  if (back_end == nullptr) return made;
  const bool has_ranges = back_end->protects() == Protects::ranges;
  const unsigned threshold = has_ranges ? cuts_until_cold(back_end->costs()) : 1;
  MutexLock lock(made->mutex_);
  if (made->pending_.allocate(range) && (!has_ranges || made->hotness_.allocate(range, threshold))) return made;
  return fail(ErrorCode::io,
              {name_of(range) + " failed", "there is no memory for its marks", "free memory, or track less"});
}

TrackingImpl::~TrackingImpl() {
  if (registered && !forked()) service_.end(*this);
}

BackEndKind TrackingImpl::back_end() const {
  const BackEnd* back_end = mechanism();
  return back_end == nullptr ? BackEndKind::hash : back_end->kind();
}

std::string TrackingImpl::why() const {
  if (forked()) return "inert in a forked child";
  MutexLock lock(mutex_);
  return why_;
}

PageRange TrackingImpl::clip(PageRange pages) const {
  const std::uintptr_t begin = std::max(pages.begin, range_.begin);
  return {begin, std::max(begin, std::min(pages.end, range_.end))};
}

// --- Cuts

Status TrackingImpl::cut(std::uint64_t epoch, PageRuns& suspects) {
  suspects.clear();
  if (forked()) return in_child(range_);
  const std::uint64_t began_ns = monotonic_ns();
  VARVE_TRY(check_mapped(range_));
  {
    MutexLock lock(mutex_);
    if (epoch <= pending_.last_epoch())
      return fail(ErrorCode::invalid_argument,
                  {fmt::format("cut {} of memory {:#x}-{:#x} refused", epoch, range_.begin, range_.end),
                   fmt::format("its last cut was {}", pending_.last_epoch()), "number cuts upwards"});
  }
  written_.clear();
  BackEnd* const back_end = mechanism();
  if (back_end == nullptr) {
    end_cut(epoch, began_ns, suspects);
  } else if (back_end->protects() == Protects::everything) {
    const GateAlone gate(service_.gate());
    service_.list_and_clear(*this, written_);
    end_cut(epoch, began_ns, suspects);
  } else {
    const GateShared gate(service_.gate());
    list_for_cut(*back_end);
    end_cut(epoch, began_ns, suspects);
  }
  return {};
}

Result<Seen> TrackingImpl::list(PageRuns& written) { return added_to_->list(range_, cut_buffer_, written); }

void TrackingImpl::list_for_cut(BackEnd& back_end) {
  const auto seen = list(written_);
  if (!seen.has_value()) {
    give_up(seen.error());
  } else if (*seen == Seen::lost) {
    start_anew(back_end);
  }
}

void TrackingImpl::start_anew(BackEnd& back_end) {
  log::info("tracker", "{}: lost (mapped over, moved, or descriptor closed), begins anew", name_of(range_));
  const Status again = back_end.add_again(range_);
  if (!again.has_value()) give_up(again.error());
  service_.report_lost(range_);
}

void TrackingImpl::give_up(const Error& error) {
  log::warn_once("tracker", fmt::format("{}: falls to hash: {}", name_of(range_), error.cause()));
  back_end_.store(nullptr, std::memory_order_release);
  MutexLock lock(mutex_);
  why_ = "can't be tracked any more: " + error.cause();
}

void TrackingImpl::end_cut(std::uint64_t epoch, std::uint64_t began_ns, PageRuns& suspects) {
  MutexLock lock(mutex_);
  pending_.begin_cut(epoch);
  if (mechanism() == nullptr)
    suspects.push_back(range_);
  else if (pending_.empty())
    suspects.swap(written_);
  else
    pending_.merge(written_, suspects);
  ++counters_.cuts;
  for (const PageRange& run : suspects) counters_.suspect_pages += run.size_bytes() / page_bytes();
  counters_.scan_ns += monotonic_ns() - began_ns;
}

// --- What becomes of suspects

void TrackingImpl::report(PageRange pages, Pending::Reporter reporter) {
  const PageRange part = clip(pages);
  if (part.begin == part.end) return;
  MutexLock lock(mutex_);
  pending_.report(part, reporter);
}

void TrackingImpl::report_whole() {
  MutexLock lock(mutex_);
  pending_.report_whole();
}

void TrackingImpl::touch(PageRange pages) {
  if (forked() || mechanism() == nullptr) return;
  report(pages, Pending::Reporter::other);
}

void TrackingImpl::committed(std::uint64_t epoch) {
  if (forked()) return;
  {
    MutexLock lock(mutex_);
    pending_.committed(epoch);
    if (added_to_ == nullptr) return;
  }
  std::optional<std::size_t> from = 0;
  while (from.has_value()) {
    MutexLock lock(mutex_);
    from = pending_.drop_committed(*from, kPagesAtOnce);
  }
}

void TrackingImpl::settled(const PageRuns& pages) {
  if (forked() || added_to_ == nullptr) return;
  for (const PageRange& run : pages)
    in_parts(clip(run), [this](PageRange part) {
      MutexLock lock(mutex_);
      pending_.settled(part);
    });
}

void TrackingImpl::unchanged(std::uint64_t epoch, const PageRuns& pages) {
  if (forked() || added_to_ == nullptr || added_to_->protects() != Protects::ranges) return;
  std::optional<std::uint64_t> number;
  {
    MutexLock lock(mutex_);
    number = pending_.cut_number(epoch);
  }
  if (!number.has_value()) return;
  for (const PageRange& run : pages)
    in_parts(clip(run), [this, number](PageRange part) {
      MutexLock lock(mutex_);
      hotness_.unchanged(*number, part);
    });
}

// --- Cooling

Status TrackingImpl::cool(PageRuns& cooled) {
  cooled.clear();
  if (forked()) return in_child(range_);
  MutexLock one_at_a_time(cooling_);
  BackEnd* const back_end = mechanism();
  if (back_end == nullptr || back_end->protects() != Protects::ranges) return {};
  bool any_cold = false;
  {
    MutexLock lock(mutex_);
    pending_.begin_cool();
    any_cold = hotness_.any_cold();
  }
  PageRuns ranges;
  if (!armed_)
    ranges.push_back(range_);
  else if (any_cold)
    ranges = plan(*back_end);
  if (!ranges.empty()) VARVE_TRY(back_end->begin_protecting());
  for (const PageRange& range : ranges) VARVE_TRY(protect_in_slices(*back_end, range, cooled));
  if (!std::exchange(armed_, true)) {
    std::optional<std::size_t> from = 0;
    while (from.has_value()) {
      MutexLock lock(mutex_);
      from = pending_.spread_whole(*from, kPagesAtOnce);
    }
  }
  return {};
}

PageRuns TrackingImpl::plan(BackEnd& back_end) {
  PageRuns written;
  PageRuns ranges;
  const auto seen = back_end.list(range_, cool_buffer_, written);
  if (!seen.has_value() || *seen == Seen::lost) return ranges;  // the next cut finds it too, and mends it
  MutexLock lock(mutex_);
  hotness_.take_cold(written, ranges);
  return ranges;
}

Result<Seen> TrackingImpl::protect_slice(BackEnd& back_end, PageRange slice, PageRuns& found) {
  const GateAlone gate(service_.gate());
  return service_.protect(back_end, slice, *this, cool_buffer_, found);
}

Status TrackingImpl::protect_in_slices(BackEnd& back_end, PageRange range, PageRuns& cooled) {
  for (std::uintptr_t at = range.begin; at < range.end;) {
    const PageRange slice{at, at + std::min(slice_bytes_, range.end - at)};
    const std::uint64_t began_ns = monotonic_ns();
    PageRuns found;
    const auto seen = protect_slice(back_end, slice, found);
    const std::uint64_t took_ns = monotonic_ns() - began_ns;
    if (took_ns > kSliceNs) slice_bytes_ = std::max(slice_bytes_ / 2, kSmallestSlice);
    if (took_ns < kSliceNs / 4 && slice.size_bytes() == slice_bytes_)
      slice_bytes_ = std::min(slice_bytes_ * 2, kLargestSlice);
    std::uint64_t pages = 0;
    for (const PageRange& run : found) {
      pages += run.size_bytes() / page_bytes();
      append_run(cooled, run);
    }
    {
      MutexLock lock(mutex_);
      counters_.protect_ns += took_ns;
      counters_.protected_pages += pages;
    }
    if (!seen.has_value()) return seen.error();
    if (*seen == Seen::lost) {
      const GateShared gate(service_.gate());
      start_anew(back_end);
      return {};
    }
    at = slice.end;
  }
  return {};
}

TrackingCounters TrackingImpl::counters() const {
  TrackingCounters counters;
  if (forked()) return counters;
  {
    MutexLock lock(mutex_);
    counters = counters_;
  }
  if (added_to_ != nullptr) counters.faults = added_to_->faults(range_);
  return counters;
}

}  // namespace varve::tracker
