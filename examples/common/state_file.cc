// SPDX-License-Identifier: Apache-2.0
#include "common/state_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>

namespace example {
namespace {

bool complain(const char* action, const std::string& path) {
  std::fprintf(stderr, "%s of %s failed: %s; check the path and the space on its file system\n", action, path.c_str(),
               std::strerror(errno));
  return false;
}

bool write_all(int fd, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return false;
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
  return true;
}

}  // namespace

bool write_state(const std::string& path, std::span<const std::span<const std::byte>> parts, std::uint64_t& took_ns) {
  const auto begin = std::chrono::steady_clock::now();
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) return complain("open", path);
  bool good = true;
  for (const auto& part : parts) good = good && write_all(fd, part);
  if (!good) complain("write", path);
  if (good && fsync(fd) != 0 && errno != EINVAL) good = complain("flush", path);  // EINVAL: /dev/null, a pipe
  if (close(fd) != 0 && good) good = complain("close", path);
  took_ns = static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - begin).count());
  return good;
}

}  // namespace example
