// SPDX-License-Identifier: Apache-2.0
#include "storage/read_pace.h"

#include <algorithm>
#include <cerrno>
#include <chrono>

#include <fmt/format.h>

#include "base/clock.h"
#include "base/try.h"

namespace varve::storage {
namespace {

constexpr double kSecond = 1e9;

class PacedFile final : public File {
 public:
  PacedFile(std::unique_ptr<File> inner, ReadPace& pace) : inner_(std::move(inner)), pace_(pace) {}

  const std::string& name() const override { return inner_->name(); }
  Result<std::uint64_t> size_bytes() override { return inner_->size_bytes(); }
  bool direct() const override { return inner_->direct(); }
  Result<std::size_t> read(std::uint64_t offset, std::span<std::byte> into) override {
    VARVE_TRY(take(into.size()));
    return inner_->read(offset, into);
  }
  Status read_batch(std::span<ReadRequest> requests) override {
    std::uint64_t bytes = 0;
    for (const ReadRequest& request : requests) bytes += request.into.size();
    VARVE_TRY(take(bytes));
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
  Status truncate(std::uint64_t size_bytes) override { return inner_->truncate(size_bytes); }

 private:
  Status take(std::uint64_t bytes) {
    if (pace_.take(bytes)) return {};
    return fail(ErrorCode::io, {fmt::format("read of {} refused", name()), "reading was stopped", "start it again"},
                ECANCELED);
  }

  std::unique_ptr<File> inner_;
  ReadPace& pace_;
};

}  // namespace

bool ReadPace::take(std::uint64_t bytes) {
  const MutexLock lock(mutex_);
  for (;;) {
    if (stopped()) return false;
    const std::uint64_t now = monotonic_ns();
    if (bytes_per_second_ == 0 || now >= due_ns_) {
      // Time that passed unused is not made up for: the rate is a bound, not an average.
      if (bytes_per_second_ != 0)
        due_ns_ = now + static_cast<std::uint64_t>(static_cast<double>(bytes) * kSecond /
                                                   static_cast<double>(bytes_per_second_));
      bytes_.fetch_add(bytes);
      return true;
    }
    static_cast<void>(changed_.wait_for(mutex_, std::chrono::nanoseconds(due_ns_ - now)));
  }
}

void ReadPace::stop() {
  const MutexLock lock(mutex_);
  stopped_ = true;
  changed_.notify_all();
}

Result<std::unique_ptr<File>> PacedIo::open(std::string_view name, OpenMode mode) {
  VARVE_TRY_ASSIGN(std::unique_ptr<File> file,
                   inner_.open(name, mode == OpenMode::read ? OpenMode::read_direct : mode));
  return std::unique_ptr<File>(std::make_unique<PacedFile>(std::move(file), pace_));
}

}  // namespace varve::storage
