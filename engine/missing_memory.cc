// SPDX-License-Identifier: Apache-2.0
#include "engine/missing_memory.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <string_view>

#include <fmt/format.h>

#include "base/bytes.h"
#include "base/env.h"
#include "base/os_error.h"
#include "tracker/tracker.h"

namespace varve {
namespace {

#ifndef MREMAP_DONTUNMAP
constexpr int MREMAP_DONTUNMAP = 4;  // since Linux 5.7: include/uapi/linux/mman.h
#endif
/// Page tables can be moved whole between addresses that are equal modulo this (a gigabyte in some 0.2 ms), else entry
/// by entry (50 times as slow).
constexpr std::uintptr_t kTableBytes = std::uintptr_t{2} << 20;
/// What is freed by one call, so that faults don't wait long for the address space's lock.
constexpr std::uintptr_t kFreeBytes = std::uintptr_t{32} << 20;

Error refused(std::string cause, int os_errno) {
  return fail(
      ErrorCode::unsupported,
      {"leaving memory to be restored lazily refused", std::move(cause),
       "allow a full userfaultfd: CAP_SYS_PTRACE, access to /dev/userfaultfd, or vm.unprivileged_userfaultfd=1"},
      os_errno);
}

int open_full_userfaultfd() {
  int fd = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
  if (fd >= 0) return fd;
  const int error = errno;
  const UniqueFd device(open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));  // since Linux 6.1
  if (device.valid()) fd = ioctl(device.get(), USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) errno = error;
  return fd;
}

uffdio_range as_range(AddressRange range) { return {.start = range.begin, .len = range.end - range.begin}; }

/// What the kernel says of a page that it did not put in place.
Result<MissingMemory::Placed> not_placed(int error, std::uintptr_t page) {
  using Placed = MissingMemory::Placed;
  if (error == EEXIST) return Placed::before;
  if (error == EAGAIN || error == EINTR) return Placed::changing;
  // ENOENT: not mapped, or mapped anew without us. EINVAL: of another kind by now. ESRCH: the process is ending.
  if (error == ENOENT || error == EINVAL || error == ESRCH) return Placed::gone;
  return os_error(fmt::format("putting the page at {:#x} in place failed", page), error);
}

}  // namespace

Result<std::unique_ptr<MissingMemory>> MissingMemory::open() {
  if (const char* lazy = std::getenv(env::kLazy); lazy != nullptr && std::string_view(lazy) == "off")
    return fail(ErrorCode::unsupported, {"leaving memory to be restored lazily refused",
                                         fmt::format("{}=off forbids it", env::kLazy), "unset the variable"});
  UniqueFd fd(open_full_userfaultfd());
  if (!fd.valid()) return refused("userfaultfd(2) said " + describe_errno(errno), errno);
  uffdio_api api{};
  api.api = UFFD_API;
  // Else content that the program drops (MADV_DONTNEED) would come back.
  api.features = UFFD_FEATURE_EVENT_REMOVE;
  if (ioctl(fd.get(), UFFDIO_API, &api) != 0) return refused("UFFDIO_API said " + describe_errno(errno), errno);
  return std::unique_ptr<MissingMemory>(new MissingMemory(storage::GuardedFd(std::move(fd))));
}

MissingMemory::~MissingMemory() {
  const std::atomic<bool> stop{false};
  free_moved(stop);
}

bool MissingMemory::register_range(AddressRange range) {
  uffdio_register request{};
  request.range = as_range(range);
  request.mode = UFFDIO_REGISTER_MODE_MISSING;
  if (ioctl(uffd_.get(), UFFDIO_REGISTER, &request) != 0) return false;
  constexpr std::uint64_t kNeeded = (1ULL << _UFFDIO_COPY) | (1ULL << _UFFDIO_ZEROPAGE) | (1ULL << _UFFDIO_WAKE);
  if ((request.ioctls & kNeeded) == kNeeded) return true;
  unregister_range(range);
  errno = EOPNOTSUPP;
  return false;
}

bool MissingMemory::unregister_range(AddressRange range) {
  uffdio_range request = as_range(range);
  return ioctl(uffd_.get(), UFFDIO_UNREGISTER, &request) == 0;
}

