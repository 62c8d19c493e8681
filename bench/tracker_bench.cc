// SPDX-License-Identifier: Apache-2.0
//
// Listing the suspects of 256 MiB, by back end and by how many of its pages were written (in 1/1000, scattered): what a
// stall begins with. A back end that does not work here is skipped with its reason.
#include <vector>

#include "bench/bench_support.h"
#include "tracker/tracker.h"

namespace varve::bench {
namespace {

constexpr std::size_t kBytes = std::size_t{256} << 20;
constexpr std::size_t kPages = kBytes / 4096;
constexpr std::uint64_t kWarmUp = 8;  // epochs, so that cold pages are protected where the back end does that

struct Tracked {
  Memory memory{kBytes, Data::zeros};
  std::unique_ptr<tracker::Tracking> tracking;
  tracker::PageRuns suspects;
  std::uint64_t epoch = 0;

  /// A program that writes the same pages, evenly spread, in each epoch.
  void write_pages(std::size_t per_mille) {
    ++epoch;
    const std::size_t count = kPages * per_mille / 1000;
    for (std::size_t i = 0; i < count; ++i) memory.page(i * kPages / count)[7] = static_cast<std::byte>(epoch);
  }
  /// The background work behind a cut.
  void settle() {
    tracking->committed(epoch);
    tracking->reduced(epoch, {.suspects = suspects, .unchanged = {}});
    tracker::PageRuns cooled;
    VARVE_CHECK(tracking->cool(cooled).has_value());
    tracking->settled(cooled);
  }
};

void BM_Cut(benchmark::State& state) {
  const auto kind = static_cast<tracker::BackEndKind>(state.range(0));
  const auto per_mille = static_cast<std::size_t>(state.range(1));
  state.SetLabel(std::string(tracker::to_string(kind)));
  Tracked tracked;
  const auto begin = reinterpret_cast<std::uintptr_t>(tracked.memory.bytes().data());
  auto tracking = tracker::Service::process().track({begin, begin + kBytes}, kind, &tracked);
  if (!good(state, tracking)) return;
  tracked.tracking = std::move(tracking).value();
  for (std::uint64_t i = 0; i < kWarmUp; ++i) {
    tracked.write_pages(per_mille);
    tracked.suspects.clear();
    if (!good(state, tracked.tracking->cut(tracked.epoch, tracked.suspects))) return;
    tracked.settle();
  }

  std::uint64_t listed = 0;
  for (auto _ : state) {
    state.PauseTiming();
    tracked.write_pages(per_mille);
    tracked.suspects.clear();
    state.ResumeTiming();
    if (!good(state, tracked.tracking->cut(tracked.epoch, tracked.suspects))) break;
    state.PauseTiming();
    for (const auto& run : tracked.suspects) listed += run.size_bytes() / tracker::page_bytes();
    tracked.tracking->committed(tracked.epoch);
    state.ResumeTiming();
  }
  state.counters["suspect_pages"] = benchmark::Counter(static_cast<double>(listed), benchmark::Counter::kAvgIterations);
}
BENCHMARK(BM_Cut)
    ->ArgsProduct({{static_cast<int>(tracker::BackEndKind::uffd), static_cast<int>(tracker::BackEndKind::soft_dirty),
                    static_cast<int>(tracker::BackEndKind::mprotect), static_cast<int>(tracker::BackEndKind::hash)},
                   {0, 10, 100}})
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace varve::bench
