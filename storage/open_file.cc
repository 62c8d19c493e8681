// SPDX-License-Identifier: Apache-2.0
#include "storage/open_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/bytes.h"
#include "base/os_error.h"
#include "base/try.h"
#include "storage/aligned_buffer.h"
#include "storage/io.h"

namespace varve::storage {
namespace {

template <class Call>
int until_not_interrupted(Call call) {
  int result = 0;
  do result = call();
  while (result != 0 && errno == EINTR);
  return result;
}

}  // namespace

bool Retry::again(int os_errno) {
  if (os_errno != EINTR && os_errno != EAGAIN) return false;
  if (left_ == 0) return false;
  --left_;
  if (os_errno == EAGAIN) usleep(1000);
  return true;
}

bool OpenFile::aligned(std::uint64_t offset, std::span<const std::byte> bytes) const {
  return !direct_ || (offset % kIoAlignment == 0 && bytes.size() % kIoAlignment == 0 &&
                      reinterpret_cast<std::uintptr_t>(bytes.data()) % kIoAlignment == 0);
}

std::size_t OpenFile::settled(std::size_t done) const { return direct_ ? round_down(done, kIoAlignment) : done; }

Error OpenFile::write_error(std::uint64_t offset, int os_errno) const {
  return os_error("write of " + path_ + " at offset " + std::to_string(offset) + " failed", os_errno);
}

Error OpenFile::read_error(std::uint64_t offset, int os_errno) const {
  return os_error("read of " + path_ + " at offset " + std::to_string(offset) + " failed", os_errno);
}

Error OpenFile::refusal(const char* action) const {
  return forked_error(std::string(action) + " of " + path_ + " refused");
}

Result<std::uint64_t> OpenFile::size_bytes() const {
  if (!owned()) return refusal("look at the size");
  struct stat status {};
  if (fstat(fd(), &status) != 0) return os_error("look at the size of " + path_ + " failed", errno);
  return static_cast<std::uint64_t>(status.st_size);
}

int OpenFile::write_all(std::uint64_t offset, std::span<const std::byte> bytes) const {
  Retry retry;
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t result = pwrite(fd(), bytes.data() + done, bytes.size() - done, static_cast<off_t>(offset + done));
    if (result < 0 && !retry.again(errno)) return errno;
    if (result < 0) continue;
    const std::size_t before = std::exchange(done, settled(done + static_cast<std::size_t>(result)));
    // Neither bytes nor an error: not for ever.
    if (done == before && !retry.again(EAGAIN)) return EIO;
  }
  return 0;
}

Result<std::size_t> OpenFile::read_plain(std::uint64_t offset, std::span<std::byte> into) const {
  Retry retry;
  std::size_t done = 0;
  while (done < into.size()) {
    const ssize_t result = pread(fd(), into.data() + done, into.size() - done, static_cast<off_t>(offset + done));
    if (result == 0) break;
    if (result < 0 && retry.again(errno)) continue;
    if (result < 0) return read_error(offset + done, errno);
    done += static_cast<std::size_t>(result);
    if (settled(done) != done) break;  // by O_DIRECT only the end of the file is not at a block's end
  }
  return done;
}

Result<std::size_t> OpenFile::read_through_buffer(std::uint64_t offset, std::span<std::byte> into) const {
  constexpr std::size_t kBufferBytes = std::size_t{256} << 10;
  AlignedBuffer buffer(std::min(kBufferBytes, round_up(into.size(), kIoAlignment) + kIoAlignment));
  std::size_t done = 0;
  while (done < into.size()) {
    const std::uint64_t start = round_down(offset + done, kIoAlignment);
    const auto skipped = static_cast<std::size_t>(offset + done - start);
    VARVE_TRY_ASSIGN(const std::size_t bytes, read_plain(start, buffer.span()));
    if (bytes <= skipped) break;
    const std::size_t taken = std::min(bytes - skipped, into.size() - done);
    std::memcpy(into.data() + done, buffer.data() + skipped, taken);
    done += taken;
    if (bytes < buffer.size()) break;
  }
  return done;
}

Result<std::size_t> OpenFile::read(std::uint64_t offset, std::span<std::byte> into) const {
  if (!owned()) return refusal("read");
  return aligned(offset, into) ? read_plain(offset, into) : read_through_buffer(offset, into);
}

Status OpenFile::flush() const {
  if (!owned()) return refusal("sync");
  // fdatasync also flushes the size when it changed: fdatasync(2).
  if (until_not_interrupted([this] { return fdatasync(fd()); }) == 0) return {};
  return os_error("sync of " + path_ + " failed", errno);
}

Status OpenFile::allocate(std::uint64_t offset, std::uint64_t bytes) const {
  if (!owned()) return refusal("reservation of space");
  const auto call = [&] { return fallocate(fd(), 0, static_cast<off_t>(offset), static_cast<off_t>(bytes)); };
  if (until_not_interrupted(call) == 0) return {};
  return os_error("reservation of " + std::to_string(bytes) + " bytes for " + path_ + " failed", errno);
}

Status OpenFile::truncate(std::uint64_t size_bytes) const {
  if (!owned()) return refusal("truncation");
  if (until_not_interrupted([&] { return ftruncate(fd(), static_cast<off_t>(size_bytes)); }) == 0) return {};
  return os_error("truncation of " + path_ + " to " + std::to_string(size_bytes) + " bytes failed", errno);
}

}  // namespace varve::storage
