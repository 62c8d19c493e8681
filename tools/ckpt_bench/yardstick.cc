// SPDX-License-Identifier: Apache-2.0
#include "tools/ckpt_bench/yardstick.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <thread>
#include <utility>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/os_error.h"
#include "base/try.h"
#include "base/unique_fd.h"
#include "tools/ckpt_bench/workload.h"
#include "tracker/kernel_abi.h"

namespace varve::tools {
namespace {

namespace abi = tracker::abi;

constexpr std::size_t kPieceBytes = std::size_t{1} << 20;
constexpr unsigned kInFlight = 8;  // pieces; with pieces of 1 MiB no disk that we met gains from more

Error scan_error(int os_errno) {
  return os_error("listing scan of the yardstick failed", os_errno,
                  "see errno(3) for this cause; /proc must be mounted");
}

Result<UniqueFd> open_file(const std::string& path, int flags) {
  UniqueFd fd(open(path.c_str(), flags | O_CLOEXEC, 0600));
  if (!fd.valid()) return os_error("open of " + path + " failed", errno);
  return fd;
}

Status write_fully(int fd, const std::string& path, std::span<const std::byte> bytes, std::uint64_t at) {
  while (!bytes.empty()) {
    const ssize_t written = pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(at));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return os_error("write of " + path + " failed", errno);
    bytes = bytes.subspan(static_cast<std::size_t>(written));
    at += static_cast<std::uint64_t>(written);
  }
  return {};
}

struct Opened {
  UniqueFd fd;
  bool direct = true;
};

Result<Opened> open_direct(const std::string& path, int flags) {
  UniqueFd fd(open(path.c_str(), flags | O_DIRECT | O_CLOEXEC, 0600));
  if (fd.valid()) return Opened{std::move(fd), true};
  if (errno != EINVAL) return os_error("open of " + path + " failed", errno);
  VARVE_TRY_ASSIGN(UniqueFd buffered, open_file(path, flags));
  return Opened{std::move(buffered), false};
}

// Runs `piece(offset, bytes, buffer)` for all pieces, a few at a time; the first errno of any, or 0.
template <class Piece>
int in_pieces(std::uint64_t bytes, const Mapping& buffers, const Piece& piece) {
  std::atomic<std::uint64_t> next{0};
  std::atomic<int> failed{0};
  std::vector<std::jthread> threads;
  for (std::size_t i = 0; i < kInFlight; ++i)
    threads.emplace_back([&, content = buffers.bytes().subspan(i * kPieceBytes, kPieceBytes)] {
      while (failed.load() == 0) {
        const std::uint64_t at = next.fetch_add(kPieceBytes);
        if (at >= bytes) return;
        const auto part = content.first(std::min<std::uint64_t>(kPieceBytes, bytes - at));
        const ssize_t done = piece(at, part);
        if (done != static_cast<ssize_t>(part.size())) failed.store(done < 0 ? errno : EIO);
      }
    });
  threads.clear();  // joins
  return failed.load();
}

/// In huge pages, as the engine writes: a request is one segment then.
Result<Mapping> piece_buffers() {
  VARVE_TRY_ASSIGN(auto buffers, Mapping::create({.bytes = kInFlight * kPieceBytes, .huge_pages = HugePages::always}));
  fill(buffers.bytes(), DataKind::random, 1);
  return buffers;
}

}  // namespace

Result<ListingScan> ListingScan::create() {
  ListingScan listing;
  listing.fd_ = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (listing.fd_ < 0) return scan_error(errno);
  listing.room_.resize(std::size_t{64} << 10);
  return listing;
}

ListingScan::ListingScan(ListingScan&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), by_scan_(other.by_scan_), room_(std::move(other.room_)) {}

ListingScan::~ListingScan() {
  if (fd_ >= 0) close(fd_);
}

Result<std::uint64_t> ListingScan::run(std::span<const std::byte> memory) {
  if (by_scan_) {
    auto ns = scan(memory);
    if (ns || (ns.error().os_errno() != ENOTTY && ns.error().os_errno() != EINVAL)) return ns;
    by_scan_ = false;
  }
  return read_entries(memory);
}

Result<std::uint64_t> ListingScan::scan(std::span<const std::byte> memory) {
  const auto begin = round_down(reinterpret_cast<std::uintptr_t>(memory.data()), kPageBytes);
  const auto end = round_up(reinterpret_cast<std::uintptr_t>(memory.data()) + memory.size(), kPageBytes);
  const std::uint64_t begin_ns = monotonic_ns();
  for (std::uint64_t at = begin; at < end;) {
    abi::ScanArguments arguments{};
    arguments.size = sizeof arguments;
    arguments.start = at;
    arguments.end = end;
    arguments.vec = reinterpret_cast<std::uint64_t>(room_.data());
    arguments.vec_len = room_.size() * sizeof(std::uint64_t) / sizeof(abi::PageRegion);
    arguments.category_mask = abi::kPageIsWritten;
    arguments.return_mask = abi::kPageIsWritten;
    if (ioctl(fd_, abi::kPagemapScan, &arguments) < 0) return scan_error(errno);
    if (arguments.walk_end <= at) return scan_error(EIO);
    at = arguments.walk_end;
  }
  return monotonic_ns() - begin_ns;
}

