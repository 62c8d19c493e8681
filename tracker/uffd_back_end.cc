// SPDX-License-Identifier: Apache-2.0
#include "tracker/uffd_back_end.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include <fmt/format.h>

#include "base/os_error.h"
#include "base/try.h"

namespace varve::tracker {
namespace {

constexpr std::uint64_t kFeatures =
    abi::kUffdFeatureWpAsync | abi::kUffdFeatureWpUnpopulated | abi::kUffdFeatureWpHugetlbfsShmem;

// An ordinary user may not have faults of the kernel held up by a full userfaultfd (vm.unprivileged_userfaultfd), but
// in asynchronous mode nobody is held up, and one for user mode sees the kernel's writes just as well.
int open_userfaultfd(std::string& way) {
  const auto call = [](int extra) {
    return static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | extra));
  };
  way = "full userfaultfd";
  int fd = call(0);
  if (fd >= 0) return fd;
  way = "UFFD_USER_MODE_ONLY";
  fd = call(abi::kUffdUserModeOnly);
  if (fd >= 0) return fd;
  const int error = errno;
  way = "/dev/userfaultfd";
  const UniqueFd device(open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
  if (device.valid()) fd = ioctl(device.get(), USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) errno = error;
  return fd;
}

Error range_refused(PageRange range, int error) {
  const char* cause = "this kind of memory can't be registered with userfaultfd";
  if (error == EBUSY) cause = "the program has registered part of it with a userfaultfd of its own";
  if (error == ENOMEM) cause = "the kernel has no memory, or no mapping, left for registering it with userfaultfd";
  return fail(ErrorCode::unsupported,
              {fmt::format("tracking of memory {:#x}-{:#x} by uffd refused", range.begin, range.end), cause,
               "leave the choice of the tracker to Varve, or choose another one (VARVE_TRACKER)"},
              error);
}

}  // namespace

Result<std::unique_ptr<UffdBackEnd>> UffdBackEnd::create() {
  std::unique_ptr<UffdBackEnd> made(new UffdBackEnd());
  {
    MutexLock lock(made->mutex_);
    VARVE_TRY(made->open_descriptor());
  }
  VARVE_TRY(made->try_everything());
  return made;
}

Status UffdBackEnd::open_descriptor() {
  std::string way;
  UniqueFd fd(open_userfaultfd(way));
  if (!fd.valid())
    return fail(ErrorCode::unsupported,
                {"userfaultfd is not available", "userfaultfd(2) said " + describe_errno(errno),
                 "allow it in the seccomp filter of the container, or use another tracker"},
                errno);
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = kFeatures;
  if (ioctl(fd.get(), UFFDIO_API, &api) != 0)
    return fail(ErrorCode::unsupported,
                {"userfaultfd has no asynchronous write protection", "UFFDIO_API said " + describe_errno(errno),
                 "use Linux 6.7 or newer, or another tracker"},
                errno);
  uffd_.forget();
  uffd_ = OwnedFile(fd.release());
  way_ = way;
  return {};
}

Status UffdBackEnd::add(PageRange range) {
  MutexLock lock(mutex_);
  // A descriptor that the program closed took all registrations with it; each is found out by its next scan.
  if (!uffd_.still_ours()) VARVE_TRY(open_descriptor());
  if (!register_range(range)) return range_refused(range, errno);
  // Marks may have survived from an earlier registration (mremap there and back, on older kernels): they would stand
  // for "not written" whatever is written from now on.
  uffdio_writeprotect request{.range = {.start = range.begin, .len = range.size_bytes()}, .mode = 0};
  while (ioctl(uffd_.get(), UFFDIO_WRITEPROTECT, &request) != 0) {
    const int error = errno;
    if (error == EAGAIN || error == EINTR) continue;  // mappings were changing
    unregister_range(range);
    return range_refused(range, error);
  }
  return {};
}

Status UffdBackEnd::add_again(PageRange range) { return add(range); }

void UffdBackEnd::remove(PageRange range) {
  MutexLock lock(mutex_);
  if (!uffd_.still_ours()) return;
  // Before Linux 6.14 or so, unregistering does not ask whose registration it ends, and the program may have mapped
  // over our range and registered that with a userfaultfd of its own. Registering does ask.
  if (!register_range(range) && errno == EBUSY) return;
  unregister_range(range);
}

void UffdBackEnd::remove_before_drop(PageRange range) {
  {
    MutexLock lock(mutex_);
    // Unregistering a write-protected mapping walks all of its pages (70 ms a gigabyte) to take the marks back.
    // Changing its mode first does not, and marks in a mapping that is not write-protected mean nothing to the kernel.
    // Nobody waits for the missing pages that this asks for: unregistering wakes who came in between.
    if (uffd_.still_ours()) {
      uffdio_register request{};
      request.range = {.start = range.begin, .len = range.size_bytes()};
      request.mode = UFFDIO_REGISTER_MODE_MISSING;
      if (ioctl(uffd_.get(), UFFDIO_REGISTER, &request) == 0) return unregister_range(range);
    }
  }
  remove(range);
}

bool UffdBackEnd::register_range(PageRange range) {
  uffdio_register request{};
  request.range = {.start = range.begin, .len = range.size_bytes()};
  request.mode = UFFDIO_REGISTER_MODE_WP;
  return ioctl(uffd_.get(), UFFDIO_REGISTER, &request) == 0;
}

