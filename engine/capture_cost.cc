// SPDX-License-Identifier: Apache-2.0
#include "engine/capture_cost.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include <fmt/format.h>

#include "base/unique_fd.h"

namespace varve {
namespace {

constexpr double kPageBytes = 4096;
constexpr double kWeight = 0.25;                                       // of the newest measurement
constexpr std::uint64_t kFewestBytes = std::uint64_t{1} << 20;         // less tells the clock's noise
constexpr std::uint64_t kLargeProcessPages = std::uint64_t{64} << 10;  // from here on pages dominate a fork's cost

void blend(double& average, double measured) { average += kWeight * (measured - average); }

struct Prices {
  double copy_ns = 0;
  double wait_ns = 0;    // part of copying everything, for room
  double grow_ns = 0;    // likewise
  double fork_ns = 0;    // without the resident pages
  double faults_ns = 0;  // of it
};

Prices price(const CaptureCosts& costs, const CutSize& cut) {
  Prices prices;
  const auto total = static_cast<double>(cut.total_bytes());
  const auto room = static_cast<double>(cut.room_bytes);
  prices.copy_ns = total / costs.copy_bytes_per_ns;
  // Copying and consuming overlap: the wait is what consuming takes longer.
  const double consumed_ns = std::max(0.0, total - room) / costs.consumer_bytes_per_ns;
  prices.wait_ns = std::max(0.0, consumed_ns - std::max(0.0, total - room) / costs.copy_bytes_per_ns);
  prices.grow_ns = static_cast<double>(cut.growing_ns);
  prices.copy_ns += prices.wait_ns + prices.grow_ns;
  prices.faults_ns = static_cast<double>(cut.forkable_bytes) / kPageBytes * costs.fault_ns;
  prices.fork_ns =
      costs.fork_fixed_ns + prices.faults_ns + static_cast<double>(cut.other_bytes) / costs.copy_bytes_per_ns;
  return prices;
}

std::string mib(std::uint64_t bytes) {
  return bytes < (std::uint64_t{1} << 20) ? fmt::format("{} KiB", (bytes + 1023) >> 10)
                                          : fmt::format("{} MiB", bytes >> 20);
}

std::string ms(double ns) { return fmt::format("{:.{}f} ms", ns / 1e6, ns < 1e7 ? 1 : 0); }

std::string copy_in_words(const CaptureCosts& costs, const CutSize& cut, const Prices& prices) {
  std::string words = fmt::format("{} of suspects at {:.1f} GB/s", mib(cut.total_bytes()), costs.copy_bytes_per_ns);
  if (cut.total_bytes() > cut.room_bytes)
    words += fmt::format(" with room for {}, waiting some {} for the writer", mib(cut.room_bytes), ms(prices.wait_ns));
  if (prices.grow_ns > 0) words += fmt::format(", and some {} until staging has grown", ms(prices.grow_ns));
  return words;
}

}  // namespace

void CaptureCostModel::copied(std::uint64_t bytes, std::uint64_t ns) {
  if (bytes < kFewestBytes || ns == 0) return;
  MutexLock lock(mutex_);
  blend(costs_.copy_bytes_per_ns, static_cast<double>(bytes) / static_cast<double>(ns));
}

void CaptureCostModel::consumed(std::uint64_t bytes, std::uint64_t ns) {
  if (bytes < kFewestBytes || ns == 0) return;
  MutexLock lock(mutex_);
  blend(costs_.consumer_bytes_per_ns, static_cast<double>(bytes) / static_cast<double>(ns));
}

void CaptureCostModel::forked(std::uint64_t pages, std::uint64_t ns) {
  MutexLock lock(mutex_);
  const auto measured = static_cast<double>(ns);
  if (pages >= kLargeProcessPages) {
    const double page_ns = std::max(1.0, measured - costs_.fork_fixed_ns) / static_cast<double>(pages);
    blend(costs_.fork_page_ns, page_ns);
  } else {
    blend(costs_.fork_fixed_ns, std::max(20'000.0, measured - costs_.fork_page_ns * static_cast<double>(pages)));
  }
}

void CaptureCostModel::faulted(std::uint64_t pages, std::uint64_t ns) {
  if (pages == 0) return;
  MutexLock lock(mutex_);
  costs_.fault_ns = static_cast<double>(ns) / static_cast<double>(pages);  // measured on purpose, and rarely
}

bool CaptureCostModel::fork_may_win(const CutSize& cut) const {
  if (cut.forkable_bytes == 0) return false;
  MutexLock lock(mutex_);
  const Prices prices = price(costs_, cut);
  return prices.fork_ns < prices.copy_ns;
}

CaptureChoice CaptureCostModel::choose(const CutSize& cut, std::uint64_t resident) const {
  MutexLock lock(mutex_);
  const Prices prices = price(costs_, cut);
  const double fork_ns = prices.fork_ns + costs_.fork_page_ns * static_cast<double>(resident);
  CaptureChoice choice;
  choice.fork = cut.forkable_bytes > 0 && fork_ns < prices.copy_ns;
  const std::string fork_words =
      fmt::format("{} for {} of resident memory, {} of it page faults afterwards", ms(fork_ns),
                  mib(static_cast<std::uint64_t>(static_cast<double>(resident) * kPageBytes)), ms(prices.faults_ns));
  choice.why = choice.fork
                   ? fmt::format("fork: {}; copy would take {}: {}", fork_words, ms(prices.copy_ns),
                                 copy_in_words(costs_, cut, prices))
                   : fmt::format("copy: {}; fork would take {}", copy_in_words(costs_, cut, prices), fork_words);
  return choice;
}

CaptureChoice CaptureCostModel::copy_because(const CutSize& cut, const std::string& reason) const {
  MutexLock lock(mutex_);
  const Prices prices = price(costs_, cut);
  CaptureChoice choice;
  choice.why = "copy: " + copy_in_words(costs_, cut, prices);
  if (!reason.empty()) {
    choice.why += "; " + reason;
  } else if (cut.forkable_bytes > 0) {
    choice.why += fmt::format("; fork would take {} or more, {} of it page faults afterwards", ms(prices.fork_ns),
                              ms(prices.faults_ns));
  }
  return choice;
}

CaptureCosts CaptureCostModel::costs() const {
  MutexLock lock(mutex_);
  return costs_;
}

std::uint64_t resident_pages() {
  const UniqueFd statm(open("/proc/self/statm", O_RDONLY | O_CLOEXEC));
  char text[128] = {};
  if (!statm.valid() || read(statm.get(), text, sizeof text - 1) <= 0) return 0;
  const char* const second = std::strchr(text, ' ');  // "size resident shared ...", in pages: proc_pid_statm(5)
  if (second == nullptr) return 0;
  return std::strtoull(second, nullptr, 10);
}

}  // namespace varve
