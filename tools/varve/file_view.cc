// SPDX-License-Identifier: Apache-2.0
#include "tools/varve/file_view.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include "base/os_error.h"

namespace varve::tools {

Result<FileView> FileView::open(const std::string& path) {
  // O_NONBLOCK: a FIFO must not hang the command before it is seen to be one.
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid()) return os_error("open of " + path + " failed", errno);
  struct stat info {};
  if (fstat(fd.get(), &info) != 0) return os_error("look at " + path + " failed", errno);
  if (!S_ISREG(info.st_mode))
    return fail(ErrorCode::invalid_argument,
                {"open of " + path + " failed", "it is no regular file", "name a file of a store, not its directory"});
  return FileView(path, std::move(fd), static_cast<std::uint64_t>(info.st_size));
}

Result<std::vector<std::byte>> FileView::read(std::uint64_t offset, std::uint64_t bytes) const {
  if (offset >= bytes_) return std::vector<std::byte>();
  std::vector<std::byte> content(std::min(bytes, bytes_ - offset));
  std::size_t done = 0;
  while (done < content.size()) {
    const ssize_t got =
        pread(fd_.get(), content.data() + done, content.size() - done, static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return os_error("read of " + path_ + " failed", errno);
    if (got == 0) break;  // it was shortened meanwhile
    done += static_cast<std::size_t>(got);
  }
  content.resize(done);
  return content;
}

}  // namespace varve::tools
