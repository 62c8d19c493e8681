// SPDX-License-Identifier: Apache-2.0
#include "base/fault_point.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "base/env.h"

namespace varve {
namespace {

struct Armed {
  int point = -1;
  long count = 1;
};

Armed parse(const char* text) {
  Armed armed;
  if (text == nullptr) return armed;
  const std::string_view all(text);
  const auto colon = all.find(':');
  for (std::size_t i = 0; i < kFaultPoints.size(); ++i)
    if (all.substr(0, colon) == kFaultPoints[i]) armed.point = static_cast<int>(i);
  if (colon != std::string_view::npos) std::from_chars(all.data() + colon + 1, all.data() + all.size(), armed.count);
  if (armed.point < 0) {
    std::fprintf(stderr, "varve: %s=%s names no fault point; see base/fault_point.h for the list\n", env::kFault, text);
    std::abort();
  }
  return armed;
}

}  // namespace

bool fault_points_enabled() {
#ifdef VARVE_FAULT_POINTS
  return true;
#else
  return false;
#endif
}

void fault_point_passed(FaultPoint point) noexcept {
  static const Armed armed = parse(std::getenv(env::kFault));
  static std::atomic<long> passed{0};
  if (armed.point != static_cast<int>(point)) return;
  if (passed.fetch_add(1) + 1 == armed.count) kill(getpid(), SIGKILL);
}

}  // namespace varve
