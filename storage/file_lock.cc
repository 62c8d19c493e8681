// SPDX-License-Identifier: Apache-2.0
#include "storage/file_lock.h"

#include <fcntl.h>

#include <cerrno>
#include <limits>

#include "base/os_error.h"
#include "base/try.h"
#include "storage/format.h"

namespace varve::storage {
namespace {

struct flock one_byte(short type, std::uint64_t byte) {
  struct flock range {};
  range.l_type = type;
  range.l_whence = SEEK_SET;
  range.l_start = static_cast<off_t>(byte);
  range.l_len = 1;
  return range;
}

class HeldLock final : public Lock {
 public:
  HeldLock(UniqueFd fd, std::uint64_t byte) : fd_(std::move(fd)), byte_(byte) {}
  ~HeldLock() override {
    // Said aloud, since a child that is being forked may hold a copy of the descriptor for an instant more. Only by the
    // owner: it would take the lock from all copies.
    struct flock range = one_byte(F_UNLCK, byte_);
    if (owner_.is_this()) fcntl(fd_.get(), F_OFD_SETLK, &range);
  }

 private:
  const GuardedFd fd_;
  const std::uint64_t byte_;
  const OwnerProcess owner_;
};

/// A shared lock needs reading only: a store on a read-only file system, or of another user, can still be read.
Result<UniqueFd> open_lock_file(const Directory& directory, bool exclusive) {
  auto file = directory.open_file(kLockFile, O_RDWR | Directory::kCreateIfMissing);
  if (file || exclusive) return file;
  const int cause = file.error().os_errno();
  if (cause != EACCES && cause != EROFS && cause != EPERM) return file;
  return directory.open_file(kLockFile, O_RDONLY);
}

Error lock_error(const std::string& path, std::uint64_t byte, bool exclusive, int os_errno) {
  const std::string what = "lock of " + path + " refused";
  switch (os_errno) {
    case EAGAIN:
    case EACCES:
      return fail(
          ErrorCode::busy,
          {what,
           std::string("another holder has byte ") + std::to_string(byte) + (exclusive ? "" : " for itself alone"),
           "wait until it has ended, and try again"},
          os_errno);
    case ENOLCK:
    case EINVAL:
    case ENOSYS:
    case EOPNOTSUPP:
      return fail(ErrorCode::unsupported,
                  {what, "its file system offers no file locks here: " + describe_errno(os_errno),
                   "mount it with locks (NFS: without 'nolock', with the lock service running), or keep the store on "
                   "another file system"},
                  os_errno);
    default: return os_error(what, os_errno);
  }
}

}  // namespace

Result<std::unique_ptr<Lock>> lock_byte(const Directory& directory, std::uint64_t byte, bool exclusive) {
  const std::string path = directory.path_of(kLockFile);
  if (byte >= static_cast<std::uint64_t>(std::numeric_limits<off_t>::max()))
    return fail(ErrorCode::invalid_argument,
                {"lock of " + path + " refused", "byte " + std::to_string(byte) + " is beyond the end of any file",
                 "use a smaller number"});
  VARVE_TRY_ASSIGN(UniqueFd file, open_lock_file(directory, exclusive));
  struct flock range = one_byte(exclusive ? F_WRLCK : F_RDLCK, byte);
  if (fcntl(file.get(), F_OFD_SETLK, &range) != 0) return lock_error(path, byte, exclusive, errno);
  return std::unique_ptr<Lock>(std::make_unique<HeldLock>(std::move(file), byte));
}

}  // namespace varve::storage
