// SPDX-License-Identifier: Apache-2.0
//
// What tests and benchmarks may set besides CapturerOptions.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "engine/capture.h"
#include "engine/capture_cost.h"

namespace varve {

struct CaptureTuning {
  std::optional<std::uint64_t> first_bytes;  ///< staging faulted in at the start
  std::optional<CaptureCosts> costs;         ///< start from these, measure no fork
};

Result<std::unique_ptr<Capturer>> create_capturer(const CapturerOptions& options, const CaptureTuning& tuning);

}  // namespace varve
