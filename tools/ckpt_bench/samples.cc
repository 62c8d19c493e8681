// SPDX-License-Identifier: Apache-2.0
#include "tools/ckpt_bench/samples.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "tools/units.h"

namespace varve::tools {

double Samples::quantile(double share) const {
  if (values_.empty()) return 0;
  std::vector<double> sorted = values_;
  std::sort(sorted.begin(), sorted.end());
  const double rank = std::ceil(share * static_cast<double>(sorted.size()));
  const auto index = static_cast<std::size_t>(std::max(rank, 1.0)) - 1;
  return sorted[std::min(index, sorted.size() - 1)];
}

nlohmann::json Samples::json() const {
  if (values_.empty()) return nullptr;
  return {{"median", median()},   {"p99", quantile(0.99)}, {"max", max()},           {"min", quantile(0)},
          {"p10", quantile(0.1)}, {"p90", quantile(0.9)},  {"count", values_.size()}};
}

std::string Samples::text_ns() const {
  if (values_.empty()) return "-";
  return fmt::format("{} ({} to {})", format_ns(median()), format_ns(quantile(0.1)), format_ns(quantile(0.9)));
}

double per_second(std::uint64_t bytes, std::uint64_t ns) {
  return ns == 0 ? 0 : static_cast<double>(bytes) * 1e9 / static_cast<double>(ns);
}

}  // namespace varve::tools
