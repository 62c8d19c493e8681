// SPDX-License-Identifier: Apache-2.0
//
// Probing by doing: each back end that needs something of the kernel is used on a few pages, and must report what was
// written and nothing else. Asking is not enough: on kernels without soft-dirty bits, clearing them succeeds.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>

#include <fmt/format.h>

#include "base/bytes.h"
#include "base/os_error.h"
#include "base/try.h"
#include "base/unique_fd.h"
#include "tracker/mprotect_back_end.h"
#include "tracker/scratch.h"
#include "tracker/soft_dirty_back_end.h"
#include "tracker/uffd_back_end.h"

namespace varve::tracker {
namespace {

constexpr std::size_t kHugePageBytes = std::size_t{2} << 20;

Error not_so(const char* back_end, std::string found) {
  return fail(ErrorCode::unsupported, {fmt::format("{} was tried and does not work on this kernel", back_end),
                                       std::move(found), "use another tracker"});
}

// Lets the kernel write one byte, as read(2) does.
Status written_by_kernel(std::byte* target) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return os_error("making a pipe to try the tracker failed", errno);
  const UniqueFd in(ends[0]);
  const UniqueFd out(ends[1]);
  const char byte = 1;
  if (write(out.get(), &byte, 1) != 1) return os_error("writing to a pipe to try the tracker failed", errno);
  if (read(in.get(), target, 1) != 1) return os_error("reading a pipe into tracked memory failed", errno);
  return {};
}

// "3 5 12": page numbers, relative to the first.
std::string page_numbers(const PageRuns& runs, std::uintptr_t first) {
  std::string text;
  for (const PageRange& run : runs)
    for (std::uintptr_t at = run.begin; at < run.end; at += page_bytes())
      text += fmt::format("{}{}", text.empty() ? "" : " ", (at - first) / page_bytes());
  return text;
}

}  // namespace

Status UffdBackEnd::try_marks(PageRange pages) {
  const std::size_t size = page_bytes();
  const auto page = [&](std::size_t number) { return reinterpret_cast<std::byte*>(pages.begin + number * size); };
  ScanBuffer buffer;
  const auto expect = [&](const char* when, const char* expected, bool protect) -> Status {
    PageRuns runs;
    VARVE_TRY_ASSIGN(const Seen seen, protect ? list_and_protect(pages, buffer, runs) : list(pages, buffer, runs));
    const std::string found = page_numbers(runs, pages.begin);
    if (seen == Seen::done && found == expected) return {};
    return not_so("uffd", fmt::format("{}, pages '{}' were reported instead of '{}'", when, found, expected));
  };
  for (std::size_t number = 0; number < 4; ++number) *page(number) = std::byte{1};
  VARVE_TRY(expect("before protecting", "0 1 2 3 4 5 6 7", true));
  VARVE_TRY(expect("after protecting", "", false));
  *page(1) = std::byte{2};
  *page(6) = std::byte{2};  // was never populated
  VARVE_TRY(written_by_kernel(page(3)));
  VARVE_TRY(expect("after writes by a thread and by the kernel", "1 3 6", false));
  madvise(page(0), size, MADV_DONTNEED);
  VARVE_TRY(expect("after dropping a page", "0 1 3 6", true));
  return expect("after protecting again", "", false);
}

Status UffdBackEnd::try_everything() {
  VARVE_TRY_ASSIGN(const Scratch scratch, Scratch::make(3 * kHugePageBytes));
  const std::uintptr_t untouched = round_up(scratch.range().begin, kHugePageBytes);
  const PageRange hole{untouched, untouched + kHugePageBytes};
  const PageRange pages{hole.end, hole.end + 8 * page_bytes()};
  VARVE_TRY(add(scratch.range()));
  ScanBuffer buffer;
  PageRuns runs;
  Status status;
  if (auto seen = list(hole, buffer, runs); !seen.has_value()) {
    status = fail(ErrorCode::unsupported, {"uffd can't list written pages", seen.error().cause(),
                                           "use Linux 6.7 or newer, or another tracker"});
  } else {
    scan_passes_over_holes_ = runs.empty();
    status = try_marks(pages);
  }
  remove(scratch.range());
  return status;
}

Status SoftDirtyBackEnd::try_everything() {
  VARVE_TRY_ASSIGN(const Scratch scratch, Scratch::make(8 * page_bytes()));
  const auto page = [&](std::size_t number) {
    return reinterpret_cast<std::byte*>(scratch.range().begin + number * page_bytes());
  };
  for (std::size_t number = 0; number < 4; ++number) *page(number) = std::byte{1};
  VARVE_TRY(protect_everything());
  *page(1) = std::byte{2};
  *page(6) = std::byte{2};
  VARVE_TRY(written_by_kernel(page(3)));
  ScanBuffer buffer;
  PageRuns runs;
  VARVE_TRY_ASSIGN(const Seen seen, list(scratch.range(), buffer, runs));
  const std::string found = page_numbers(runs, scratch.range().begin);
  if (seen == Seen::done && found == "1 3 6") return {};
  const char* hint = found.empty() ? " (clearing succeeds without CONFIG_MEM_SOFT_DIRTY)" : "";
  return not_so("soft-dirty", fmt::format("pages 1, 3 and 6 were written, '{}' were reported{}", found, hint));
}

Status MprotectBackEnd::try_everything() {
  VARVE_TRY_ASSIGN(const Scratch scratch, Scratch::make(page_bytes()));
  auto* page = reinterpret_cast<std::byte*>(scratch.range().begin);
  *page = std::byte{1};
  if (mprotect(page, page_bytes(), PROT_READ) != 0) return os_error("protecting a page to try mprotect failed", errno);
  if (written_by_kernel(page).has_value()) return not_so("mprotect", "the kernel wrote into a read-only page");
  if (mprotect(page, page_bytes(), PROT_READ | PROT_WRITE) != 0)
    return os_error("making a page writable again to try mprotect failed", errno);
  *page = std::byte{2};
  std::vector<Mapping> mappings;
  return read_mappings(scratch.range(), mappings);
}

}  // namespace varve::tracker
