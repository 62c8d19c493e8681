// SPDX-License-Identifier: Apache-2.0
#include "storage/uring_io.h"

#include <algorithm>

#include "base/check.h"
#include "base/try.h"
#include "storage/uring_ring.h"
#include "storage/write_prefix.h"

namespace varve::storage {
namespace {

class UringFile final : public File {
 public:
  UringFile(OpenFile file, std::shared_ptr<RingPool> rings, unsigned depth)
      : file_(std::move(file)), rings_(std::move(rings)), prefix_(depth) {}
  ~UringFile() override {
    if (file_.owned()) wait_until(prefix_.submitted());
  }

  const std::string& name() const override { return file_.name(); }
  bool direct() const override { return file_.direct(); }
  Result<std::uint64_t> size_bytes() override;
  Result<std::size_t> read(std::uint64_t offset, std::span<std::byte> into) override {
    return file_.read(offset, into);
  }
  Status submit_write(std::uint64_t offset, std::span<const std::byte> bytes) override;
  std::uint64_t completed_writes() override;
  Status wait_writes(std::uint64_t count) override;
  Status drain() override;
  Status sync() override;
  Status allocate(std::uint64_t offset, std::uint64_t bytes) override;
  Status truncate(std::uint64_t size_bytes) override;

 private:
  void take(bool wait);
  void wait_until(std::uint64_t count);

  OpenFile file_;
  const std::shared_ptr<RingPool> rings_;
  std::unique_ptr<Ring> ring_;  // while writes are in flight
  WritePrefix prefix_;
};

/// Marks writes that have ended. The ring goes back to the pool with the last one.
void UringFile::take(bool wait) {
  for (const Ring::Ended& ended : ring_->take(wait)) {
    const auto& write = ended.write;
    if (ended.os_errno != 0) prefix_.fail(write.tag, file_.write_error(write.offset, ended.os_errno));
    prefix_.end(write.tag);
  }
  if (prefix_.idle()) rings_->put(std::move(ring_));
}

void UringFile::wait_until(std::uint64_t count) {
  while (prefix_.prefix() < count) take(true);
}

Status UringFile::submit_write(std::uint64_t offset, std::span<const std::byte> bytes) {
  VARVE_CHECK(file_.aligned(offset, bytes));
  if (!file_.owned()) return file_.refusal("write");
  if (ring_ != nullptr) take(prefix_.full());
  while (prefix_.full()) take(true);
  VARVE_TRY(prefix_.error());
  const std::uint64_t index = prefix_.submit();
  if (ring_ == nullptr && !bytes.empty()) ring_ = rings_->get();
  if (ring_ == nullptr || bytes.empty()) {
    const int os_errno = file_.write_all(offset, bytes);
    if (os_errno != 0) prefix_.fail(index, file_.write_error(offset, os_errno));
    prefix_.end(index);
    return {};
  }
  ring_->add({.file = &file_, .bytes = bytes, .offset = offset, .tag = index});
  ring_->submit();
  return {};
}

std::uint64_t UringFile::completed_writes() {
  if (!file_.owned()) return 0;
  if (ring_ != nullptr) take(false);
  return prefix_.prefix();
}

Status UringFile::wait_writes(std::uint64_t count) {
  if (!file_.owned()) return file_.refusal("write");
  VARVE_CHECK(count <= prefix_.submitted());
  wait_until(count);
  return prefix_.error();
}

Status UringFile::drain() {
  if (!file_.owned()) return file_.refusal("write");
  wait_until(prefix_.submitted());
  return prefix_.take_error();
}

Status UringFile::sync() {
  VARVE_TRY(drain());
  return file_.flush();
}

Result<std::uint64_t> UringFile::size_bytes() {
  if (file_.owned()) wait_until(prefix_.submitted());
  return file_.size_bytes();
}

Status UringFile::allocate(std::uint64_t offset, std::uint64_t bytes) {
  if (file_.owned()) wait_until(prefix_.submitted());
  return file_.allocate(offset, bytes);
}

Status UringFile::truncate(std::uint64_t size_bytes) {
  if (file_.owned()) wait_until(prefix_.submitted());
  return file_.truncate(size_bytes);
}

class UringIo final : public DirectoryIo {
 public:
  UringIo(Directory directory, const Options& options)
      : DirectoryIo(std::move(directory), options), rings_(RingPool::share(queue_depth())) {}

 protected:
  std::unique_ptr<File> make_file(OpenFile file) override {
    return std::make_unique<UringFile>(std::move(file), rings_, queue_depth());
  }

 private:
  const std::shared_ptr<RingPool> rings_;
};

}  // namespace

std::unique_ptr<Io> make_uring_io(Directory directory, const DirectoryIo::Options& options) {
  return std::make_unique<UringIo>(std::move(directory), options);
}

Status probe_uring() {
  VARVE_TRY(Ring::create(1));
  return {};
}

}  // namespace varve::storage
