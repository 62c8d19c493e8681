// SPDX-License-Identifier: Apache-2.0
//
// Samples of one measured quantity, and how they are spread. Values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace varve::tools {

class Samples {
 public:
  void add(std::uint64_t value) { values_.push_back(static_cast<double>(value)); }
  void add(double value) { values_.push_back(value); }
  bool empty() const { return values_.empty(); }
  std::size_t count() const { return values_.size(); }
  const std::vector<double>& values() const { return values_; }  ///< as they came

  /// The value below which this share of the samples lies (nearest rank); 0 when there are none.
  double quantile(double share) const;
  double median() const { return quantile(0.5); }
  double max() const { return quantile(1.0); }

  /// {"median","p99","max","min","p10","p90","count"}; null when there are none.
  nlohmann::json json() const;
  /// "1.24 ms (1.20 to 1.31)": median, p10 and p90 of nanoseconds.
  std::string text_ns() const;

 private:
  std::vector<double> values_;
};

/// 0 when no time passed.
double per_second(std::uint64_t bytes, std::uint64_t ns);

}  // namespace varve::tools
