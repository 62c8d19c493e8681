// SPDX-License-Identifier: Apache-2.0
#include "tools/units.h"

#include <time.h>

#include <array>
#include <charconv>
#include <cmath>

#include <fmt/format.h>

namespace varve::tools {
namespace {

struct Unit {
  std::string_view name;
  double factor;
};

constexpr double kKibi = 1024.0, kKilo = 1000.0;
constexpr std::array<Unit, 17> kUnits = {{
    {"", 1},
    {"B", 1},
    {"K", kKibi},
    {"KiB", kKibi},
    {"M", kKibi* kKibi},
    {"MiB", kKibi* kKibi},
    {"G", kKibi* kKibi* kKibi},
    {"GiB", kKibi* kKibi* kKibi},
    {"T", kKibi* kKibi* kKibi* kKibi},
    {"TiB", kKibi* kKibi* kKibi* kKibi},
    {"kB", kKilo},
    {"KB", kKilo},
    {"MB", kKilo* kKilo},
    {"GB", kKilo* kKilo* kKilo},
    {"TB", kKilo* kKilo* kKilo* kKilo},
    {"k", kKibi},
    {"kiB", kKibi},
}};

Error bad(std::string_view text, std::string_view what, std::string_view remedy) {
  return fail(ErrorCode::invalid_argument,
              {fmt::format("'{}' refused", text), fmt::format("it is no {}", what), std::string(remedy)});
}

}  // namespace

Result<std::uint64_t> parse_size(std::string_view text) {
  constexpr std::string_view kRemedy = "write it like 4096, 64KiB, 512MiB or 1.5GiB";
  double number = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number, std::chars_format::fixed);
  if (error != std::errc() || number < 0 || !std::isfinite(number)) return bad(text, "size", kRemedy);
  std::string_view unit(stop, static_cast<std::size_t>(end - stop));
  if (unit.starts_with(' ')) unit.remove_prefix(1);
  for (const auto& known : kUnits) {
    if (known.name != unit) continue;
    const double bytes = std::round(number * known.factor);
    if (bytes > 0x1p62) return bad(text, "size that fits into 62 bits", kRemedy);
    return static_cast<std::uint64_t>(bytes);
  }
  return bad(text, "size", kRemedy);
}

Result<double> parse_fraction(std::string_view text) {
  constexpr std::string_view kRemedy = "write it like 1%, 0.5% or 0.01";
  double number = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number, std::chars_format::fixed);
  const std::string_view rest(stop, static_cast<std::size_t>(end - stop));
  if (error != std::errc() || (!rest.empty() && rest != "%" && rest != " %"))
    return bad(text, "share of a whole", kRemedy);
  if (!rest.empty()) number /= 100;
  if (!(number >= 0 && number <= 1)) return bad(text, "share between 0 and 100%", kRemedy);
  return number;
}

std::string format_bytes(std::uint64_t bytes) {
  constexpr std::array<std::string_view, 5> kNames = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  std::size_t unit = 0;
  for (; value >= 1024 && unit + 1 < kNames.size(); ++unit) value /= 1024;
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.2f} {}", value, kNames[unit]);
}

std::string format_rate(double bytes_per_second) {
  if (bytes_per_second >= 1e9) return fmt::format("{:.2f} GB/s", bytes_per_second / 1e9);
  return fmt::format("{:.1f} MB/s", bytes_per_second / 1e6);
}

std::string format_ns(double nanoseconds) {
  if (nanoseconds >= 1e9) return fmt::format("{:.2f} s", nanoseconds / 1e9);
  if (nanoseconds >= 1e6) return fmt::format("{:.2f} ms", nanoseconds / 1e6);
  if (nanoseconds >= 1e3) return fmt::format("{:.1f} µs", nanoseconds / 1e3);
  return fmt::format("{:.0f} ns", nanoseconds);
}

std::string format_percent(double fraction) {
  const double percent = fraction * 100;
  return std::abs(percent) < 1 ? fmt::format("{:.2f} %", percent) : fmt::format("{:.1f} %", percent);
}

std::string format_count(std::uint64_t count) {
  std::string digits = std::to_string(count);
  for (auto at = static_cast<std::ptrdiff_t>(digits.size()) - 3; at > 0; at -= 3)
    digits.insert(static_cast<std::size_t>(at), ",");
  return digits;
}

std::string format_time(std::uint64_t ns_since_1970) {
  const auto seconds = static_cast<time_t>(ns_since_1970 / 1'000'000'000);
  tm parts{};
  if (gmtime_r(&seconds, &parts) == nullptr) return fmt::format("{} ns after 1970", ns_since_1970);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z", parts.tm_year + 1900, parts.tm_mon + 1,
                     parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec, ns_since_1970 % 1'000'000'000 / 1000);
}

}  // namespace varve::tools
