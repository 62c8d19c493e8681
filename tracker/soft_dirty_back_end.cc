// SPDX-License-Identifier: Apache-2.0
#include "tracker/soft_dirty_back_end.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <span>

#include <fmt/format.h>

#include "base/os_error.h"
#include "base/try.h"
#include "base/unique_fd.h"

namespace varve::tracker {
namespace {

constexpr std::size_t kEntriesAtOnce = 32768;  // 128 MiB of pages, 256 KiB of entries

}  // namespace

Result<std::unique_ptr<SoftDirtyBackEnd>> SoftDirtyBackEnd::create() {
  std::unique_ptr<SoftDirtyBackEnd> made(new SoftDirtyBackEnd());
  VARVE_TRY(made->try_everything());
  return made;
}

Result<Seen> SoftDirtyBackEnd::list(PageRange range, ScanBuffer& buffer, PageRuns& written) {
  const std::size_t size = page_bytes();
  if (buffer.empty()) {
    const std::size_t entries = std::min(range.size_bytes() / size, kEntriesAtOnce);
    buffer.resize(entries * sizeof(std::uint64_t) / sizeof(abi::PageRegion) + 1);
  }
  const std::span entries(reinterpret_cast<std::uint64_t*>(buffer.data()),
                          buffer.size() * sizeof(abi::PageRegion) / sizeof(std::uint64_t));
  for (std::uintptr_t at = range.begin; at < range.end;) {
    const std::size_t wanted = std::min(entries.size(), (range.end - at) / size);
    const long got = pagemap_.read_entries(at, entries.first(wanted));
    if (got < 0)
      return os_error(fmt::format("reading soft-dirty bits of {:#x}-{:#x} failed", range.begin, range.end),
                      static_cast<int>(-got));
    for (const std::uint64_t entry : entries.first(static_cast<std::size_t>(got))) {
      if ((entry & abi::kPagemapSoftDirty) != 0) append_run(written, {at, at + size});
      at += size;
    }
  }
  return Seen::done;
}

Result<Seen> SoftDirtyBackEnd::list_and_protect(PageRange range, ScanBuffer&, PageRuns&) {
  return fail(ErrorCode::unsupported, {fmt::format("protecting {:#x}-{:#x} by soft-dirty", range.begin, range.end),
                                       "bits can be cleared for the whole process only", "leave it to the cuts"});
}

Status SoftDirtyBackEnd::protect_everything() {
  const UniqueFd file(open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC));
  if (!file.valid() || write(file.get(), "4", 1) != 1)
    return os_error("clearing the soft-dirty bits through /proc/self/clear_refs failed", errno,
                    "mount /proc for writing, or use another tracker");
  return {};
}

}  // namespace varve::tracker
