// SPDX-License-Identifier: Apache-2.0
//
// Directory: the store's directory, opened once, and the names in it. Everything is looked up relative to its
// descriptor without following symbolic links: by openat2(2) with RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS, or, where that
// is refused (kernels before 5.6, some seccomp filters), folder by folder with O_NOFOLLOW. Files are made 0600 and
// directories 0700, whatever the umask.
//
// Trust: unless `allow_foreign`, the directory and every file opened in it must belong to the effective user and must
// not be writable by others, since who can write a store can choose the memory of who restores it.
//
// Threads: any; it has no state that changes.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/unique_fd.h"
#include "storage/fork_guard.h"
#include "varve/result.h"

namespace varve::storage {

/// A name as Io takes them: "FILE" or "FOLDER/FILE"; no "." or "..", no leading '/', no NUL; 255 bytes a part.
/// `what` begins the message: "open of".
Status check_name(std::string_view what, std::string_view directory, std::string_view name);
/// "FOLDER" of "FOLDER/FILE", or "".
std::string_view folder_of(std::string_view name);
/// "FILE" of both.
std::string_view leaf_of(std::string_view name);

class Directory {
 public:
  struct Options {
    bool create = true;
    bool allow_foreign = false;
  };
  /// Errors as open_io().
  static Result<Directory> open(const std::string& path, const Options& options);

  const std::string& path() const { return path_; }
  /// -1 in a forked child.
  int fd() const { return fd_.get(); }
  /// "PATH/name", for messages.
  std::string path_of(std::string_view name) const;

  /// `flags` as for open(2): the access mode, and O_CREAT (then the file must not exist) or kCreateIfMissing. Only
  /// plain files.
  Result<UniqueFd> open_file(std::string_view name, int flags) const;
  static constexpr int kCreateIfMissing = 1 << 30;

  Result<std::vector<std::string>> list(std::string_view folder) const;
  Status make_directory(std::string_view name) const;
  Status rename(std::string_view from, std::string_view to) const;
  Status remove(std::string_view name) const;
  Status sync(std::string_view folder) const;
  /// A nameless file in this directory that is gone when closed; for probing.
  Result<UniqueFd> temporary_file() const;

 private:
  Directory(std::string path, UniqueFd fd, bool allow_foreign)
      : path_(std::move(path)), fd_(std::move(fd)), allow_foreign_(allow_foreign) {}
  Result<UniqueFd> open_folder(std::string_view what, std::string_view folder) const;
  Status check_file(int fd, const std::string& path, bool created) const;

  std::string path_;
  GuardedFd fd_;
  bool allow_foreign_ = false;
};

}  // namespace varve::storage
