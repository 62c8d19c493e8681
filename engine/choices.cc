// SPDX-License-Identifier: Apache-2.0
#include "engine/choices.h"

#include <cstdlib>
#include <string_view>

#include <fmt/format.h>

#include "base/env.h"
#include "base/try.h"

namespace varve {
namespace {

using tracker::BackEndKind;

std::string_view environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string_view() : std::string_view(value);
}

Error names_nothing(const char* variable, std::string_view value, const char* choices) {
  return fail(ErrorCode::invalid_argument,
              {fmt::format("opening of the engine refused by {}", variable),
               fmt::format("'{}' is not among its values", value), fmt::format("set it to {}, or unset it", choices)});
}

std::optional<BackEndKind> tracker_of(Tracker wanted) {
  switch (wanted) {
    case Tracker::automatic: return std::nullopt;
    case Tracker::uffd: return BackEndKind::uffd;
    case Tracker::soft_dirty: return BackEndKind::soft_dirty;
    case Tracker::mprotect: return BackEndKind::mprotect;
    case Tracker::hash: return BackEndKind::hash;
  }
  return std::nullopt;
}

Result<std::optional<BackEndKind>> wanted_tracker(Tracker option) {
  if (option != Tracker::automatic) return tracker_of(option);
  const auto value = environment(env::kTracker);
  if (value.empty() || value == "auto") return std::optional<BackEndKind>();
  const auto kind = tracker::parse_back_end(value);
  if (!kind.has_value()) return names_nothing(env::kTracker, value, "uffd, soft-dirty, mprotect, hash or auto");
  return kind;
}

Result<Capture> wanted_capture(Capture option) {
  if (option != Capture::automatic) return option;
  const auto value = environment(env::kCapture);
  if (value.empty() || value == "auto") return Capture::automatic;
  if (value == "copy") return Capture::copy;
  if (value == "fork") return Capture::fork;
  return names_nothing(env::kCapture, value, "copy, fork or auto");
}

Status check_available(BackEndKind kind) {
  for (const auto& report : tracker::Service::process().probe())
    if (report.kind == kind && !report.available)
      return fail(ErrorCode::unsupported,
                  {fmt::format("opening of the engine with tracker {} refused", tracker::to_string(kind)),
                   report.reason.empty() ? std::string("it does not work here") : report.reason,
                   "let the engine choose (automatic), or name another tracker"});
  return {};
}

/// The back end that `automatic` would take, and what stood in the way of better ones.
std::string describe_automatic() {
  std::string why;
  const auto reports = tracker::Service::process().probe();
  for (const BackEndKind kind : {BackEndKind::uffd, BackEndKind::soft_dirty, BackEndKind::hash})
    for (const auto& report : reports) {
      if (report.kind != kind) continue;
      if (report.available || kind == BackEndKind::hash)
        return std::string(tracker::to_string(kind)) + (why.empty() ? "" : ": " + why);
      why += fmt::format("{}no {} ({})", why.empty() ? "" : ", ", tracker::to_string(kind), report.reason);
    }
  return "hash" + (why.empty() ? "" : ": " + why);
}

}  // namespace

Result<Wanted> resolve_choices(const Options& options) {
  Wanted wanted;
  VARVE_TRY_ASSIGN(wanted.tracker, wanted_tracker(options.tracker));
  if (wanted.tracker.has_value()) VARVE_TRY(check_available(*wanted.tracker));
  VARVE_TRY_ASSIGN(wanted.capture, wanted_capture(options.capture));
  if (options.io == IoBackEnd::uring) wanted.io = storage::IoKind::uring;
  if (options.io == IoBackEnd::posix) wanted.io = storage::IoKind::posix;
  return wanted;
}

std::string describe_tracker(const Wanted& wanted, std::span<const tracker::Tracking* const> trackings) {
  std::string text =
      wanted.tracker.has_value() ? std::string(tracker::to_string(*wanted.tracker)) + ": forced" : describe_automatic();
  const std::string_view chosen = std::string_view(text).substr(0, text.find(':'));
  std::size_t others = 0;
  std::string first;
  for (const auto* tracking : trackings) {
    if (tracker::to_string(tracking->back_end()) == chosen) continue;
    if (++others == 1) first = fmt::format("{} ({})", tracker::to_string(tracking->back_end()), tracking->why());
  }
  if (others != 0) text += fmt::format("; {} of {} regions: {}", others, trackings.size(), first);
  return text;
}

std::string describe_io(const storage::Io& io) {
  return std::string(storage::to_string(io.kind())) + (io.why().empty() ? "" : ": " + io.why());
}

}  // namespace varve
