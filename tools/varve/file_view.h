// SPDX-License-Identifier: Apache-2.0
//
// A file that is looked at piece by piece: opened for reading, never changed. Any thread may read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "varve/result.h"

namespace varve::tools {

class FileView {
 public:
  static Result<FileView> open(const std::string& path);

  const std::string& name() const { return path_; }
  std::uint64_t bytes() const { return bytes_; }
  /// What the file has of [offset, offset + bytes): less at its end.
  Result<std::vector<std::byte>> read(std::uint64_t offset, std::uint64_t bytes) const;

 private:
  FileView(std::string path, UniqueFd fd, std::uint64_t bytes)
      : path_(std::move(path)), fd_(std::move(fd)), bytes_(bytes) {}
  std::string path_;
  UniqueFd fd_;
  std::uint64_t bytes_;
};

}  // namespace varve::tools
