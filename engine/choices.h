// SPDX-License-Identifier: Apache-2.0
//
// What an engine runs on: options and environment variables brought together, and told to people.
#pragma once

#include <optional>
#include <span>
#include <string>

#include "engine/capture.h"
#include "storage/io.h"
#include "tracker/tracker.h"
#include "varve/engine.h"

namespace varve {

struct Wanted {
  std::optional<tracker::BackEndKind> tracker;  ///< empty: the best that works
  Capture capture = Capture::automatic;
  std::optional<storage::IoKind> io;  ///< empty: open_io() decides, VARVE_IO first
};

/// Options, and where they say `automatic`, VARVE_TRACKER and VARVE_CAPTURE. `invalid_argument` for a variable that
/// names nothing; `unsupported` for a forced tracker that does not work here.
Result<Wanted> resolve_choices(const Options& options);

/// "uffd", or "soft-dirty: uffd: no WP_ASYNC in this kernel"; and regions that are served by another one, with why.
std::string describe_tracker(const Wanted& wanted, std::span<const tracker::Tracking* const> trackings);
std::string describe_io(const storage::Io& io);

}  // namespace varve
