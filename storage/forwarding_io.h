// SPDX-License-Identifier: Apache-2.0
//
// ForwardingIo, ForwardingFile: an Io and its files that hand every call on to others. Base classes of those that
// change one or two calls: what paces reads, what tests hold up or let fail.
//
// Threads: as the inner ones.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "storage/io.h"

namespace varve::storage {

class ForwardingFile : public File {
 public:
  explicit ForwardingFile(std::unique_ptr<File> inner) : inner_(std::move(inner)) {}

  const std::string& name() const override { return inner_->name(); }
  Result<std::uint64_t> size_bytes() override { return inner_->size_bytes(); }
  bool direct() const override { return inner_->direct(); }
  Result<std::size_t> read(std::uint64_t offset, std::span<std::byte> into) override {
    return inner_->read(offset, into);
  }
  Status submit_write(std::uint64_t offset, std::span<const std::byte> bytes) override {
    return inner_->submit_write(offset, bytes);
  }
  std::uint64_t completed_writes() override { return inner_->completed_writes(); }
  Status wait_writes(std::uint64_t count) override { return inner_->wait_writes(count); }
  Status drain() override { return inner_->drain(); }
  Status sync() override { return inner_->sync(); }
  Status allocate(std::uint64_t offset, std::uint64_t bytes) override { return inner_->allocate(offset, bytes); }
  Status truncate(std::uint64_t size_bytes) override { return inner_->truncate(size_bytes); }

 private:
  const std::unique_ptr<File> inner_;
};

/// `inner` must outlive it.
class ForwardingIo : public Io {
 public:
  explicit ForwardingIo(Io& inner) : inner_(inner) {}

  IoKind kind() const override { return inner_.kind(); }
  const std::string& why() const override { return inner_.why(); }
  const std::string& directory() const override { return inner_.directory(); }
  Result<FileSystemTraits> file_system() override { return inner_.file_system(); }
  Result<std::unique_ptr<File>> open(std::string_view name, OpenMode mode) override { return inner_.open(name, mode); }
  Result<std::vector<std::string>> list(std::string_view folder) override { return inner_.list(folder); }
  Status make_directory(std::string_view name) override { return inner_.make_directory(name); }
  Status rename(std::string_view from, std::string_view to) override { return inner_.rename(from, to); }
  Status remove(std::string_view name) override { return inner_.remove(name); }
  Status sync_directory(std::string_view folder) override { return inner_.sync_directory(folder); }
  Result<std::unique_ptr<Lock>> lock(std::uint64_t byte, bool exclusive) override {
    return inner_.lock(byte, exclusive);
  }
  void fill_random(std::span<std::byte> into) override { inner_.fill_random(into); }

 private:
  Io& inner_;
};

/// Wraps every file that it opens: Wrapped(std::unique_ptr<File>, context). Owns the inner Io.
template <class Wrapped, class Context>
class WrappingIo final : public ForwardingIo {
 public:
  WrappingIo(std::unique_ptr<Io> inner, Context context)
      : ForwardingIo(*inner), inner_(std::move(inner)), context_(static_cast<Context>(context)) {}
  Result<std::unique_ptr<File>> open(std::string_view name, OpenMode mode) override {
    auto file = ForwardingIo::open(name, mode);
    if (!file) return file.error();
    return std::unique_ptr<File>(std::make_unique<Wrapped>(std::move(*file), context_));
  }

 private:
  const std::unique_ptr<Io> inner_;
  Context context_;  // a value, or a reference
};

}  // namespace varve::storage