bool MissingMemory::move_away(AddressRange range) {
  const std::size_t bytes = range.end - range.begin;
  void* const room = mmap(nullptr, bytes + kTableBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (room == MAP_FAILED) return false;
  const auto room_begin = reinterpret_cast<std::uintptr_t>(room);
  const std::uintptr_t room_end = room_begin + bytes + kTableBytes;
  std::uintptr_t target = round_down(room_begin, kTableBytes) + range.begin % kTableBytes;
  if (target < room_begin) target += kTableBytes;
  void* const moved = mremap(reinterpret_cast<void*>(range.begin), bytes, bytes,
                             MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, reinterpret_cast<void*>(target));
  if (moved == MAP_FAILED) {
    munmap(room, bytes + kTableBytes);
    return false;
  }
  if (target > room_begin) munmap(room, target - room_begin);
  if (target + bytes < room_end) munmap(reinterpret_cast<void*>(target + bytes), room_end - target - bytes);
  moved_.push_back({target, target + bytes});
  return true;
}

std::string MissingMemory::drop(AddressRange range, Become become) {
  auto* const begin = reinterpret_cast<void*>(range.begin);
  // Registered to see whether we may, and not while it is dropped: that would have to be read as an event of ours.
  if (become == Become::missing) {
    if (!register_range(range)) {
      if (errno == EBUSY) return "another userfaultfd has it: a tracker of another engine, or the program's own";
      return "registering it with userfaultfd failed: " + describe_errno(errno);
    }
    unregister_range(range);
  }
  // Says for one page whether the kernel lets it be dropped: EINVAL where it is locked (mlock(2)), EPERM where it is
  // sealed (mseal(2)).
  if (madvise(begin, tracker::page_bytes(), MADV_DONTNEED) != 0)
    return errno == EINVAL ? "it is locked in memory (mlock)" : "it can't be dropped: " + describe_errno(errno);
  if (!move_away(range) && madvise(begin, range.end - range.begin, MADV_DONTNEED) != 0)
    return "it can't be dropped: " + describe_errno(errno);
  if (become == Become::zero) return {};
  if (!register_range(range)) return "registering it with userfaultfd failed: " + describe_errno(errno);
  madvise(begin, range.end - range.begin, MADV_DONTFORK);
  return {};
}

void MissingMemory::free_moved(const std::atomic<bool>& stop) {
  while (!moved_.empty() && !stop.load(std::memory_order_relaxed)) {
    AddressRange& last = moved_.back();
    const std::uintptr_t bytes = std::min(kFreeBytes, last.end - last.begin);
    munmap(reinterpret_cast<void*>(last.end - bytes), bytes);
    last.end -= bytes;
    if (last.begin == last.end) moved_.pop_back();
  }
}

void MissingMemory::give_back(AddressRange range, bool fork_holds_it) {
  unregister_range(range);  // fails for what is not mapped any more, which is as good
  if (fork_holds_it) let_fork(range);
}

void MissingMemory::let_fork(AddressRange range) {
  madvise(reinterpret_cast<void*>(range.begin), range.end - range.begin, MADV_DOFORK);
}

Result<MissingMemory::Placed> MissingMemory::copy(std::uintptr_t page, const std::byte* content) {
  uffdio_copy request{};
  request.dst = page;
  request.src = reinterpret_cast<std::uint64_t>(content);
  request.len = tracker::page_bytes();
  if (ioctl(uffd_.get(), UFFDIO_COPY, &request) == 0) return Placed::now;
  return not_placed(errno, page);
}

Result<MissingMemory::Placed> MissingMemory::zero(AddressRange range, std::size_t& done) {
  uffdio_zeropage request{};
  request.range = as_range(range);
  done = 0;
  const bool all = ioctl(uffd_.get(), UFFDIO_ZEROPAGE, &request) == 0;
  const int error = errno;
  if (all || request.zeropage > 0) {  // a part of it: EAGAIN, whatever stopped it
    done = static_cast<std::size_t>(request.zeropage);
    return Placed::now;
  }
  return not_placed(error, range.begin);
}

void MissingMemory::wake(std::uintptr_t page) {
  uffdio_range request{.start = page, .len = tracker::page_bytes()};
  ioctl(uffd_.get(), UFFDIO_WAKE, &request);
}

void MissingMemory::read_events(std::vector<Event>& events) {
  std::array<uffd_msg, 32> messages{};
  const ssize_t got = read(uffd_.get(), messages.data(), sizeof messages);
  for (std::size_t i = 0; got > 0 && i < static_cast<std::size_t>(got) / sizeof(uffd_msg); ++i) {
    const uffd_msg& message = messages[i];
    if (message.event == UFFD_EVENT_PAGEFAULT) {
      const std::uintptr_t page = round_down(std::uintptr_t{message.arg.pagefault.address}, tracker::page_bytes());
      events.push_back({.dropped = false, .range = {page, page + tracker::page_bytes()}});
    } else if (message.event == UFFD_EVENT_REMOVE) {
      events.push_back({.dropped = true, .range = {message.arg.remove.start, message.arg.remove.end}});
    }
  }
}

}  // namespace varve
