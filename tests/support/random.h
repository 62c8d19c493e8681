// SPDX-License-Identifier: Apache-2.0
//
// Random decisions that a seed repeats: SplitMix64 (public domain, prng.di.unimi.it).
#pragma once

#include <cstdint>

namespace varve::test {

class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15U;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31);
  }
  /// REQUIRES: bound > 0.
  std::uint64_t below(std::uint64_t bound) { return next() % bound; }
  bool one_in(std::uint64_t n) { return below(n) == 0; }
  bool coin() { return one_in(2); }

 private:
  std::uint64_t state_;
};

}  // namespace varve::test
