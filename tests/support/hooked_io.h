// SPDX-License-Identifier: Apache-2.0
//
// HookedIo: an Io that tells of each operation of a reader before it is done, so that a test can act in between, or let
// it fail: writers at every moment of a verification, blocks that can't be read.
//
// Threads: as the inner Io; the hook is called in the thread of the operation.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/try.h"
#include "storage/forwarding_io.h"

namespace varve::test {

/// One operation of a reader.
struct HookedCall {
  enum class Kind : std::uint8_t { open, list, size, read } kind;
  std::string_view file;
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
};
using Hook = std::function<Status(const HookedCall&)>;

class HookedFile final : public storage::ForwardingFile {
 public:
  HookedFile(std::unique_ptr<storage::File> inner, Hook hook)
      : ForwardingFile(std::move(inner)), hook_(std::move(hook)) {}
  Result<std::uint64_t> size_bytes() override {
    VARVE_TRY(hook_({HookedCall::Kind::size, name()}));
    return ForwardingFile::size_bytes();
  }
  bool direct() const override { return false; }
  Result<std::size_t> read(std::uint64_t offset, std::span<std::byte> into) override {
    VARVE_TRY(hook_({HookedCall::Kind::read, name(), offset, into.size()}));
    return ForwardingFile::read(offset, into);
  }

 private:
  const Hook hook_;
};

/// Calls the hook before each operation of a reader; an error that it gives is that of the operation.
class HookedIo final : public storage::ForwardingIo {
 public:
  HookedIo(std::unique_ptr<storage::Io> inner, Hook hook)
      : ForwardingIo(*inner), inner_(std::move(inner)), hook_(std::move(hook)) {}
  Result<std::unique_ptr<storage::File>> open(std::string_view name, storage::OpenMode mode) override {
    VARVE_TRY(hook_({HookedCall::Kind::open, name}));
    VARVE_TRY_ASSIGN(auto file, ForwardingIo::open(name, mode));
    return std::unique_ptr<storage::File>(std::make_unique<HookedFile>(std::move(file), hook_));
  }
  Result<std::vector<std::string>> list(std::string_view folder) override {
    VARVE_TRY(hook_({HookedCall::Kind::list, folder}));
    return ForwardingIo::list(folder);
  }

 private:
  const std::unique_ptr<storage::Io> inner_;
  const Hook hook_;
};

}  // namespace varve::test
