// SPDX-License-Identifier: Apache-2.0
#include "storage/pace.h"

#include <algorithm>
#include <cerrno>
#include <chrono>

#include <fmt/format.h>

#include "base/clock.h"
#include "base/try.h"

namespace varve::storage {
namespace {

constexpr double kSecond = 1e9;

Error stopped_error(std::string_view action, const std::string& name) {
  return fail(
      ErrorCode::io,
      {fmt::format("{} of {} refused", action, name), fmt::format("the {} was stopped", action), "start it again"},
      ECANCELED);
}

class PacedReadFile final : public ForwardingFile {
 public:
  PacedReadFile(std::unique_ptr<File> inner, Pace& pace) : ForwardingFile(std::move(inner)), pace_(pace) {}

  Result<std::size_t> read(std::uint64_t offset, std::span<std::byte> into) override {
    if (!pace_.take(into.size())) return stopped_error("read", name());
    return ForwardingFile::read(offset, into);
  }

 private:
  Pace& pace_;
};

class PacedWriteFile final : public ForwardingFile {
 public:
  PacedWriteFile(std::unique_ptr<File> inner, std::shared_ptr<Pace> pace)
      : ForwardingFile(std::move(inner)), pace_(std::move(pace)) {}

  Status submit_write(std::uint64_t offset, std::span<const std::byte> bytes) override {
    if (!pace_->take(bytes.size())) return stopped_error("write", name());
    return ForwardingFile::submit_write(offset, bytes);
  }

 private:
  const std::shared_ptr<Pace> pace_;
};

}  // namespace

TokenBucket::TokenBucket(const PaceOptions& options) : bytes_per_second_(options.bytes_per_second) {
  burst_ns_ = cost_ns(options.burst_bytes);
}

std::uint64_t TokenBucket::cost_ns(std::uint64_t bytes) const {
  if (bytes_per_second_ == 0) return 0;
  return static_cast<std::uint64_t>(static_cast<double>(bytes) * kSecond / static_cast<double>(bytes_per_second_));
}

std::uint64_t TokenBucket::wait_ns(std::uint64_t now_ns) const {
  return paid_at_ns_ > now_ns + burst_ns_ ? paid_at_ns_ - now_ns - burst_ns_ : 0;
}

void TokenBucket::take(std::uint64_t bytes, std::uint64_t now_ns) {
  // Time that passed unused is not made up for, beyond the burst: the rate is a bound, not an average.
  paid_at_ns_ = std::max(paid_at_ns_, now_ns) + cost_ns(bytes);
}

bool Pace::take(std::uint64_t bytes) {
  const MutexLock lock(mutex_);
  const std::uint64_t begin_ns = monotonic_ns();
  for (std::uint64_t now_ns = begin_ns;; now_ns = monotonic_ns()) {
    if (stopped()) return false;
    const std::uint64_t wait_ns = bucket_.wait_ns(now_ns);
    if (wait_ns == 0) {
      bucket_.take(bytes, now_ns);
      bytes_.fetch_add(bytes);
      waited_ns_.fetch_add(now_ns - begin_ns);
      return true;
    }
    static_cast<void>(changed_.wait_for(mutex_, std::chrono::nanoseconds(wait_ns)));
  }
}

void Pace::stop() {
  const MutexLock lock(mutex_);
  stopped_ = true;
  changed_.notify_all();
}

Result<std::unique_ptr<File>> PacedReads::open(std::string_view name, OpenMode mode) {
  VARVE_TRY_ASSIGN(std::unique_ptr<File> file,
                   ForwardingIo::open(name, mode == OpenMode::read ? OpenMode::read_direct : mode));
  return std::unique_ptr<File>(std::make_unique<PacedReadFile>(std::move(file), pace_));
}

Result<std::unique_ptr<File>> PacedWrites::open(std::string_view name, OpenMode mode) {
  auto file = ForwardingIo::open(name, mode);
  if (!file || mode == OpenMode::read || mode == OpenMode::read_direct) return file;
  return std::unique_ptr<File>(std::make_unique<PacedWriteFile>(std::move(file).value(), pace_));
}

}  // namespace varve::storage
