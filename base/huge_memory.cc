// SPDX-License-Identifier: Apache-2.0
#include "base/huge_memory.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstdint>

#include "base/bytes.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23  // since Linux 5.14: include/uapi/asm-generic/mman-common.h
#endif

namespace varve {

std::byte* map_huge(std::size_t bytes, int protection) {
  const std::size_t padded = bytes + kHugePageBytes;
  void* const mapped = mmap(nullptr, padded, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  const auto begin = reinterpret_cast<std::uintptr_t>(mapped);
  const std::uintptr_t aligned = round_up(begin, kHugePageBytes);
  if (aligned > begin) munmap(mapped, aligned - begin);
  const std::uintptr_t end = begin + padded;
  if (end > aligned + bytes) munmap(reinterpret_cast<void*>(aligned + bytes), end - aligned - bytes);
  void* const memory = reinterpret_cast<void*>(aligned);
  // Each is a wish: a kernel without huge pages serves small ones; inherited memory costs only time.
  madvise(memory, bytes, MADV_HUGEPAGE);
  madvise(memory, bytes, MADV_DONTFORK);
  madvise(memory, bytes, MADV_DONTDUMP);
  return static_cast<std::byte*>(memory);
}

bool populate(std::byte* memory, std::size_t bytes) {
  while (true) {
    if (madvise(memory, bytes, MADV_POPULATE_WRITE) == 0) return true;
    if (errno == EINVAL || errno == ENOSYS || errno == EPERM) break;  // older kernel, or a filter: touch it instead
    if (errno != EINTR && errno != EAGAIN) return false;
  }
  for (std::size_t at = 0; at < bytes; at += 4096) static_cast<volatile std::byte*>(memory)[at] = std::byte{0};
  return true;
}

}  // namespace varve
