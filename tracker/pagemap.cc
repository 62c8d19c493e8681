// SPDX-License-Identifier: Apache-2.0
#include "tracker/pagemap.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

namespace varve::tracker {

// The descriptor to use, or -1 with errno; `failed` is one that may not be ours any more, or -1.
int Pagemap::descriptor(int failed) {
  MutexLock lock(mutex_);
  if (file_.valid() && (file_.get() != failed || file_.still_ours())) return file_.get();
  file_.forget();
  const int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (fd >= 0) file_ = OwnedFile(fd);
  return fd;
}

long Pagemap::scan(abi::ScanArguments& arguments) {
  int fd = descriptor(-1);
  for (int attempt = 0; fd >= 0; ++attempt) {
    const long regions = ioctl(fd, abi::kPagemapScan, &arguments);
    if (regions >= 0) return regions;
    const int error = errno;
    if (error == EINTR) continue;
    const bool gone = error == EBADF || error == ENOTTY;
    if (!gone || attempt > 0) return -error;
    fd = descriptor(fd);
  }
  return -errno;
}

long Pagemap::read_entries(std::uintptr_t address, std::span<std::uint64_t> entries) {
  int fd = descriptor(-1);
  const auto offset = static_cast<off_t>(address / page_bytes() * sizeof(std::uint64_t));
  for (int attempt = 0; fd >= 0; ++attempt) {
    const ssize_t got = pread(fd, entries.data(), entries.size_bytes(), offset);
    if (got > 0) return got / static_cast<long>(sizeof(std::uint64_t));
    const int error = got == 0 ? EIO : errno;
    if (error == EINTR) continue;
    if (error != EBADF || attempt > 0) return -error;
    fd = descriptor(fd);
  }
  return -errno;
}

}  // namespace varve::tracker
