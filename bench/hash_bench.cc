// SPDX-License-Identifier: Apache-2.0
//
// Naming chunks, and the checks beside it. The memory is larger than the caches of most machines (64 MiB).
#include "bench/bench_support.h"
#include "storage/chunk_name.h"

namespace varve::bench {
namespace {

constexpr std::size_t kBytes = std::size_t{64} << 20;

void BM_NameChunk(benchmark::State& state) {
  const Memory memory(kBytes, Data::random);
  const auto chunk_bytes = static_cast<std::size_t>(state.range(0));
  const storage::HashSecret secret{};
  std::size_t at = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(storage::name_chunk(memory.bytes().subspan(at, chunk_bytes), secret));
    at = (at + chunk_bytes) % kBytes;
  }
  state.SetBytesProcessed(state.iterations() * state.range(0));
  state.SetLabel(std::string(storage::hash_implementation()));
}
BENCHMARK(BM_NameChunk)->Arg(4096)->Arg(65536);

void BM_Checksum(benchmark::State& state) {
  const Memory memory(kBytes, Data::random);
  const auto bytes = static_cast<std::size_t>(state.range(0));
  std::size_t at = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(storage::checksum(memory.bytes().subspan(at, bytes), 7));
    at = (at + bytes) % kBytes;
  }
  state.SetBytesProcessed(state.iterations() * state.range(0));
}
BENCHMARK(BM_Checksum)->Arg(65536);

// All of it is looked at only when all of it is zero.
void BM_IsZero(benchmark::State& state) {
  const Memory memory(kBytes, Data::zeros);
  std::size_t at = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(storage::is_zero(memory.bytes().subspan(at, 4096)));
    at = (at + 4096) % kBytes;
  }
  state.SetBytesProcessed(state.iterations() * 4096);
}
BENCHMARK(BM_IsZero);

}  // namespace
}  // namespace varve::bench
