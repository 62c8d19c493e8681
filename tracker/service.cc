// SPDX-License-Identifier: Apache-2.0
#include "tracker/service.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <utility>

#include <fmt/format.h>

#include "base/bytes.h"
#include "base/log.h"
#include "base/try.h"
#include "tracker/forked.h"
#include "tracker/mappings.h"
#include "tracker/mprotect_back_end.h"
#include "tracker/soft_dirty_back_end.h"
#include "tracker/tracking.h"
#include "tracker/uffd_back_end.h"

namespace varve::tracker {
namespace {

constexpr std::array kNames = {std::pair{BackEndKind::uffd, "uffd"}, std::pair{BackEndKind::soft_dirty, "soft-dirty"},
                               std::pair{BackEndKind::mprotect, "mprotect"}, std::pair{BackEndKind::hash, "hash"}};

// Makes one, and says in `reason` why not, or how.
std::unique_ptr<BackEnd> make(BackEndKind kind, std::string& reason) {
  const auto take = [&reason](auto made) -> std::unique_ptr<BackEnd> {
    if (made.has_value()) return std::move(made).value();
    reason = made.error().what() + ": " + made.error().cause();
    return nullptr;
  };
  switch (kind) {
    case BackEndKind::uffd: {
      auto made = UffdBackEnd::create();
      if (made.has_value()) reason = (*made)->remark();
      return take(std::move(made));
    }
    case BackEndKind::soft_dirty: return take(SoftDirtyBackEnd::create());
    case BackEndKind::mprotect: return take(MprotectBackEnd::create());
    case BackEndKind::hash: break;
  }
  return nullptr;
}

}  // namespace

std::string_view to_string(BackEndKind kind) {
  for (const auto& [known, name] : kNames)
    if (known == kind) return name;
  return "unknown";
}

std::optional<BackEndKind> parse_back_end(std::string_view text) {
  for (const auto& [kind, name] : kNames)
    if (name == text) return kind;
  return std::nullopt;
}

std::size_t page_bytes() {
  static const auto bytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

Service& Service::process() {
  static auto* service = new ServiceImpl();  // never destroyed: Trackings may outlive main()
  return *service;
}

ServiceImpl::ServiceImpl() {
  mark_process();
  page_bytes();  // known before a signal handler may ask
}

// --- Choosing

Mechanism& ServiceImpl::tried(BackEndKind kind) {
  Mechanism& mechanism = kind == BackEndKind::uffd ? uffd_ : kind == BackEndKind::soft_dirty ? soft_dirty_ : mprotect_;
  if (!std::exchange(mechanism.tried, true)) {
    mechanism.back_end = make(kind, mechanism.reason);
    log::info("tracker", "{}: {} {}", to_string(kind), mechanism.back_end ? "works" : "does not work",
              mechanism.reason);
  }
  return mechanism;
}

Result<ServiceImpl::Choice> ServiceImpl::choose(std::optional<BackEndKind> wanted, const void* owner) {
  if (wanted == BackEndKind::hash) return Choice{nullptr, "asked for"};
  const bool held = soft_dirty_users_ > 0 && soft_dirty_owner_ != owner;
  const auto soft_dirty_or_hash = [held](Mechanism& mechanism, const std::string& why) {
    if (!held) return Choice{&mechanism, why};
    return Choice{nullptr, "soft-dirty serves one engine of a process, and another one has it"};
  };
  if (wanted.has_value()) {
    Mechanism& mechanism = tried(*wanted);
    if (mechanism.back_end == nullptr)
      return fail(ErrorCode::unsupported, {fmt::format("tracking by {} refused", to_string(*wanted)), mechanism.reason,
                                           "leave the choice of the tracker to Varve, or choose another one"});
    if (*wanted == BackEndKind::soft_dirty) return soft_dirty_or_hash(mechanism, "asked for");
    return Choice{&mechanism, "asked for"};
  }
  Mechanism& uffd = tried(BackEndKind::uffd);
  if (uffd.back_end != nullptr) return Choice{&uffd, uffd.reason};
  Mechanism& soft_dirty = tried(BackEndKind::soft_dirty);
  if (soft_dirty.back_end != nullptr) return soft_dirty_or_hash(soft_dirty, uffd.reason);
  return Choice{nullptr, uffd.reason + "; " + soft_dirty.reason};
}

std::vector<BackEndReport> ServiceImpl::probe() {
  std::vector<BackEndReport> reports;
  if (forked()) return reports;
  MutexLock lock(registration_);
  for (const auto kind : {BackEndKind::uffd, BackEndKind::soft_dirty, BackEndKind::mprotect}) {
    const Mechanism& mechanism = tried(kind);
    reports.push_back({.kind = kind, .available = mechanism.back_end != nullptr, .reason = mechanism.reason});
  }
  reports.push_back({.kind = BackEndKind::hash, .available = true, .reason = ""});
  return reports;
}

Costs ServiceImpl::costs(BackEndKind kind) {
  if (forked()) return {};
  if (kind == BackEndKind::uffd || kind == BackEndKind::mprotect) {
    MutexLock lock(registration_);
    if (BackEnd* const back_end = tried(kind).back_end.get(); back_end != nullptr) return back_end->costs();
  }
  return {.visit_ns = measure_visit_ns()};
}

// --- Registering

Status ServiceImpl::add(Mechanism& mechanism, PageRange range) {
  const PageRuns fresh = mechanism.users.add(range);
  for (auto part = fresh.begin(); part != fresh.end(); ++part) {
    const Status added = mechanism.back_end->add(*part);
    if (added.has_value()) continue;
    for (auto done = fresh.begin(); done != part; ++done) mechanism.back_end->remove(*done);
    mechanism.users.remove(range);
    return added;
  }
  return {};
}

void ServiceImpl::remove(Mechanism& mechanism, PageRange range, bool drop_expected) {
  for (const PageRange& part : mechanism.users.remove(range)) {
    if (drop_expected)
      mechanism.back_end->remove_before_drop(part);
    else
      mechanism.back_end->remove(part);
  }
}

Result<std::unique_ptr<Tracking>> ServiceImpl::track(PageRange range, std::optional<BackEndKind> wanted,
                                                     const void* owner) {
  const std::string what = fmt::format("tracking of memory {:#x}-{:#x} refused", range.begin, range.end);
  if (forked())
    return fail(ErrorCode::unsupported, {what, "this process is a child forked by the one that tracks",
                                         "take checkpoints in the parent, or open the engine after the fork"});
  const bool aligned =
      round_down(range.begin, page_bytes()) == range.begin && round_down(range.end, page_bytes()) == range.end;
  if (!aligned || range.begin >= range.end)
    return fail(ErrorCode::invalid_argument,
                {what, "it is not a run of whole pages", "round it out to pages, and leave empty ranges alone"});
  VARVE_TRY(check_mapped(range));

  MutexLock lock(registration_);
  VARVE_TRY_ASSIGN(Choice choice, choose(wanted, owner));
  if (choice.mechanism != nullptr) {
    const Status added = add(*choice.mechanism, range);
    if (!added.has_value()) {
      if (wanted.has_value()) return added.error();
      choice = {nullptr, added.error().cause()};
    }
  }
  BackEnd* const back_end = choice.mechanism == nullptr ? nullptr : choice.mechanism->back_end.get();
  auto made = TrackingImpl::create(*this, range, owner, back_end, choice.why);
  if (!made.has_value()) {
    if (choice.mechanism != nullptr) remove(*choice.mechanism, range);
    return made.error();
  }
  if (choice.mechanism == &soft_dirty_) {
    soft_dirty_owner_ = owner;
    ++soft_dirty_users_;
  }
  const GateAlone gate(gate_);
  (*made)->registered = true;
  (*made)->seen_clearings = clearings_;
  trackings_.push_back(made->get());
  return std::unique_ptr<Tracking>(std::move(*made));
}

void ServiceImpl::end(TrackingImpl& tracking) {
  MutexLock lock(registration_);
  {
    const GateAlone gate(gate_);
    trackings_.erase(std::find(trackings_.begin(), trackings_.end(), &tracking));
  }
  for (Mechanism* mechanism : {&uffd_, &soft_dirty_, &mprotect_})
    if (tracking.added_to() != nullptr && mechanism->back_end.get() == tracking.added_to())
      remove(*mechanism, tracking.range(), tracking.drop_expected());
  if (tracking.added_to() != nullptr && tracking.added_to() == soft_dirty_.back_end.get()) --soft_dirty_users_;
}

Status ServiceImpl::writable(PageRange pages) {
  if (forked()) return {};
  MutexLock lock(registration_);
  if (mprotect_.back_end == nullptr) return {};
  return mprotect_.back_end->writable(pages);
}

// --- Reporting

Result<Seen> ServiceImpl::protect(BackEnd& back_end, PageRange range, TrackingImpl& by, ScanBuffer& buffer,
                                  PageRuns& found) {
  auto seen = back_end.list_and_protect(range, buffer, found);
  for (TrackingImpl* tracking : trackings_) {
    if (tracking->added_to() != &back_end) continue;
    const auto reporter = tracking == &by ? Pending::Reporter::own_cool : Pending::Reporter::other;
    for (const PageRange& run : found) tracking->report(run, reporter);
  }
  return seen;
}

Result<Seen> ServiceImpl::protect_for_fork(BackEnd& back_end, PageRange range, TrackingImpl& by, std::uint64_t epoch,
                                           ScanBuffer& buffer) {
  PageRuns found;
  auto seen = back_end.list_and_protect_present(range, buffer, found);
  for (TrackingImpl* tracking : trackings_) {
    if (tracking->added_to() != &back_end) continue;
    for (const PageRange& run : found) {
      if (tracking == &by)
        tracking->report_suspects(run, epoch);
      else
        tracking->report(run, Pending::Reporter::other);
    }
  }
  return seen;
}

void ServiceImpl::report_lost(PageRange range) {
  for (TrackingImpl* tracking : trackings_)
    if (tracking->range().begin < range.end && range.begin < tracking->range().end) tracking->report_whole();
}

void ServiceImpl::list_and_clear(TrackingImpl& by, PageRuns& runs) {
  const auto list = [&runs](TrackingImpl& tracking) {
    runs.clear();
    if (!tracking.list(runs).has_value()) tracking.report_whole();
  };
  if (by.seen_clearings == clearings_) {
    for (TrackingImpl* tracking : trackings_) {
      if (tracking->added_to() != by.added_to()) continue;
      list(*tracking);
      for (const PageRange& run : runs) tracking->report(run, Pending::Reporter::other);
    }
    runs.clear();
    // A failure keeps the bits, so that later cuts report too much.
    if (const Status cleared = by.added_to()->protect_everything(); !cleared.has_value())
      log::warn_once("tracker", cleared.error().message());
    ++clearings_;
  } else {
    list(by);
  }
  by.seen_clearings = clearings_;
}

}  // namespace varve::tracker
