// SPDX-License-Identifier: Apache-2.0
#include "storage/directory.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <pwd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <memory>

#include "base/os_error.h"
#include "base/try.h"

namespace varve::storage {
namespace {

constexpr mode_t kFileMode = 0600;
constexpr mode_t kDirectoryMode = 0700;
constexpr mode_t kPermissionBits = 0777;
/// Names that list() hides: what temporary_file() leaves when the process dies between making and unlinking.
constexpr std::string_view kProbePrefix = ".varve-probe-";

/// openat(2) for a descriptor that has become -1 in a forked child would look relative to nothing: EBADF.
int open_plain(int at, const std::string& name, int flags, mode_t mode) {
  return openat(at, name.c_str(), flags | O_CLOEXEC | O_NOFOLLOW, mode);
}

/// Without openat2: the folder first, then the name in it, neither by a symbolic link.
int open_by_steps(int at, std::string_view name, int flags, mode_t mode) {
  const std::string folder(folder_of(name));
  const std::string leaf(leaf_of(name));
  if (folder.empty()) return open_plain(at, leaf, flags, mode);
  const UniqueFd parent(open_plain(at, folder, O_PATH | O_DIRECTORY, 0));
  return parent.valid() ? open_plain(parent.get(), leaf, flags, mode) : -1;
}

int open_beneath(int at, std::string_view name, int flags, mode_t mode) {
  static std::atomic<bool> have_openat2{true};
  if (have_openat2.load(std::memory_order_relaxed)) {
    open_how how{};
    how.flags = static_cast<std::uint64_t>(static_cast<unsigned>(flags | O_CLOEXEC | O_NOFOLLOW));
    how.mode = (flags & O_CREAT) != 0 ? mode : 0;
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;
    const std::string path(name);
    const long fd = syscall(SYS_openat2, at, path.c_str(), &how, sizeof how);
    if (fd >= 0) return static_cast<int>(fd);
    if (errno == ENOSYS) have_openat2 = false;
    // EPERM: a seccomp filter that does not know the call, or the file system's own word: then openat says it again.
    if (errno != ENOSYS && errno != EPERM) return -1;
  }
  return open_by_steps(at, name, flags, mode);
}

std::string user_name(uid_t user) {
  char buffer[1024];
  passwd entry{};
  passwd* found = nullptr;
  if (getpwuid_r(user, &entry, buffer, sizeof buffer, &found) == 0 && found != nullptr)
    return "'" + std::string(found->pw_name) + "' (uid " + std::to_string(user) + ")";
  return "uid " + std::to_string(user);
}

/// Whether this may be trusted; see the head of directory.h.
Status check_owner(const struct stat& status, const std::string& what, const std::string& path) {
  const std::string otherwise = ", or open it with foreign stores allowed if you trust all who can write there";
  if (status.st_uid != geteuid())
    return fail(ErrorCode::invalid_argument,
                {what, path + " belongs to " + user_name(status.st_uid) + ", not to " + user_name(geteuid()),
                 "run as its owner, use a directory of your own" + otherwise});
  if ((status.st_mode & (S_IWGRP | S_IWOTH)) != 0)
    return fail(ErrorCode::invalid_argument,
                {what, path + " is writable by other users", "chmod go-w " + path + otherwise});
  return {};
}

/// Brings the mode to what it should be, where the umask or the file system made it another.
int restrict_mode(int fd, const struct stat& status, mode_t mode) {
  return (status.st_mode & kPermissionBits) == mode ? 0 : fchmod(fd, mode);
}

/// fsync(2) of a directory; some file systems (FUSE, SMB) refuse it with EINVAL: there the whole file system is synced.
int sync_directory_fd(int fd) {
  int result = 0;
  do result = fsync(fd);
  while (result != 0 && errno == EINTR);
  return result != 0 && errno == EINVAL ? syncfs(fd) : result;
}

/// Makes the entry of `path` in its parent durable: a store in a directory that a power cut takes away is none.
Status sync_parent(const std::string& path, int fd) {
  const UniqueFd parent(openat(fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const int result = parent.valid() ? sync_directory_fd(parent.get()) : syncfs(fd);  // a parent may be unreadable
  return result == 0 ? Status() : Status(os_error("sync of the directory that holds " + path + " failed", errno));
}

Result<UniqueFd> open_store_directory(const std::string& path, const std::string& what, bool created) {
  constexpr int kFlags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
  UniqueFd fd(::open(path.c_str(), kFlags));
  // Under umask 0777 its owner may not even open what was made just now.
  if (!fd.valid() && errno == EACCES && created && chmod(path.c_str(), kDirectoryMode) == 0)
    fd.reset(::open(path.c_str(), kFlags));
  if (fd.valid()) return fd;
  if (errno != ENOTDIR) return os_error(what, errno);
  return fail(ErrorCode::invalid_argument,
              {what, path + " is not a directory", "name a directory, or a path that is free"}, ENOTDIR);
}

struct CloseDirectory {
  void operator()(DIR* stream) const { closedir(stream); }
};

/// REQUIRES: fd was opened for reading; it is consumed.
Result<std::vector<std::string>> read_names(UniqueFd fd, const std::string& path) {
  const std::unique_ptr<DIR, CloseDirectory> stream(fdopendir(fd.get()));
  if (stream == nullptr) return os_error("list of " + path + " failed", errno);
  fd.release();
  std::vector<std::string> names;
  while (true) {
    errno = 0;
    const dirent* entry = readdir(stream.get());
    if (entry == nullptr) break;
    const std::string_view name(entry->d_name);
    if (name != "." && name != ".." && !name.starts_with(kProbePrefix)) names.emplace_back(name);
  }
  if (errno != 0) return os_error("list of " + path + " failed", errno);
  std::sort(names.begin(), names.end());
  return names;
}

Error open_error(const std::string& what, int os_errno) {
  if (os_errno == EEXIST) return os_error(what, os_errno, "choose another name; files of a store are not overwritten");
  return os_error(what, os_errno);
}

}  // namespace

std::string_view folder_of(std::string_view name) {
  const auto slash = name.rfind('/');
  return slash == std::string_view::npos ? std::string_view() : name.substr(0, slash);
}

std::string_view leaf_of(std::string_view name) {
  const auto slash = name.rfind('/');
  return slash == std::string_view::npos ? name : name.substr(slash + 1);
}

Status check_name(std::string_view what, std::string_view directory, std::string_view name) {
  const auto good_part = [](std::string_view part) {
    return !part.empty() && part.size() <= 255 && part != "." && part != ".." &&
           part.find_first_of(std::string_view("/\0", 2)) == std::string_view::npos;
  };
  const bool nested = name.find('/') != std::string_view::npos;
  if (good_part(leaf_of(name)) && (!nested || good_part(folder_of(name)))) return {};
  return fail(ErrorCode::invalid_argument,
              {std::string(what) + " a file of store " + std::string(directory) + " refused",
               "'" + std::string(name.substr(0, 300)) + "' is no name of a file in a store",
               "use FILE or FOLDER/FILE, without '.' and '..'"});
}

std::string Directory::path_of(std::string_view name) const {
  return name.empty() ? path_ : path_ + "/" + std::string(name);
}

Result<Directory> Directory::open(const std::string& path, const Options& options) {
  const std::string what = "open of store " + path + " failed";
  if (path.empty()) return fail(ErrorCode::invalid_argument, {what, "the path is empty", "name a directory"});
  bool created = false;
  if (options.create) {
    created = mkdir(path.c_str(), kDirectoryMode) == 0;
    const int cause = created ? 0 : errno;
    if (cause == ENOENT)
      return os_error(what, cause, "make its parent directory first; only the last part of the path is made");
    // EACCES and EROFS of the parent do not matter when the directory is there.
    if (!created && cause != EEXIST && access(path.c_str(), F_OK) != 0) return os_error(what, cause);
  }
  VARVE_TRY_ASSIGN(UniqueFd fd, open_store_directory(path, what, created));
  struct stat status {};
  if (fstat(fd.get(), &status) != 0) return os_error(what, errno);
  if (created && restrict_mode(fd.get(), status, kDirectoryMode) != 0 && !options.allow_foreign)
    return os_error("change of the mode of " + path + " to 0700 failed", errno);
  if (created && fstat(fd.get(), &status) != 0) return os_error(what, errno);
  if (!options.allow_foreign) VARVE_TRY(check_owner(status, what, path));

  Directory directory(path, std::move(fd), options.allow_foreign);
  if (options.create) {
    // Also when it was there but is empty: whoever made it may have died before this.
    VARVE_TRY_ASSIGN(const auto names, directory.list(""));
    if (names.empty()) VARVE_TRY(sync_parent(path, directory.fd()));
  }
  return directory;
}

Status Directory::check_file(int fd, const std::string& path, bool created) const {
  const std::string what = "open of " + path + " failed";
  struct stat status {};
  if (fstat(fd, &status) != 0) return os_error(what, errno);
  if (!S_ISREG(status.st_mode))
    return fail(ErrorCode::invalid_argument, {what, "it is not a plain file", "remove it: a store holds nothing else"});
  if (created) {
    if (restrict_mode(fd, status, kFileMode) != 0 && !allow_foreign_)
      return os_error("change of the mode of " + path + " to 0600 failed", errno);
    return {};
  }
  return allow_foreign_ ? Status() : check_owner(status, what, path);
}

Result<UniqueFd> Directory::open_file(std::string_view name, int flags) const {
  VARVE_TRY(check_name("open of", path_, name));
  const std::string path = path_of(name);
  if (fd() < 0) return forked_error("open of " + path + " refused");
  const bool if_missing = (flags & kCreateIfMissing) != 0;
  flags &= ~kCreateIfMissing;
  if ((flags & O_CREAT) != 0) flags |= O_EXCL;
  // O_NONBLOCK: a FIFO put here must not hold us up. It is taken back below, since io_uring would not wait with it.
  bool created = (flags & O_CREAT) != 0;
  UniqueFd file(open_beneath(fd(), name, flags | O_NONBLOCK | O_NOCTTY, kFileMode));
  if (!file.valid() && errno == ENOENT && if_missing) {
    file.reset(open_beneath(fd(), name, flags | O_CREAT | O_EXCL, kFileMode));
    created = file.valid();
    if (!file.valid() && errno == EEXIST)
      file.reset(open_beneath(fd(), name, flags | O_NONBLOCK | O_NOCTTY, kFileMode));
  }
  if (!file.valid()) return open_error((created ? "creation of " : "open of ") + path + " failed", errno);
  VARVE_TRY(check_file(file.get(), path, created));
  if (fcntl(file.get(), F_SETFL, 0) != 0) return os_error("open of " + path + " failed", errno);
  return file;
}

Result<UniqueFd> Directory::open_folder(std::string_view what, std::string_view folder) const {
  const std::string path = path_of(folder);
  const std::string failed = std::string(what) + " " + path + " failed";
  if (fd() < 0) return forked_error(failed);
  if (!folder.empty()) VARVE_TRY(check_name(what, path_, folder));
  const int flags = O_RDONLY | O_DIRECTORY;
  UniqueFd opened(folder.empty() ? openat(fd(), ".", flags | O_CLOEXEC) : open_beneath(fd(), folder, flags, 0));
  if (!opened.valid()) return os_error(failed, errno);
  return opened;
}

Result<std::vector<std::string>> Directory::list(std::string_view folder) const {
  VARVE_TRY_ASSIGN(UniqueFd opened, open_folder("list of", folder));
  return read_names(std::move(opened), path_of(folder));
}

Status Directory::make_directory(std::string_view name) const {
  VARVE_TRY(check_name("creation of", path_, name));
  const std::string what = "creation of directory " + path_of(name) + " failed";
  VARVE_TRY_ASSIGN(const UniqueFd parent, open_folder("creation of a directory in", folder_of(name)));
  const std::string leaf(leaf_of(name));
  const bool created = mkdirat(parent.get(), leaf.c_str(), kDirectoryMode) == 0;
  if (!created && errno != EEXIST) return os_error(what, errno);
  UniqueFd made(open_plain(parent.get(), leaf, O_RDONLY | O_DIRECTORY, 0));
  if (!made.valid() && errno == EACCES && created && fchmodat(parent.get(), leaf.c_str(), kDirectoryMode, 0) == 0)
    made.reset(open_plain(parent.get(), leaf, O_RDONLY | O_DIRECTORY, 0));  // umask 0777
  struct stat status {};
  if (!made.valid() || fstat(made.get(), &status) != 0) return os_error(what, errno);
  if (created && restrict_mode(made.get(), status, kDirectoryMode) != 0 && !allow_foreign_)
    return os_error(what, errno);
  if (created && fstat(made.get(), &status) != 0) return os_error(what, errno);
  return allow_foreign_ ? Status() : check_owner(status, what, path_of(name));
}

Status Directory::rename(std::string_view from, std::string_view to) const {
  VARVE_TRY(check_name("rename of", path_, from));
  VARVE_TRY(check_name("rename to", path_, to));
  VARVE_TRY_ASSIGN(const UniqueFd old_folder, open_folder("rename in", folder_of(from)));
  VARVE_TRY_ASSIGN(const UniqueFd new_folder, open_folder("rename in", folder_of(to)));
  const std::string old_leaf(leaf_of(from));
  const std::string new_leaf(leaf_of(to));
  if (renameat(old_folder.get(), old_leaf.c_str(), new_folder.get(), new_leaf.c_str()) != 0)
    return os_error("rename of " + path_of(from) + " to " + path_of(to) + " failed", errno);
  return {};
}

Status Directory::remove(std::string_view name) const {
  VARVE_TRY(check_name("removal of", path_, name));
  VARVE_TRY_ASSIGN(const UniqueFd folder, open_folder("removal in", folder_of(name)));
  const std::string leaf(leaf_of(name));
  if (unlinkat(folder.get(), leaf.c_str(), 0) != 0) return os_error("removal of " + path_of(name) + " failed", errno);
  return {};
}

Status Directory::sync(std::string_view folder) const {
  VARVE_TRY_ASSIGN(const UniqueFd opened, open_folder("sync of", folder));
  if (sync_directory_fd(opened.get()) != 0) return os_error("sync of " + path_of(folder) + " failed", errno);
  return {};
}

Result<UniqueFd> Directory::temporary_file() const {
  if (fd() < 0) return forked_error("probe of " + path_ + " refused");
  UniqueFd file(openat(fd(), ".", O_TMPFILE | O_RDWR | O_CLOEXEC, kFileMode));
  if (file.valid()) return file;
  // No O_TMPFILE on NFS, FUSE and others: a name, for an instant.
  static std::atomic<unsigned> count{0};
  const std::string name =
      std::string(kProbePrefix) + std::to_string(getpid()) + "-" + std::to_string(count.fetch_add(1));
  file.reset(open_plain(fd(), name, O_RDWR | O_CREAT | O_EXCL, kFileMode));
  if (!file.valid()) return os_error("probe of " + path_ + " failed", errno);
  if (unlinkat(fd(), name.c_str(), 0) != 0) return os_error("probe of " + path_ + " failed", errno);
  return file;
}

}  // namespace varve::storage