Result<std::uint64_t> ListingScan::read_entries(std::span<const std::byte> memory) {
  const auto begin = reinterpret_cast<std::uintptr_t>(memory.data()) / kPageBytes;
  const auto end = (reinterpret_cast<std::uintptr_t>(memory.data()) + memory.size() + kPageBytes - 1) / kPageBytes;
  const std::uint64_t begin_ns = monotonic_ns();
  for (std::uint64_t page = begin; page < end;) {
    const std::size_t wanted = std::min<std::size_t>(room_.size(), end - page) * sizeof(std::uint64_t);
    const ssize_t got = pread(fd_, room_.data(), wanted, static_cast<off_t>(page * sizeof(std::uint64_t)));
    if (got <= 0) return scan_error(got < 0 ? errno : EIO);
    page += static_cast<std::size_t>(got) / sizeof(std::uint64_t);
  }
  return monotonic_ns() - begin_ns;
}

std::uint64_t copy_pages(std::span<std::byte> memory, const std::vector<std::uint32_t>& pages,
                         std::span<std::byte> into) {
  const std::uint64_t begin_ns = monotonic_ns();
  std::size_t at = 0;
  for (std::size_t i = 0; i < pages.size();) {
    std::size_t next = i + 1;
    while (next < pages.size() && pages[next] == pages[next - 1] + 1) ++next;
    const auto first = page_of(memory, pages[i]), last = page_of(memory, pages[next - 1]);
    const auto bytes = static_cast<std::size_t>(last.data() + last.size() - first.data());
    std::memcpy(into.data() + at, first.data(), bytes);
    at += bytes;
    i = next;
  }
  return monotonic_ns() - begin_ns;
}

Result<std::uint64_t> write_file(const std::string& path, std::span<const std::byte> memory) {
  constexpr std::size_t kWriteBytes = std::size_t{8} << 20;
  const std::uint64_t begin_ns = monotonic_ns();
  VARVE_TRY_ASSIGN(const UniqueFd fd, open_file(path, O_WRONLY | O_CREAT | O_EXCL));
  for (std::size_t at = 0; at < memory.size(); at += kWriteBytes)
    VARVE_TRY(write_fully(fd.get(), path, memory.subspan(at, std::min(kWriteBytes, memory.size() - at)), at));
  if (fdatasync(fd.get()) != 0) return os_error("flush of " + path + " failed", errno);
  return monotonic_ns() - begin_ns;
}

Result<std::uint64_t> write_everything(const std::string& path, std::span<const std::byte> memory) {
  auto took = write_file(path, memory);
  unlink(path.c_str());
  return took;
}

Result<std::uint64_t> read_file(const std::string& path, std::span<std::byte> memory) {
  const std::uint64_t begin_ns = monotonic_ns();
  VARVE_TRY_ASSIGN(const UniqueFd fd, open_file(path, O_RDONLY));
  for (std::size_t at = 0; at < memory.size();) {
    const ssize_t got = pread(fd.get(), memory.data() + at, memory.size() - at, static_cast<off_t>(at));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return os_error("read of " + path + " failed", got < 0 ? errno : EIO);
    at += static_cast<std::size_t>(got);
  }
  return monotonic_ns() - begin_ns;
}

Result<DirectTiming> write_direct(const std::string& path, std::uint64_t bytes) {
  VARVE_TRY_ASSIGN(const Opened file, open_direct(path, O_WRONLY | O_CREAT | O_EXCL));
  VARVE_TRY_ASSIGN(const auto buffers, piece_buffers());
  const std::uint64_t length = round_up(bytes, kPageBytes);
  const int fd = file.fd.get();
  if (fallocate(fd, 0, 0, static_cast<off_t>(length)) != 0 && errno != EOPNOTSUPP)
    return os_error("preallocation of " + path + " failed", errno);
  if (fdatasync(fd) != 0) return os_error("flush of " + path + " failed", errno);

  const std::uint64_t begin_ns = monotonic_ns();
  const int failed = in_pieces(length, buffers, [fd](std::uint64_t at, std::span<std::byte> part) {
    return pwrite(fd, part.data(), part.size(), static_cast<off_t>(at));
  });
  if (failed != 0) return os_error("write of " + path + " failed", failed);
  if (fdatasync(fd) != 0) return os_error("flush of " + path + " failed", errno);
  return DirectTiming{monotonic_ns() - begin_ns, file.direct};
}

Result<DirectTiming> read_direct(const std::vector<std::string>& paths, std::uint64_t& bytes) {
  VARVE_TRY_ASSIGN(const auto buffers, piece_buffers());
  DirectTiming timing;
  bytes = 0;
  for (const auto& path : paths) {
    VARVE_TRY_ASSIGN(const Opened file, open_direct(path, O_RDONLY));
    const off_t end = lseek(file.fd.get(), 0, SEEK_END);
    if (end < 0) return os_error("seek in " + path + " failed", errno);
    const std::uint64_t begin_ns = monotonic_ns();
    const int failed = in_pieces(static_cast<std::uint64_t>(end), buffers,
                                 [fd = file.fd.get(), end](std::uint64_t at, std::span<std::byte> part) {
                                   // O_DIRECT wants whole blocks, also at an end that is none.
                                   const std::size_t wanted = round_up(part.size(), kPageBytes);
                                   const ssize_t got = pread(fd, part.data(), wanted, static_cast<off_t>(at));
                                   const bool last = at + part.size() == static_cast<std::uint64_t>(end);
                                   return last && got > 0 ? static_cast<ssize_t>(part.size()) : got;
                                 });
    if (failed != 0) return os_error("read of " + path + " failed", failed);
    timing.ns += monotonic_ns() - begin_ns;
    timing.direct = timing.direct && file.direct;
    bytes += static_cast<std::uint64_t>(end);
  }
  return timing;
}

void drop_cached(const std::string& path) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return;
  fdatasync(fd.get());  // only clean pages can be dropped
  posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED);
}

}  // namespace varve::tools
