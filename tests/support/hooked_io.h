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
#include "storage/io.h"

namespace varve::test {

/// One operation of a reader.
struct HookedCall {
  enum class Kind : std::uint8_t { open, list, size, read } kind;
  std::string_view file;
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
};
using Hook = std::function<Status(const HookedCall&)>;

class HookedFile final : public storage::File {
 public:
  HookedFile(std::unique_ptr<storage::File> inner, Hook hook) : inner_(std::move(inner)), hook_(std::move(hook)) {}
  const std::string& name() const override { return inner_->name(); }
  Result<std::uint64_t> size_bytes() override {
    VARVE_TRY(hook_({HookedCall::Kind::size, name()}));
    return inner_->size_bytes();
  }
  bool direct() const override { return false; }
  Result<std::size_t> read(std::uint64_t offset, std::span<std::byte> into) override {
    VARVE_TRY(hook_({HookedCall::Kind::read, name(), offset, into.size()}));
    return inner_->read(offset, into);
  }
  Status read_batch(std::span<storage::ReadRequest> requests) override {
    for (const storage::ReadRequest& request : requests)
      VARVE_TRY(hook_({HookedCall::Kind::read, name(), request.offset, request.into.size()}));
    return inner_->read_batch(requests);
  }
  Status submit_write(std::uint64_t offset, std::span<const std::byte> bytes) override {
    return inner_->submit_write(offset, bytes);
  }
  std::uint64_t completed_writes() override { return inner_->completed_writes(); }
  Status wait_writes(std::uint64_t count) override { return inner_->wait_writes(count); }
  Status drain() override { return inner_->drain(); }
  Status sync() override { return inner_->sync(); }
  Status allocate(std::uint64_t offset, std::uint64_t bytes) override { return inner_->allocate(offset, bytes); }
  Status truncate(std::uint64_t bytes) override { return inner_->truncate(bytes); }

 private:
  std::unique_ptr<storage::File> inner_;
  const Hook hook_;
};

/// Calls the hook before each operation of a reader; an error that it gives is that of the operation.
class HookedIo final : public storage::Io {
 public:
  HookedIo(std::unique_ptr<storage::Io> inner, Hook hook) : inner_(std::move(inner)), hook_(std::move(hook)) {}
  storage::IoKind kind() const override { return inner_->kind(); }
  const std::string& why() const override { return inner_->why(); }
  const std::string& directory() const override { return inner_->directory(); }
  Result<storage::FileSystemTraits> file_system() override { return inner_->file_system(); }
  Result<std::unique_ptr<storage::File>> open(std::string_view name, storage::OpenMode mode) override {
    VARVE_TRY(hook_({HookedCall::Kind::open, name}));
    VARVE_TRY_ASSIGN(auto file, inner_->open(name, mode));
    return std::unique_ptr<storage::File>(std::make_unique<HookedFile>(std::move(file), hook_));
  }
  Result<std::vector<std::string>> list(std::string_view folder) override {
    VARVE_TRY(hook_({HookedCall::Kind::list, folder}));
    return inner_->list(folder);
  }
  Status make_directory(std::string_view name) override { return inner_->make_directory(name); }
  Status rename(std::string_view from, std::string_view to) override { return inner_->rename(from, to); }
  Status remove(std::string_view name) override { return inner_->remove(name); }
  Status sync_directory(std::string_view folder) override { return inner_->sync_directory(folder); }
  Result<std::unique_ptr<storage::Lock>> lock(std::uint64_t byte, bool exclusive) override {
    return inner_->lock(byte, exclusive);
  }
  void fill_random(std::span<std::byte> into) override { inner_->fill_random(into); }

 private:
  std::unique_ptr<storage::Io> inner_;
  const Hook hook_;
};

}  // namespace varve::test
