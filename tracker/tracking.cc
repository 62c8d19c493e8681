// SPDX-License-Identifier: Apache-2.0
#include "tracker/tracking.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/try.h"
#include "tracker/forked.h"
#include "tracker/mappings.h"

namespace varve::tracker {
namespace {

constexpr std::uint64_t kSliceNs = 200'000;
/// For gathering huge pages in one cool(); an access of the program's may have to wait for one, some 0.3 ms.
constexpr std::uint64_t kGatherNs = 30'000'000;
constexpr std::size_t kSmallestSlice = std::size_t{256} << 10;
constexpr std::size_t kLargestSlice = std::size_t{64} << 20;
constexpr std::size_t kFewestPagesTimed = 256;  // fewer tell the clock's noise and the system call
constexpr std::size_t kPagesAtOnce = 16384;     // for which a cut may have to wait: some 20 us

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
  const Costs costs = has_ranges ? back_end->costs() : Costs{};
  MutexLock lock(made->mutex_);
  made->costs_ = costs;
  made->hotness_.set_worth(cuts_worth_protecting(costs));
  if (made->pending_.allocate(range) && (!has_ranges || made->hotness_.allocate(range))) return made;
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
    end_cut(epoch, began_ns, suspects, false);
  } else if (back_end->protects() == Protects::everything) {
    const GateAlone gate(service_.gate());
    service_.list_and_clear(*this, written_);
    end_cut(epoch, began_ns, suspects, true);
  } else {
    const GateShared gate(service_.gate());
    // Where all is pending all of it is suspect, whatever was written; also when that ends right now.
    const bool listed = !not_listed_.load(std::memory_order_acquire) && !all_pending();
    if (listed)
      list_for_cut(*back_end);
    else
      written_.push_back(range_);
    end_cut(epoch, began_ns, suspects, listed);
  }
  return {};
}

