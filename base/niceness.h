// SPDX-License-Identifier: Apache-2.0
//
// Niceness of single threads. In Linux it belongs to the thread: setpriority(2), "C library/kernel differences"; who 0
// is the caller. It can be raised by anybody, and lowered again by the privileged only.
#pragma once

#include <sys/resource.h>

#include <algorithm>

namespace varve {

inline constexpr int kLeastNice = -20;
inline constexpr int kMostNice = 19;

/// Of the calling thread: -20 to 19, less urgent the higher.
inline int niceness() { return getpriority(PRIO_PROCESS, 0); }  // an error would be a missing process

/// Makes the calling thread at least as nice as that. False: refused, which only a filter of system calls does.
inline bool raise_niceness(int wanted) {
  return niceness() >= std::min(wanted, kMostNice) || setpriority(PRIO_PROCESS, 0, std::min(wanted, kMostNice)) == 0;
}

}  // namespace varve
