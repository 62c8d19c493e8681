// SPDX-License-Identifier: Apache-2.0
//
// What tests and benchmarks may set besides CapturerOptions.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "engine/capture.h"
#include "engine/capture_cost.h"

namespace varve {

struct CaptureTuning {
  std::optional<std::uint64_t> first_bytes;  ///< staging faulted in at the start
  std::optional<CaptureCosts> costs;         ///< start from these, measure no fork
  /// What faulting in staging for so many bytes takes, instead of what was measured.
  std::function<std::uint64_t(std::uint64_t bytes)> growing_ns;
};

Result<std::unique_ptr<Capturer>> create_capturer(const CapturerOptions& options, const CaptureTuning& tuning);

}  // namespace varve
