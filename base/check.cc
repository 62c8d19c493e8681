// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/env.h"

namespace varve {
namespace {

[[noreturn]] void end_program() noexcept {
  const char* stop = std::getenv(env::kStopOnFail);
  if (stop != nullptr && std::strcmp(stop, "1") == 0) {
    std::array<char, 128> line{};
    const int bytes = std::snprintf(line.data(), line.size(), "varve: pid %d waits for a debugger (%s=1)\n",
                                    static_cast<int>(getpid()), env::kStopOnFail);
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line.data(), static_cast<std::size_t>(bytes));
    while (true) pause();
  }
  std::abort();
}

}  // namespace

void check_failed(const char* file, int line, const char* condition) noexcept {
  std::fprintf(stderr, "varve: check failed at %s:%d: %s (this is a bug in Varve; no image was made of it)\n", file,
               line, condition);
  end_program();
}

void stop_program(std::string_view message) noexcept {
  std::array<char, 4096> line{};  // a longer message is cut: nothing is allocated here
  const int bytes =
      std::snprintf(line.data(), line.size(), "varve: %.*s\n", static_cast<int>(message.size()), message.data());
  const auto shown = std::min(static_cast<std::size_t>(std::max(bytes, 0)), line.size() - 1);
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line.data(), shown);
  end_program();
}

}  // namespace varve
