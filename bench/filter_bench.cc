// SPDX-License-Identifier: Apache-2.0
//
// What filters before LZ4 win and cost, by kind of data: byte shuffle by element size, bit shuffle, and the difference
// (XOR) to the content before. Rates are of raw bytes on one thread, filter and LZ4; `ratio` is raw over stored bytes
// with 20 bytes for each chunk of 4 KiB. The figures that decided are in docs/bench.md.
#include <array>
#include <functional>
#include <vector>

#include <lz4.h>

#include "bench/bench_support.h"
#include "storage/format.h"
#include "storage/shuffle.h"

namespace varve::bench {
namespace {

constexpr std::size_t kBytes = std::size_t{8} << 20;
constexpr std::size_t kFrame = storage::kFrameRawBytes;

std::uint64_t mix(std::uint64_t value) {  // SplitMix64
  value += 0x9e3779b97f4a7c15u;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
  return value ^ (value >> 31);
}
double noise(std::uint64_t seed) { return static_cast<double>(mix(seed) >> 11) * 0x1p-53; }

template <class T>
std::vector<std::byte> make(const std::function<T(std::size_t)>& element) {
  std::vector<std::byte> bytes(kBytes);
  for (std::size_t i = 0; i < kBytes / sizeof(T); ++i) {
    const T value = element(i);
    std::memcpy(bytes.data() + i * sizeof value, &value, sizeof value);
  }
  return bytes;
}

std::vector<std::byte> wave(std::size_t step) {
  return make<double>([=](std::size_t i) {
    return 1 + 0.5 * std::sin(static_cast<double>(i) * 1e-4 + static_cast<double>(step) * 1e-3);
  });
}

std::vector<std::byte> hill(std::size_t step) {
  const double t = static_cast<double>(step) * 1e-3;
  return make<double>([=](std::size_t i) {
    const double x = static_cast<double>(i % 1024) / 1024 - 0.5, y = static_cast<double>(i / 1024) / 1024 - 0.5;
    return 300 + 20 * std::exp(-(x * x + y * y) * (5 + t)) + std::sin(12 * x + t) * std::cos(9 * y);
  });
}

// The heat equation on a grid, from a checkerboard: ten iterations a step.
std::vector<std::byte> heat(std::size_t step) {
  constexpr std::size_t kWidth = 1024, kCells = kBytes / sizeof(double);
  std::vector<double> now(kCells), next(kCells);
  for (std::size_t i = 0; i < kCells; ++i) now[i] = (i % kWidth / 128 + i / kWidth / 128) % 2 == 0 ? 0 : 1;
  for (std::size_t round = 0; round < 100 + 10 * step; ++round) {
    for (std::size_t i = 0; i < kCells; ++i)
      next[i] = now[i] + 0.1 * (now[(i + 1) % kCells] + now[(i + kCells - 1) % kCells] + now[(i + kWidth) % kCells] +
                                now[(i + kCells - kWidth) % kCells] - 4 * now[i]);
    now.swap(next);
  }
  std::vector<std::byte> bytes(kBytes);
  std::memcpy(bytes.data(), now.data(), kBytes);
  return bytes;
}

std::vector<std::byte> float_wave(std::size_t step) {
  return make<float>([=](std::size_t i) {
    return static_cast<float>(1 + 0.5 * std::sin(static_cast<double>(i) * 1e-4 + static_cast<double>(step) * 1e-3));
  });
}

// x y z vx vy vz of each particle, or one coordinate after the other.
std::vector<std::byte> particles(std::size_t step, bool structures) {
  return make<double>([=](std::size_t i) {
    const std::size_t particle = structures ? i / 6 : i, axis = structures ? i % 6 : 0;
    const double velocity = (noise(particle * 8 + axis % 3) - 0.5) * 1e-3;
    if (axis >= 3) return velocity;
    const std::size_t cell = axis == 0 ? particle % 128 : axis == 1 ? particle / 128 % 128 : particle / 16384;
    return static_cast<double>(cell) + noise(particle * 8 + axis + 3) * 0.1 + static_cast<double>(step) * velocity;
  });
}

std::vector<std::byte> small_integers(std::size_t step) {  // one in ten changes
  return make<std::int32_t>([=](std::size_t i) {
    const std::uint64_t changed = mix(i * 3 + 1) % 10 == 0 ? step : 0;
    return static_cast<std::int32_t>(mix(i) % 1000 + changed);
  });
}

std::vector<std::byte> sorted_keys(std::size_t step) {  // one in three changes
  return make<std::int64_t>(
      [=](std::size_t i) { return static_cast<std::int64_t>(i * 37 + mix(i) % 30 + (i % 3 == 0 ? step : 0)); });
}

std::vector<std::byte> counters(std::size_t step) {  // all advance, each by its own rate
  return make<std::uint64_t>([=](std::size_t i) { return mix(i) % 5000 + step * (mix(i * 3) % 4); });
}

struct Triple {
  float x, y, z;
};
std::vector<std::byte> triples(std::size_t step) {
  return make<Triple>([=](std::size_t i) {
    const auto at = [&](std::size_t cell, std::size_t axis) {
      return static_cast<float>(static_cast<double>(cell) + 0.1 * noise(i * 3 + axis) +
                                1e-3 * static_cast<double>(step) * noise(i * 5 + axis));
    };
    return Triple{at(i % 100, 0), at(i / 100 % 100, 1), at(i / 10000, 2)};
  });
}

struct Mixed {
  double value;
  std::int32_t id;
  float weight;
};
std::vector<std::byte> mixed_structures(std::size_t step) {
  return make<Mixed>([=](std::size_t i) {
    return Mixed{noise(i) * 100 + 1e-3 * static_cast<double>(step), static_cast<std::int32_t>(i),
                 static_cast<float>(noise(i + kBytes))};
  });
}

// Two pointers, three small numbers, a flag word, sixteen bytes of text; of the numbers one in eight changes.
std::vector<std::byte> heap(std::size_t step) {
  static constexpr std::string_view kText = "status=ok;user=guest;retry=0;path=/var/lib/cache/objects/;type=text/html;";
  return make<std::uint64_t>([=](std::size_t i) -> std::uint64_t {
    const std::uint64_t bits = mix(i);
    if (i % 8 < 2) return 0x00007f3a00000000u + (bits & 0x0ffffff0u);
    if (i % 8 < 5) return (bits & 0xff) + (mix(i * 7) % 8 == 0 ? step : 0);
    if (i % 8 == 5) return std::uint64_t{1} << (bits & 7);
    std::uint64_t word = 0;
    std::memcpy(&word, kText.data() + bits % (kText.size() - 8), 8);
    return word;
  });
}

std::vector<std::byte> random_words(std::size_t step) {
  return make<std::uint64_t>([=](std::size_t i) { return mix(i * 64 + step); });
}

struct Kind {
  const char* name;
  std::vector<std::byte> (*make)(std::size_t step);
};
constexpr Kind kKinds[] = {{"wave", wave},
                           {"hill", hill},
                           {"heat", heat},
                           {"floats", float_wave},
                           {"particles", [](std::size_t step) { return particles(step, true); }},
                           {"coordinates", [](std::size_t step) { return particles(step, false); }},
                           {"small integers", small_integers},
                           {"sorted keys", sorted_keys},
                           {"counters", counters},
                           {"3 floats", triples},
                           {"double int float", mixed_structures},
                           {"heap", heap},
                           {"random", random_words}};

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
