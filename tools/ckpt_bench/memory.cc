// SPDX-License-Identifier: Apache-2.0
#include "tools/ckpt_bench/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include <fmt/format.h>

#include "base/bytes.h"
#include "base/huge_memory.h"
#include "base/os_error.h"
#include "tools/units.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23  // include/uapi/asm-generic/mman-common.h, since 5.14
#endif

namespace varve::tools {

Result<Mapping> Mapping::create(const Options& options) {
  Mapping mapping;
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  if (options.bytes < page)
    return fail(ErrorCode::invalid_argument,
                {"mapping of memory for the benchmark refused",
                 fmt::format("{} bytes are less than a page of {}", options.bytes, page), "choose a larger --size"});
  mapping.size_ = options.bytes;
  // Aligned to huge pages, so that two mappings of one benchmark get the same share of them.
  mapping.mapped_ = round_up(options.offset % page + options.bytes, page) + kHugePageBytes;
  void* base =
      mmap(nullptr, mapping.mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED)
    return os_error(fmt::format("mapping of {} for the benchmark failed", format_bytes(options.bytes)), errno,
                    "choose a smaller --size");
  mapping.base_ = static_cast<std::byte*>(base);
  const auto address = reinterpret_cast<std::uintptr_t>(base);
  mapping.offset_ = round_up(address, kHugePageBytes) - address + options.offset % page;
  if (options.huge_pages != HugePages::system)  // only a wish: kernels without huge pages refuse it
    madvise(base, mapping.mapped_, options.huge_pages == HugePages::always ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  if (options.populate) tools::populate(mapping.bytes());
  return mapping;
}

Mapping::Mapping(Mapping&& other) noexcept
    : base_(std::exchange(other.base_, nullptr)), mapped_(other.mapped_), offset_(other.offset_), size_(other.size_) {}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  std::swap(base_, other.base_);
  std::swap(mapped_, other.mapped_);
  std::swap(offset_, other.offset_);
  std::swap(size_, other.size_);
  return *this;
}

Mapping::~Mapping() {
  if (base_ != nullptr) munmap(base_, mapped_);
}

void populate(std::span<std::byte> memory) {
  const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = round_down(reinterpret_cast<std::uintptr_t>(memory.data()), page);
  const auto end = round_up(reinterpret_cast<std::uintptr_t>(memory.data()) + memory.size(), page);
  if (madvise(reinterpret_cast<void*>(begin), end - begin, MADV_POPULATE_WRITE) == 0) return;
  for (auto at = begin; at < end; at += page) {  // older kernels
    auto* byte = reinterpret_cast<volatile std::byte*>(at);
    *byte = *byte;
  }
}

}  // namespace varve::tools
