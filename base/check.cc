// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/env.h"

namespace varve {

void check_failed(const char* file, int line, const char* condition) noexcept {
  std::fprintf(stderr, "varve: check failed at %s:%d: %s (this is a bug in Varve; no image was made of it)\n", file,
               line, condition);
  const char* stop = std::getenv(env::kStopOnFail);
  if (stop != nullptr && std::strcmp(stop, "1") == 0) {
    std::fprintf(stderr, "varve: pid %d waits for a debugger (%s=1)\n", static_cast<int>(getpid()), env::kStopOnFail);
    while (true) pause();
  }
  std::abort();
}

}  // namespace varve
