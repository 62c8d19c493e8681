// SPDX-License-Identifier: Apache-2.0
//
// The hash in one instruction set: XXH3 (BSD-2, xxhash.com), compiled once per set by hash_kernels.inc with the flags
// that storage/CMakeLists.txt gives to each unit. chunk_name.cc chooses the one that runs.
//
// A unit compiled for AVX must not leak inline functions: the linker keeps one copy of each, and a processor without
// AVX would run it. So units include this header, hash_kernels.inc and nothing else; XXH_INLINE_ALL makes every
// function of xxhash.h static.
#pragma once

#include <cstddef>
#include <cstdint>

namespace varve::storage {

struct HashKernels {
  const char* name;
  /// XXH3_128bits_withSecret: out[0] is the low half.
  void (*hash_128)(const void* content, std::size_t bytes, const void* secret, std::size_t secret_bytes,
                   std::uint64_t out[2]);
  /// XXH3_64bits_withSeed
  std::uint64_t (*hash_64)(const void* content, std::size_t bytes, std::uint64_t seed);
  /// The same of parts, one behind the other; `state`: kHashStateBytes at a multiple of 64.
  void (*hash_64_begin)(void* state, std::uint64_t seed);
  void (*hash_64_add)(void* state, const void* content, std::size_t bytes);
  std::uint64_t (*hash_64_end)(const void* state);
};

inline constexpr std::size_t kHashStateBytes = 576;

extern const HashKernels kHashBaseline;  ///< what every processor of this architecture has: SSE2 on x86-64
#if defined(__x86_64__)
extern const HashKernels kHashAvx2;
extern const HashKernels kHashAvx512;
#endif

/// All that this processor can run, fastest first; never empty. `count` receives how many.
const HashKernels* const* hash_kernels(std::size_t* count);

}  // namespace varve::storage
