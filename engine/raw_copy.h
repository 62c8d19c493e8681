// SPDX-License-Identifier: Apache-2.0
//
// A copy of memory that others may write meanwhile, or that is made where no library may be called.
#pragma once

#include <cstddef>

/// For everything that the forked holder runs: sanitizers' runtimes may hold locks that nobody there would ever
/// release.
#define VARVE_HOLDER_SAFE __attribute__((no_sanitize("address", "thread", "undefined")))

namespace varve {

/// No call, no instrumentation. What is written meanwhile arrives in part, or not: the caller finds out and drops it.
VARVE_HOLDER_SAFE inline void raw_copy(std::byte* to, const std::byte* from, std::size_t bytes) noexcept {
#if defined(__x86_64__)
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes) : : "memory");
#else
  // volatile: compilers turn a plain loop into a call of memcpy, which sanitizers replace by theirs.
  for (std::size_t at = 0; at < bytes; ++at)
    static_cast<volatile std::byte*>(to)[at] = static_cast<const volatile std::byte*>(from)[at];
#endif
}

}  // namespace varve