void UffdBackEnd::unregister_range(PageRange range) {
  // Fails for what is not mapped any more, which is as good.
  uffdio_range request{.start = range.begin, .len = range.size_bytes()};
  ioctl(uffd_.get(), UFFDIO_UNREGISTER, &request);
}

Result<Seen> UffdBackEnd::scan(PageRange range, const Question& question, ScanBuffer& buffer, PageRuns& found) {
  const std::size_t room = std::min<std::size_t>(range.size_bytes() / page_bytes(), 4096);
  if (buffer.size() < room) buffer.resize(room);
  std::uintptr_t at = range.begin;
  while (at < range.end) {
    abi::ScanArguments arguments{};
    arguments.size = sizeof arguments;
    arguments.flags = question.flags | abi::kScanCheckWpAsync;
    arguments.start = at;
    arguments.end = range.end;
    arguments.vec = reinterpret_cast<std::uint64_t>(buffer.data());
    arguments.vec_len = buffer.size();
    arguments.category_inverted = question.inverted;
    arguments.category_mask = question.all_of;
    arguments.category_anyof_mask = question.any_of;
    arguments.return_mask = question.answer;
    const long regions = pagemap_.scan(arguments);
    if (regions < 0) {
      // It may have protected pages before it failed, and forgets to say which.
      if ((question.flags & abi::kScanWpMatching) != 0) append_run(found, {at, range.end});
      if (regions == -EPERM) return Seen::lost;
      return os_error(fmt::format("looking for written pages in {:#x}-{:#x} failed", range.begin, range.end),
                      static_cast<int>(-regions));
    }
    for (long i = 0; i < regions; ++i) {
      const abi::PageRegion& region = buffer[static_cast<std::size_t>(i)];
      const bool protected_elsewhere =
          (region.categories & abi::kPageIsWritten) == 0 && (region.categories & abi::kPageIsSwapped) != 0;
      if (!protected_elsewhere) append_run(found, {region.start, region.end});
    }
    at = arguments.walk_end;
  }
  return Seen::done;
}

Result<Seen> UffdBackEnd::list(PageRange range, ScanBuffer& buffer, PageRuns& written) {
  // The kernel has a fast path for exactly this question.
  Question question{.all_of = abi::kPageIsWritten, .answer = abi::kPageIsWritten};
  if (scan_passes_over_holes_) {
    // Written, or not present. Of the latter, swapped entries (and marks on empty ones, which count as swapped) are
    // sorted out by their own mark.
    question = {.inverted = abi::kPageIsPresent,
                .any_of = abi::kPageIsWritten | abi::kPageIsPresent,
                .answer = abi::kPageIsWritten | abi::kPageIsPresent | abi::kPageIsSwapped};
  }
  return scan(range, question, buffer, written);
}

Result<Seen> UffdBackEnd::list_huge(PageRange range, ScanBuffer& buffer, PageRuns& huge) {
  return scan(range, {.all_of = abi::kPageIsHuge, .answer = abi::kPageIsHuge}, buffer, huge);
}

Result<Seen> UffdBackEnd::list_and_protect(PageRange range, ScanBuffer& buffer, PageRuns& written) {
  const Question question{.flags = abi::kScanWpMatching, .all_of = abi::kPageIsWritten, .answer = abi::kPageIsWritten};
  if (!scan_passes_over_holes_) return scan(range, question, buffer, written);
  PageRuns marked;
  PageRuns holes;
  auto seen = scan(range, question, buffer, marked);
  if (seen.has_value() && *seen == Seen::done) {
    const std::uint64_t neither = abi::kPageIsPresent | abi::kPageIsSwapped;
    seen = scan(range, {.flags = abi::kScanWpMatching, .inverted = neither, .all_of = neither, .answer = neither},
                buffer, holes);
  }
  auto hole = holes.begin();
  for (const PageRange& run : marked) {
    for (; hole != holes.end() && hole->begin <= run.begin; ++hole) append_run(written, *hole);
    append_run(written, run);
  }
  for (; hole != holes.end(); ++hole) append_run(written, *hole);
  return seen;
}

Result<Seen> UffdBackEnd::list_and_protect_present(PageRange range, ScanBuffer& buffer, PageRuns& written) {
  const std::uint64_t both = abi::kPageIsWritten | abi::kPageIsPresent;
  return scan(range, {.flags = abi::kScanWpMatching, .all_of = both, .answer = both}, buffer, written);
}

Status UffdBackEnd::protect_everything() {
  return fail(ErrorCode::unsupported,
              {"protecting all memory by uffd", "it protects ranges only", "protect the ranges that are tracked"});
}

Costs UffdBackEnd::costs() {
  {
    MutexLock lock(mutex_);
    if (costs_.has_value()) return *costs_;
  }
  const Costs measured = measure_costs(*this);
  MutexLock lock(mutex_);
  if (!costs_.has_value()) costs_ = measured;
  return *costs_;
}

std::string UffdBackEnd::remark() const {
  MutexLock lock(mutex_);
  return way_ + (scan_passes_over_holes_ ? "; slower scan, since this kernel's passes over holes" : "");
}

}  // namespace varve::tracker