bool TrackingImpl::all_pending() const {
  MutexLock lock(mutex_);
  return pending_.whole();
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

void TrackingImpl::end_cut(std::uint64_t epoch, std::uint64_t began_ns, PageRuns& suspects, bool listed) {
  MutexLock lock(mutex_);
  pending_.begin_cut(epoch);
  if (mechanism() == nullptr)
    suspects.push_back(range_);
  else if (pending_.empty())
    suspects.swap(written_);
  else
    pending_.merge(written_, suspects);
  ++counters_.cuts;
  if (mechanism() != nullptr && not_listed_.load(std::memory_order_relaxed)) ++counters_.cuts_not_listed;
  for (const PageRange& run : suspects) counters_.suspect_pages += run.size_bytes() / page_bytes();
  const std::uint64_t took_ns = monotonic_ns() - began_ns;
  counters_.scan_ns += took_ns;
  const std::size_t pages = range_.size_bytes() / page_bytes();
  if (listed && pages >= kFewestPagesTimed)
    follow(costs_.list_ns, static_cast<double>(took_ns) / static_cast<double>(pages));
}

// --- Forks

bool TrackingImpl::watch_fork(std::uint64_t epoch, PageRange part) {
  if (clip(part) != part || forked()) return false;
  BackEnd* const back_end = mechanism();
  if (back_end == nullptr) return false;
  if (back_end->protects() == Protects::everything) return true;  // the cut has done it
  if (!back_end->shares_faults_with_fork() || !back_end->begin_protecting()) return false;
  const GateAlone gate(service_.gate());
  const auto seen = service_.protect_for_fork(*back_end, part, *this, epoch, cut_buffer_);
  if (!seen.has_value() || *seen == Seen::lost) return false;  // the next cut finds it too, and mends it
  // What a cool reported since the cut, the child holds. By the gate, none is between its marks and its report.
  MutexLock lock(mutex_);
  pending_.begin_fork(epoch);
  return true;
}

void TrackingImpl::changed_since_fork(std::uint64_t epoch, PageRange range, PageRuns& changed) {
  changed.clear();
  if (!tell_written_since(epoch, range, changed)) {
    changed.assign(1, range);
    return;
  }
  list_not_shared(range, changed);
}

bool TrackingImpl::tell_written_since(std::uint64_t epoch, PageRange range, PageRuns& pages) {
  if (clip(range) != range || forked() || mechanism() == nullptr) return false;
  const GateShared gate(service_.gate());
  const auto seen = added_to_->list(range, since_buffer_, pages);
  if (!seen.has_value() || *seen == Seen::lost) return false;
  MutexLock lock(mutex_);
  return pending_.since(epoch, range, pages);
}

/// What the program gave back, or pinned before the fork (a pinned page is copied by it, and a device may write it
/// unseen), or what was swapped out.
void TrackingImpl::list_not_shared(PageRange range, PageRuns& pages) {
  entries_.resize(range.size_bytes() / page_bytes());
  const long got = service_.pagemap().read_entries(range.begin, entries_);
  const std::size_t known = got < 0 ? 0 : static_cast<std::size_t>(got);
  for (std::size_t page = 0; page < entries_.size(); ++page) {
    const bool shared =
        page < known && (entries_[page] & (abi::kPagemapPresent | abi::kPagemapExclusive)) == abi::kPagemapPresent;
    if (shared) continue;
    const std::uintptr_t begin = range.begin + page * page_bytes();
    pages.push_back({begin, begin + page_bytes()});
  }
}

// --- What becomes of suspects

void TrackingImpl::report_suspects(PageRange pages, std::uint64_t epoch) {
  const PageRange part = clip(pages);
  if (part.begin == part.end) return;
  MutexLock lock(mutex_);
  pending_.report_suspects(part, epoch);
}

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

void TrackingImpl::reduced(std::uint64_t epoch, const Reduced& found) {
  if (forked() || added_to_ == nullptr || added_to_->protects() != Protects::ranges) return;
  std::optional<std::uint64_t> number;
  {
    MutexLock lock(mutex_);
    follow(costs_.visit_ns, found.visit_ns);
    hotness_.set_worth(cuts_worth_protecting(costs_));
    number = pending_.cut_number(epoch);
  }
  if (!number.has_value() || !armed_.load()) return;
  const auto tell = [this, number](PageRange pages, bool changed) {
    in_parts(clip(pages), [this, number, changed](PageRange part) {
      MutexLock lock(mutex_);
      hotness_.found(*number, part, changed);
    });
  };
  auto unchanged = found.unchanged.begin();
  for (const PageRange& run : found.suspects) {
    std::uintptr_t at = run.begin;
    for (; unchanged != found.unchanged.end() && unchanged->begin < run.end; ++unchanged) {
      if (unchanged->begin > at) tell({at, unchanged->begin}, true);
      tell({std::max(at, unchanged->begin), std::min(run.end, unchanged->end)}, false);
      at = std::min(run.end, unchanged->end);
    }
    if (at < run.end) tell({at, run.end}, true);
  }
}

// --- Cooling

Status TrackingImpl::cool(PageRuns& cooled) {
  cooled.clear();
  if (forked()) return in_child(range_);
  MutexLock one_at_a_time(cooling_);
  BackEnd* const back_end = mechanism();
  if (back_end == nullptr || back_end->protects() != Protects::ranges) return {};
  const bool first = !armed_.load();
  std::size_t written = range_.size_bytes() / page_bytes();
  PageRuns ranges;
  if (auto ahead = std::exchange(ahead_, {}); ahead && cuts() == ahead->cuts) {
    cooled = std::move(ahead->cooled);
    if (ahead->end < range_.end) ranges.push_back({ahead->end, range_.end});
  } else if (begin_cool(); first) {
    remember_huge_pages(*back_end);
    ranges.push_back(range_);
  } else {
    ranges = plan(*back_end, written);
  }
  if (!ranges.empty()) VARVE_TRY(back_end->begin_protecting());
  for (const PageRange& range : ranges) VARVE_TRY(protect_in_slices(*back_end, range, cooled));
  if (first)
    arm();
  else
    mark_cooled(cooled);
  std::size_t protected_pages = range_.size_bytes() / page_bytes();
  if (!first) {
    protected_pages -= written;
    for (const PageRange& run : cooled) protected_pages += run.size_bytes() / page_bytes();
  }
  decide_whether_to_list(protected_pages);
  gather_huge_pages();
  return {};
}

void TrackingImpl::cool_ahead(std::uintptr_t end) {
  if (forked()) return;
  MutexLock one_at_a_time(cooling_);
  BackEnd* const back_end = mechanism();
  if (back_end == nullptr || back_end->protects() != Protects::ranges || armed_.load()) return;
  if (!ahead_) {
    begin_cool();
    remember_huge_pages(*back_end);
    ahead_ = Ahead{range_.begin, cuts(), {}};
  }
  const PageRange part = clip({ahead_->end, std::max(ahead_->end, end)});
  if (part.begin == part.end || !back_end->begin_protecting()) return;
  // An error is cool()'s to tell: it comes to the same pages.
  if (protect_in_slices(*back_end, part, ahead_->cooled)) ahead_->end = part.end;
}

void TrackingImpl::begin_cool() {
  MutexLock lock(mutex_);
  pending_.begin_cool();
}

std::uint64_t TrackingImpl::cuts() const {
  MutexLock lock(mutex_);
  return pending_.cuts();
}

void TrackingImpl::remember_huge_pages(BackEnd& back_end) {
  PageRuns huge;
  const auto seen = back_end.list_huge(range_, cool_buffer_, huge);
  if (seen.has_value() && *seen == Seen::done) huge_blocks_.remember(range_, huge);
}

void TrackingImpl::gather_huge_pages() {
  const std::uint64_t began_ns = monotonic_ns();
  while (huge_blocks_.any() && monotonic_ns() - began_ns < kGatherNs) {
    const PageRange block = huge_blocks_.next_to_gather();
    if (block.size_bytes() == 0) return;
    const bool done = gather_huge_page(block);
    huge_blocks_.gathered(block, done);
    MutexLock lock(mutex_);
    if (done) ++counters_.gathered_huge_pages;
  }
}

void TrackingImpl::arm() {
  {
    MutexLock lock(mutex_);
    hotness_.armed(pending_.cuts());
  }
  armed_.store(true);
  std::optional<std::size_t> from = 0;
  while (from.has_value()) {
    MutexLock lock(mutex_);
    from = pending_.spread_whole(*from, kPagesAtOnce);
  }
}

void TrackingImpl::mark_cooled(const PageRuns& cooled) {
  for (const PageRange& run : cooled)
    in_parts(run, [this](PageRange part) {
      MutexLock lock(mutex_);
      hotness_.cooled(pending_.cuts(), part);
    });
}

PageRuns TrackingImpl::plan(BackEnd& back_end, std::size_t& written_pages) {
  PageRuns written;
  const auto seen = back_end.list(range_, cool_buffer_, written);
  if (!seen.has_value() || *seen == Seen::lost) {
    not_listed_.store(false, std::memory_order_release);  // the next cut finds it too, and mends it
    return {};
  }
  written_pages = 0;
  Hotness::ColdRanges cold;
  for (const PageRange& run : written) {
    written_pages += run.size_bytes() / page_bytes();
    in_parts(run, [&](PageRange part) {
      MutexLock lock(mutex_);
      hotness_.look_at(pending_.cuts(), part, cold);
    });
  }
  Hotness::finish(cold);
  if (huge_blocks_.any()) huge_blocks_.look_at(written, cold.ranges);
  return std::move(cold.ranges);
}

void TrackingImpl::decide_whether_to_list(std::size_t protected_pages) {
  MutexLock lock(mutex_);
  const double listing_ns = costs_.list_ns * static_cast<double>(range_.size_bytes() / page_bytes());
  const double visits_ns = costs_.visit_ns * static_cast<double>(protected_pages);
  const bool is_listed = !not_listed_.load(std::memory_order_relaxed);
  not_listed_.store(visits_ns < (is_listed ? 0.5 : 1.0) * listing_ns, std::memory_order_release);
}

Result<Seen> TrackingImpl::protect_slice(BackEnd& back_end, PageRange slice, PageRuns& found) {
  const GateAlone gate(service_.gate());
  return service_.protect(back_end, slice, *this, cool_buffer_, found);
}

std::uintptr_t TrackingImpl::end_of_slice(std::uintptr_t at, std::uintptr_t end) const {
  if (end - at <= slice_bytes_) return end;
  // An end within a huge page would split it.
  if (!huge_blocks_.any()) return at + slice_bytes_;
  const std::uintptr_t aligned = round_down(at + slice_bytes_, HugeBlocks::kBlockBytes);
  return aligned > at ? aligned : std::min(end, round_down(at, HugeBlocks::kBlockBytes) + HugeBlocks::kBlockBytes);
}

Status TrackingImpl::protect_in_slices(BackEnd& back_end, PageRange range, PageRuns& cooled) {
  for (std::uintptr_t at = range.begin; at < range.end;) {
    const PageRange slice{at, end_of_slice(at, range.end)};
    const std::uint64_t began_ns = monotonic_ns();
    PageRuns found;
    const auto seen = protect_slice(back_end, slice, found);
    const std::uint64_t took_ns = monotonic_ns() - began_ns;
    if (took_ns > kSliceNs) slice_bytes_ = std::max(slice_bytes_ / 2, kSmallestSlice);
    if (took_ns < kSliceNs / 4 && slice.end != range.end) slice_bytes_ = std::min(slice_bytes_ * 2, kLargestSlice);
    std::uint64_t pages = 0;
    for (const PageRange& run : found) {
      pages += run.size_bytes() / page_bytes();
      append_run(cooled, run);
    }
    {
      MutexLock lock(mutex_);
      counters_.protect_ns += took_ns;
      counters_.protected_pages += pages;
      if (pages >= kFewestPagesTimed)
        follow(costs_.protect_ns, static_cast<double>(took_ns) / static_cast<double>(pages));
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
    counters.mistakes = hotness_.mistakes();
  }
  if (added_to_ != nullptr) counters.faults = added_to_->faults(range_);
  return counters;
}

Costs TrackingImpl::costs() const {
  if (forked()) return {};
  MutexLock lock(mutex_);
  return costs_;
}

}  // namespace varve::tracker
