// SPDX-License-Identifier: Apache-2.0
//
// What filters before LZ4 win and cost, by kind of data: byte shuffle by element size, bit shuffle, and the difference
// (XOR) to the content before. Rates are of raw bytes on one thread, filter and LZ4; `ratio` is raw over stored bytes
// with 20 bytes for each chunk of 4 KiB. The figures that decided are in docs/bench.md.
#include <array>
#include <vector>

#include <lz4.h>

#include "bench/bench_support.h"
#include "bench/data_kinds.h"
#include "storage/format.h"
#include "storage/shuffle.h"

namespace varve::bench {
namespace {

constexpr std::size_t kBytes = kKindBytes;
constexpr std::size_t kFrame = storage::kFrameRawBytes;

/// Plane by plane, as bits: the top bits of eight bytes become one byte.
void transpose_bits(std::span<const std::byte> from, std::size_t element, std::span<std::byte> into) {
  const std::size_t plane = from.size() / element, row = plane / 8;
  for (std::size_t b = 0; b < element; ++b)
    for (std::size_t i = 0; i < row; ++i) {
      std::uint64_t x = 0;  // Hacker's Delight, 7-3: transposing an 8 x 8 bit matrix
      std::memcpy(&x, from.data() + b * plane + i * 8, 8);
      std::uint64_t t = (x ^ (x >> 7)) & 0x00aa00aa00aa00aau;
      x ^= t ^ (t << 7);
      t = (x ^ (x >> 14)) & 0x0000cccc0000ccccu;
      x ^= t ^ (t << 14);
      t = (x ^ (x >> 28)) & 0x00000000f0f0f0f0u;
      x ^= t ^ (t << 28);
      for (std::size_t j = 0; j < 8; ++j) into[b * plane + j * row + i] = static_cast<std::byte>((x >> (8 * j)) & 0xff);
    }
}

enum Filter { plain, shuffle, bits, difference };

void BM_Filter(benchmark::State& state) {
  const Kind& kind = kKinds[state.range(0)];
  const auto filter = static_cast<Filter>(state.range(1));
  const auto element = static_cast<std::size_t>(state.range(2));
  const auto acceleration = static_cast<int>(state.range(3));
  const bool next = filter == difference || state.range(4) != 0;
  const std::vector<std::byte> before = kind.make(0);
  const std::vector<std::byte> content = next ? kind.make(1) : before;
  std::vector<std::byte> one(kFrame), two(kFrame), packed(kFrame);
  std::vector<std::byte> lz4_state(static_cast<std::size_t>(LZ4_sizeofState()));
  std::uint64_t raw = 0, stored = 0;
  std::size_t at = 0;
  for (auto _ : state) {
    std::span<const std::byte> from = std::span(content).subspan(at, kFrame);
    if (filter == difference) {
      for (std::size_t i = 0; i < kFrame; ++i) two[i] = from[i] ^ before[at + i];
      from = two;
    }
    if (filter != plain) {
      storage::shuffle_bytes(from, element, one);
      from = one;
    }
    if (filter == bits) {
      transpose_bits(one, element, two);
      from = two;
    }
    const int bytes = LZ4_compress_fast_extState(lz4_state.data(), reinterpret_cast<const char*>(from.data()),
                                                 reinterpret_cast<char*>(packed.data()), static_cast<int>(kFrame),
                                                 static_cast<int>(kFrame - kFrame / 32), acceleration);
    raw += kFrame;
    stored += (bytes > 0 ? static_cast<std::uint64_t>(bytes) : kFrame) + kFrame / 4096 * 20;
    at = (at + kFrame) % kBytes;
  }
  state.SetBytesProcessed(static_cast<std::int64_t>(raw));
  state.counters["ratio"] = static_cast<double>(raw) / static_cast<double>(stored);
  static constexpr const char* kNames[] = {"LZ4 alone", "shuffle", "bit shuffle", "XOR, shuffle"};
  state.SetLabel(std::string(kind.name) + (next ? ", a step later: " : ": ") + kNames[filter] +
                 (filter == plain ? "" : " " + std::to_string(element)) +
                 (acceleration == 1 ? "" : ", acceleration " + std::to_string(acceleration)));
}

void all_filters(benchmark::internal::Benchmark* benchmark) {
  for (std::int64_t kind = 0; kind < static_cast<std::int64_t>(std::size(kKinds)); ++kind) {
    benchmark->Args({kind, plain, 0, 1, 0});
    for (const std::int64_t element : {4, 8, 12, 16}) benchmark->Args({kind, shuffle, element, 1, 0});
    for (const std::int64_t element : {4, 8}) benchmark->Args({kind, bits, element, 1, 0});
    for (const std::int64_t acceleration : {4, 32}) benchmark->Args({kind, shuffle, 8, acceleration, 0});
    for (const std::int64_t element : {4, 8}) benchmark->Args({kind, shuffle, element, 1, 1});
    for (const std::int64_t element : {4, 8}) benchmark->Args({kind, difference, element, 1, 1});
  }
}
BENCHMARK(BM_Filter)->Apply(all_filters);

}  // namespace
}  // namespace varve::bench
