// SPDX-License-Identifier: Apache-2.0
//
// DirectoryIo: the part of Io that does not depend on how bytes are moved: names, locks, what the file system promises.
// A back end adds make_file().
//
// Threads: any.
#pragma once

#include <mutex>
#include <optional>

#include "storage/directory.h"
#include "storage/io.h"
#include "storage/open_file.h"

namespace varve::storage {

class DirectoryIo : public Io {
 public:
  struct Options {
    IoKind kind = IoKind::posix;
    std::string why;
    unsigned queue_depth = 16;
    bool allow_direct = true;
    std::optional<int> niceness;
  };
  DirectoryIo(Directory directory, Options options);

  IoKind kind() const override { return options_.kind; }
  const std::string& why() const override { return options_.why; }
  const std::string& directory() const override { return directory_.path(); }
  Result<FileSystemTraits> file_system() override;

  Result<std::unique_ptr<File>> open(std::string_view name, OpenMode mode) override;
  Result<std::vector<std::string>> list(std::string_view folder) override { return directory_.list(folder); }
  Status make_directory(std::string_view name) override { return directory_.make_directory(name); }
  Status rename(std::string_view from, std::string_view to) override { return directory_.rename(from, to); }
  Status remove(std::string_view name) override { return directory_.remove(name); }
  Status sync_directory(std::string_view folder) override { return directory_.sync(folder); }
  Result<std::unique_ptr<Lock>> lock(std::uint64_t byte, bool exclusive) override;

 protected:
  unsigned queue_depth() const { return options_.queue_depth; }
  std::optional<int> niceness() const { return options_.niceness; }
  virtual std::unique_ptr<File> make_file(OpenFile file) = 0;

 private:
  /// Probed once, when it is first asked for: readers need not write.
  bool direct_works();

  const Directory directory_;
  const Options options_;
  std::once_flag direct_probed_;
  bool direct_works_ = false;
};

}  // namespace varve::storage
