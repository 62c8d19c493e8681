// SPDX-License-Identifier: Apache-2.0
//
// Kinds of data as programs have them, and how each goes on: `step` 0 is the first state, and so on. The same bytes
// each time.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string_view>
#include <vector>

namespace varve::bench {

inline constexpr std::size_t kKindBytes = std::size_t{8} << 20;

inline std::uint64_t mix(std::uint64_t value) {  // SplitMix64
  value += 0x9e3779b97f4a7c15u;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
  return value ^ (value >> 31);
}
inline double noise(std::uint64_t seed) { return static_cast<double>(mix(seed) >> 11) * 0x1p-53; }

template <class T>
inline std::vector<std::byte> make(const std::function<T(std::size_t)>& element) {
  std::vector<std::byte> bytes(kKindBytes);
  for (std::size_t i = 0; i < kKindBytes / sizeof(T); ++i) {
    const T value = element(i);
    std::memcpy(bytes.data() + i * sizeof value, &value, sizeof value);
  }
  return bytes;
}

inline std::vector<std::byte> wave(std::size_t step) {
  return make<double>([=](std::size_t i) {
    return 1 + 0.5 * std::sin(static_cast<double>(i) * 1e-4 + static_cast<double>(step) * 1e-3);
  });
}

inline std::vector<std::byte> hill(std::size_t step) {
  const double t = static_cast<double>(step) * 1e-3;
  return make<double>([=](std::size_t i) {
    const double x = static_cast<double>(i % 1024) / 1024 - 0.5, y = static_cast<double>(i / 1024) / 1024 - 0.5;
    return 300 + 20 * std::exp(-(x * x + y * y) * (5 + t)) + std::sin(12 * x + t) * std::cos(9 * y);
  });
}

// The heat equation on a grid, from a checkerboard: ten iterations a step.
inline std::vector<std::byte> heat(std::size_t step) {
  constexpr std::size_t kWidth = 1024, kCells = kKindBytes / sizeof(double);
  std::vector<double> now(kCells), next(kCells);
  for (std::size_t i = 0; i < kCells; ++i) now[i] = (i % kWidth / 128 + i / kWidth / 128) % 2 == 0 ? 0 : 1;
  for (std::size_t round = 0; round < 100 + 10 * step; ++round) {
    for (std::size_t i = 0; i < kCells; ++i)
      next[i] = now[i] + 0.1 * (now[(i + 1) % kCells] + now[(i + kCells - 1) % kCells] + now[(i + kWidth) % kCells] +
                                now[(i + kCells - kWidth) % kCells] - 4 * now[i]);
    now.swap(next);
  }
  std::vector<std::byte> bytes(kKindBytes);
  std::memcpy(bytes.data(), now.data(), kKindBytes);
  return bytes;
}

inline std::vector<std::byte> float_wave(std::size_t step) {
  return make<float>([=](std::size_t i) {
    return static_cast<float>(1 + 0.5 * std::sin(static_cast<double>(i) * 1e-4 + static_cast<double>(step) * 1e-3));
  });
}

// x y z vx vy vz of each particle, or one coordinate after the other.
inline std::vector<std::byte> particles(std::size_t step, bool structures) {
  return make<double>([=](std::size_t i) {
    const std::size_t particle = structures ? i / 6 : i, axis = structures ? i % 6 : 0;
    const double velocity = (noise(particle * 8 + axis % 3) - 0.5) * 1e-3;
    if (axis >= 3) return velocity;
    const std::size_t cell = axis == 0 ? particle % 128 : axis == 1 ? particle / 128 % 128 : particle / 16384;
    return static_cast<double>(cell) + noise(particle * 8 + axis + 3) * 0.1 + static_cast<double>(step) * velocity;
  });
}

inline std::vector<std::byte> small_integers(std::size_t step) {  // one in ten changes
  return make<std::int32_t>([=](std::size_t i) {
    const std::uint64_t changed = mix(i * 3 + 1) % 10 == 0 ? step : 0;
    return static_cast<std::int32_t>(mix(i) % 1000 + changed);
  });
}

inline std::vector<std::byte> sorted_keys(std::size_t step) {  // one in three changes
  return make<std::int64_t>(
      [=](std::size_t i) { return static_cast<std::int64_t>(i * 37 + mix(i) % 30 + (i % 3 == 0 ? step : 0)); });
}

inline std::vector<std::byte> counters(std::size_t step) {  // all advance, each by its own rate
  return make<std::uint64_t>([=](std::size_t i) { return mix(i) % 5000 + step * (mix(i * 3) % 4); });
}

struct Triple {
  float x, y, z;
};
inline std::vector<std::byte> triples(std::size_t step) {
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
inline std::vector<std::byte> mixed_structures(std::size_t step) {
  return make<Mixed>([=](std::size_t i) {
    return Mixed{noise(i) * 100 + 1e-3 * static_cast<double>(step), static_cast<std::int32_t>(i),
                 static_cast<float>(noise(i + kKindBytes))};
  });
}

// Two pointers, three small numbers, a flag word, sixteen bytes of text; of the numbers one in eight changes.
inline std::vector<std::byte> heap(std::size_t step) {
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

inline std::vector<std::byte> random_words(std::size_t step) {
  return make<std::uint64_t>([=](std::size_t i) { return mix(i * 64 + step); });
}

// Records of 64 bytes: key, version, sixteen bytes of value, random text. One in forty gets another value.
struct KeyValue {
  std::uint64_t key, version, value[2], text[4];
};
inline std::vector<std::byte> key_values(std::size_t step) {
  return make<KeyValue>([=](std::size_t i) {
    std::size_t last = 0;
    for (std::size_t s = 1; s <= step; ++s)
      if (mix(i * 31 + s) % 40 == 0) last = s;
    return KeyValue{mix(i),
                    last,
                    {mix(i + last * 1000003), mix(i * 5 + last)},
                    {mix(i * 11), mix(i * 13), mix(i * 17), mix(i * 19)}};
  });
}

struct Kind {
  const char* name;
  std::vector<std::byte> (*make)(std::size_t step);
};
inline constexpr Kind kKinds[] = {{"wave", wave},
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
                                  {"random", random_words},
                                  {"key-value", key_values}};

}  // namespace varve::bench
