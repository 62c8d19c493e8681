// SPDX-License-Identifier: Apache-2.0
//
// GatedIo: an Io whose syncs of files wait while a gate is shut, so that a test decides when an image becomes durable.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "storage/io.h"

namespace varve::test {

class Gate {
 public:
  void shut() VARVE_EXCLUDES(mutex_) { set(true); }
  void open() VARVE_EXCLUDES(mutex_) { set(false); }
  void pass() VARVE_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    while (shut_) changed_.wait(mutex_);
  }

 private:
  void set(bool shut) VARVE_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    shut_ = shut;
    changed_.notify_all();
  }
  Mutex mutex_;
  Condition changed_;
  bool shut_ VARVE_GUARDED_BY(mutex_) = false;
};

class GatedFile : public storage::File {
 public:
  GatedFile(std::unique_ptr<storage::File> file, Gate& gate) : file_(std::move(file)), gate_(gate) {}
  const std::string& name() const override { return file_->name(); }
  Result<std::uint64_t> size_bytes() override { return file_->size_bytes(); }
  bool direct() const override { return file_->direct(); }
  Result<std::size_t> read(std::uint64_t offset, std::span<std::byte> into) override {
    return file_->read(offset, into);
  }
  Status read_batch(std::span<storage::ReadRequest> requests) override { return file_->read_batch(requests); }
  Status submit_write(std::uint64_t offset, std::span<const std::byte> bytes) override {
    return file_->submit_write(offset, bytes);
  }
  std::uint64_t completed_writes() override { return file_->completed_writes(); }
  Status wait_writes(std::uint64_t count) override { return file_->wait_writes(count); }
  Status drain() override { return file_->drain(); }
  Status sync() override {
    gate_.pass();
    return file_->sync();
  }
  Status allocate(std::uint64_t offset, std::uint64_t bytes) override { return file_->allocate(offset, bytes); }
  Status truncate(std::uint64_t size_bytes) override { return file_->truncate(size_bytes); }

 private:
  std::unique_ptr<storage::File> file_;
  Gate& gate_;
};

class GatedIo : public storage::Io {
 public:
  GatedIo(std::unique_ptr<storage::Io> io, Gate& gate) : io_(std::move(io)), gate_(gate) {}
  storage::IoKind kind() const override { return io_->kind(); }
  const std::string& why() const override { return io_->why(); }
  const std::string& directory() const override { return io_->directory(); }
  Result<storage::FileSystemTraits> file_system() override { return io_->file_system(); }
  Result<std::unique_ptr<storage::File>> open(std::string_view name, storage::OpenMode mode) override {
    auto file = io_->open(name, mode);
    if (!file) return file.error();
    return std::unique_ptr<storage::File>(std::make_unique<GatedFile>(std::move(file).value(), gate_));
  }
  Result<std::vector<std::string>> list(std::string_view folder) override { return io_->list(folder); }
  Status make_directory(std::string_view name) override { return io_->make_directory(name); }
  Status rename(std::string_view from, std::string_view to) override { return io_->rename(from, to); }
  Status remove(std::string_view name) override { return io_->remove(name); }
  Status sync_directory(std::string_view folder) override { return io_->sync_directory(folder); }
  Result<std::unique_ptr<storage::Lock>> lock(std::uint64_t byte, bool exclusive) override {
    return io_->lock(byte, exclusive);
  }

 private:
  std::unique_ptr<storage::Io> io_;
  Gate& gate_;
};

}  // namespace varve::test
