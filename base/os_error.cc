// SPDX-License-Identifier: Apache-2.0
#include "base/os_error.h"

#include <cerrno>
#include <cstring>

namespace varve {
namespace {

ErrorCode code_of(int os_errno) {
  switch (os_errno) {
    case ENOSYS:
    case EOPNOTSUPP: return ErrorCode::unsupported;
    case ENOENT: return ErrorCode::not_found;
    case EBUSY: return ErrorCode::busy;
    default: return ErrorCode::io;
  }
}

const char* remedy_of(int os_errno) {
  switch (os_errno) {
    case ENOSPC: return "free space on the file system and try again; earlier images are intact";
    case EDQUOT: return "raise the quota or free space, and try again; earlier images are intact";
    case EIO: return "check the device (dmesg), and use another one if it goes on; earlier images are intact";
    case EROFS: return "mount the file system for writing, or use another directory";
    case EACCES:
    case EPERM: return "run as the owner, or change the permissions";
    case ENOENT: return "check the path";
    case ENOTDIR:
    case ELOOP: return "use a path of plain directories; symbolic links inside a store are not followed";
    case EMFILE:
    case ENFILE: return "close files, or raise the limit of open files (ulimit -n)";
    case ENOMEM: return "free memory, or lower the staging bound";
    case EFBIG: return "raise the file size limit (ulimit -f)";
    case EBUSY: return "wait for the holder, and try again";
    case ENOSYS:
    case EOPNOTSUPP: return "use a newer kernel, or choose another back end";
    default: return "see errno(3) for this cause, mend it, and try again";
  }
}

}  // namespace

std::string describe_errno(int os_errno) {
  const char* name = strerrorname_np(os_errno);
  const char* description = strerrordesc_np(os_errno);
  if (name == nullptr || description == nullptr) return "errno " + std::to_string(os_errno);
  return std::string(name) + " (" + description + ")";
}

Error os_error(std::string what, int os_errno, std::string remedy) {
  return fail(code_of(os_errno), {std::move(what), describe_errno(os_errno), std::move(remedy)}, os_errno);
}

Error os_error(std::string what, int os_errno) { return os_error(std::move(what), os_errno, remedy_of(os_errno)); }

}  // namespace varve
