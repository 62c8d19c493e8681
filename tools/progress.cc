// SPDX-License-Identifier: Apache-2.0
#include "tools/progress.h"

#include <unistd.h>

#include <cstdio>

#include <fmt/format.h>

#include "base/clock.h"
#include "tools/units.h"

namespace varve::tools {
namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;

std::string amount(std::uint64_t value, const std::string& unit) {
  return unit == "bytes" ? format_bytes(value) : format_count(value) + " " + unit;
}

}  // namespace

Progress::Progress(std::string action, Show show)
    : action_(std::move(action)),
      terminal_(isatty(STDERR_FILENO) == 1),
      enabled_(terminal_ || show == Show::always),
      begin_ns_(monotonic_ns()),
      next_ns_(begin_ns_ + kSecond) {}

// One of the callers wins each turn; nothing is shown within the first second.
bool Progress::due() {
  if (!enabled_) return false;
  const std::uint64_t now = monotonic_ns();
  std::uint64_t next = next_ns_.load();
  return now >= next && next_ns_.compare_exchange_strong(next, now + (terminal_ ? kSecond / 5 : kSecond));
}

void Progress::show(const std::string& detail) {
  const double seconds = static_cast<double>(monotonic_ns() - begin_ns_) / 1e9;
  const std::string line =
      fmt::format("{}{}: {}, {:.0f} s{}", terminal_ ? "\r" : "", action_, detail, seconds, terminal_ ? "\x1b[K" : "\n");
  std::fwrite(line.data(), 1, line.size(), stderr);
  std::fflush(stderr);
  shown_ = true;
}

void Progress::update(std::uint64_t done, std::uint64_t total, const std::string& unit) {
  if (!due()) return;
  const double share = total == 0 ? 0 : static_cast<double>(done) / static_cast<double>(total);
  show(fmt::format("{:.0f} %, {} of {}", share * 100, amount(done, unit), amount(total, unit)));
}

void Progress::update(const std::string& detail) {
  if (due()) show(detail);
}

void Progress::finish() {
  if (shown_ && terminal_) std::fputs("\r\x1b[K", stderr);
  shown_ = false;
}

}  // namespace varve::tools
