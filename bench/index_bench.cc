// SPDX-License-Identifier: Apache-2.0
//
// The index of chunks: look-ups that hit and miss, in an index far larger than the caches, and growing it.
#include <vector>

#include "bench/bench_support.h"
#include "storage/chunk_index.h"

namespace varve::bench {
namespace {

storage::ChunkName name(std::uint64_t i) {
  const std::uint64_t mixed = (i + 1) * 0x9e3779b97f4a7c15u;
  return {mixed ^ (mixed >> 29), mixed * 0xbf58476d1ce4e5b9u};
}

storage::ChunkPlace place(std::uint64_t i) { return {1, 4096 + i / 16 * 4096, static_cast<std::uint32_t>(i % 16)}; }

storage::ChunkIndex make_index(std::uint64_t count) {
  storage::ChunkIndex index;
  for (std::uint64_t i = 0; i < count; ++i) index.insert(name(i), place(i));
  return index;
}

void BM_Find(benchmark::State& state) {
  const auto count = static_cast<std::uint64_t>(state.range(0));
  const bool hit = state.range(1) == 1;
  const auto index = make_index(count);
  std::uint64_t i = 0;
  for (auto _ : state) {
    i = (i + 0x9e3779b1u) % count;
    benchmark::DoNotOptimize(index.find(name(hit ? i : i + count)));
  }
  state.SetItemsProcessed(state.iterations());
  state.counters["bytes_per_chunk"] = static_cast<double>(index.memory_bytes()) / static_cast<double>(index.size());
  state.SetLabel(hit ? "hit" : "miss");
}
BENCHMARK(BM_Find)->ArgsProduct({{1 << 18, 1 << 22}, {1, 0}});

void BM_Insert(benchmark::State& state) {
  const auto count = static_cast<std::uint64_t>(state.range(0));
  for (auto _ : state) benchmark::DoNotOptimize(make_index(count).size());
  state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(BM_Insert)->Arg(1 << 18)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace varve::bench
