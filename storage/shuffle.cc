// SPDX-License-Identifier: Apache-2.0
#include "storage/shuffle.h"

#include <cstring>

#include "base/check.h"
#include "storage/shuffle_kernels.h"

namespace varve::storage {
namespace {

struct ShuffleChoice {
  const ShuffleKernels* kernels[3] = {};
  std::size_t count = 0;
};

ShuffleChoice choose_shuffle() {
  ShuffleChoice choice;
#if defined(__x86_64__)
  // __builtin_cpu_supports also asks whether the kernel saves these registers.
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
    choice.kernels[choice.count++] = &kShuffleAvx512;
  if (__builtin_cpu_supports("avx2")) choice.kernels[choice.count++] = &kShuffleAvx2;
  choice.kernels[choice.count++] = &kShuffleSse2;
#endif
  return choice;
}

const ShuffleChoice& shuffle_choice() {
  static const ShuffleChoice the_choice = choose_shuffle();
  return the_choice;
}

}  // namespace

const ShuffleKernels* const* shuffle_kernels(std::size_t* count) {
  *count = shuffle_choice().count;
  return shuffle_choice().kernels;
}

void shuffle_bytes(std::span<const std::byte> from, std::size_t element_bytes, std::span<std::byte> into) {
  VARVE_CHECK(element_bytes >= kMinElementBytes && element_bytes <= kMaxElementBytes && into.size() == from.size());
  const std::size_t elements = from.size() / element_bytes;
  const ShuffleKernels* const best = shuffle_choice().kernels[0];
  const std::size_t done = best == nullptr ? 0 : best->shuffle(from.data(), elements, element_bytes, into.data());
  for (std::size_t b = 0; b < element_bytes; ++b)
    for (std::size_t i = done; i < elements; ++i) into[b * elements + i] = from[i * element_bytes + b];
  const std::size_t whole = elements * element_bytes;
  if (whole != from.size()) std::memcpy(into.data() + whole, from.data() + whole, from.size() - whole);
}

void unshuffle_bytes(std::span<const std::byte> from, std::size_t element_bytes, std::span<std::byte> into) {
  VARVE_CHECK(element_bytes >= kMinElementBytes && element_bytes <= kMaxElementBytes && into.size() == from.size());
  const std::size_t elements = from.size() / element_bytes;
  const ShuffleKernels* const best = shuffle_choice().kernels[0];
  const std::size_t done = best == nullptr ? 0 : best->unshuffle(from.data(), elements, element_bytes, into.data());
  for (std::size_t i = done; i < elements; ++i)
    for (std::size_t b = 0; b < element_bytes; ++b) into[i * element_bytes + b] = from[b * elements + i];
  const std::size_t whole = elements * element_bytes;
  if (whole != from.size()) std::memcpy(into.data() + whole, from.data() + whole, from.size() - whole);
}

}  // namespace varve::storage
