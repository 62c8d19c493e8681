// SPDX-License-Identifier: Apache-2.0
//
// The byte shuffle in one instruction set, compiled once per set by shuffle_kernels.inc with the flags that
// storage/CMakeLists.txt gives to each unit. shuffle.cc chooses the one that runs, and does what they leave.
//
// A unit compiled for AVX must not leak inline functions: the linker keeps one copy of each, and a processor without
// AVX would run it. So units include this header, shuffle_kernels.inc and nothing else; what is in the latter has a
// namespace of each unit's own.
#pragma once

#include <cstddef>

namespace varve::storage {

struct ShuffleKernels {
  const char* name;
  /// As shuffle_bytes() and unshuffle_bytes(), for the first elements: gives how many were done, a multiple of 16.
  /// REQUIRES: element_bytes in [2, 16].
  std::size_t (*shuffle)(const std::byte* from, std::size_t elements, std::size_t element_bytes, std::byte* into);
  std::size_t (*unshuffle)(const std::byte* from, std::size_t elements, std::size_t element_bytes, std::byte* into);
};

#if defined(__x86_64__)
extern const ShuffleKernels kShuffleSse2;
extern const ShuffleKernels kShuffleAvx2;
extern const ShuffleKernels kShuffleAvx512;
#endif

/// All that this processor can run, fastest first; none where only plain loops are there. `count` receives how many.
const ShuffleKernels* const* shuffle_kernels(std::size_t* count);

}  // namespace varve::storage
