// SPDX-License-Identifier: Apache-2.0
//
// How many processors this thread may use: sched_getaffinity(2), which containers and taskset(1) narrow. Fewer than
// the machine has at times, never 0.
//
// Threads: any.
#pragma once

#include <sched.h>
#include <unistd.h>

#include <algorithm>

namespace varve {

inline unsigned usable_processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  // It fails where there are more processors than the set has room for.
  if (sched_getaffinity(0, sizeof set, &set) != 0)
    return static_cast<unsigned>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN)));
  return static_cast<unsigned>(CPU_COUNT(&set));
}

}  // namespace varve
