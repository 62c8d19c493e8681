// SPDX-License-Identifier: Apache-2.0
//
// Frames: what filter and codec cost and win, by kind of data. Rates are of raw bytes on one thread; `ratio` is raw
// over payload, names and lengths of the chunks counted.
#include <vector>

#include "bench/bench_support.h"
#include "storage/frame.h"
#include "storage/shuffle.h"

namespace varve::bench {
namespace {

constexpr std::size_t kBytes = std::size_t{16} << 20;
constexpr std::size_t kChunkBytes = 4096;
constexpr std::size_t kChunks = storage::kFrameRawBytes / kChunkBytes;

std::vector<storage::FrameChunk> names() {
  return std::vector<storage::FrameChunk>(kChunks, storage::FrameChunk{{1, 2}, kChunkBytes});
}

Data data_of(const benchmark::State& state) { return static_cast<Data>(state.range(0)); }

void all_kinds(benchmark::internal::Benchmark* benchmark) {
  for (const Data data : {Data::random, Data::particles, Data::field}) benchmark->Arg(static_cast<int>(data));
}

void BM_EncodeFrame(benchmark::State& state) {
  const Memory memory(kBytes, data_of(state));
  const auto chunks = names();
  storage::FilterChooser chooser({});
  storage::FrameScratch scratch;
  std::vector<std::byte> payload(storage::max_frame_payload(kChunks, storage::kFrameRawBytes));
  const std::uint32_t element = element_bytes(data_of(state));
  std::size_t at = 0;
  std::uint64_t raw = 0, stored = 0;
  for (auto _ : state) {
    const auto piece = memory.bytes().subspan(at, storage::kFrameRawBytes);
    const auto choice = chooser.choose(piece, element, scratch);
    bool compressed = false;
    const std::size_t bytes = storage::encode_frame(piece, chunks, choice, scratch, payload, compressed);
    chooser.learn(element, choice,
                  {.raw_bytes = piece.size(),
                   .stored_bytes = bytes - storage::max_frame_payload(kChunks, 0),
                   .compressed = compressed});
    stored += bytes;
    raw += piece.size();
    at = (at + piece.size()) % kBytes;
  }
  state.SetBytesProcessed(static_cast<std::int64_t>(raw));
  state.counters["ratio"] = stored == 0 ? 0 : static_cast<double>(raw) / static_cast<double>(stored);
  state.SetLabel(name_of(data_of(state)));
}
BENCHMARK(BM_EncodeFrame)->Apply(all_kinds);

void BM_UnpackFrame(benchmark::State& state) {
  const Memory memory(kBytes, data_of(state));
  storage::FilterChooser chooser({});
  storage::FrameScratch scratch;
  std::vector<std::byte> payload(storage::max_frame_payload(kChunks, storage::kFrameRawBytes));
  const auto piece = memory.bytes().first(storage::kFrameRawBytes);
  const auto choice = chooser.choose(piece, element_bytes(data_of(state)), scratch);
  bool compressed = false;
  payload.resize(storage::encode_frame(piece, names(), choice, scratch, payload, compressed));
  const storage::StoredAt here{"benchmark", 0};
  for (auto _ : state) {
    const auto frame = storage::parse_frame(payload, kChunkBytes, here);
    if (!good(state, frame)) break;
    const auto raw = storage::unpack_frame(*frame, scratch, here);
    if (!good(state, raw)) break;
    benchmark::DoNotOptimize(raw->data());
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(storage::kFrameRawBytes));
  state.SetLabel(name_of(data_of(state)));
}
BENCHMARK(BM_UnpackFrame)->Apply(all_kinds);

void BM_ShuffleBytes(benchmark::State& state) {
  const Memory memory(kBytes, Data::field);
  std::vector<std::byte> into(storage::kFrameRawBytes);
  std::size_t at = 0;
  for (auto _ : state) {
    storage::shuffle_bytes(memory.bytes().subspan(at, into.size()), static_cast<std::size_t>(state.range(0)), into);
    benchmark::ClobberMemory();
    at = (at + into.size()) % kBytes;
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(into.size()));
}
BENCHMARK(BM_ShuffleBytes)->Arg(4)->Arg(8)->Arg(12)->Arg(16);

}  // namespace
}  // namespace varve::bench
