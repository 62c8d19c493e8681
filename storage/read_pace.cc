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

class PacedFile final : public ForwardingFile {
 public:
  PacedFile(std::unique_ptr<File> inner, ReadPace& pace) : ForwardingFile(std::move(inner)), pace_(pace) {}

  Result<std::size_t> read(std::uint64_t offset, std::span<std::byte> into) override {
    VARVE_TRY(take(into.size()));
    return ForwardingFile::read(offset, into);
  }
  Status read_batch(std::span<ReadRequest> requests) override {
    std::uint64_t bytes = 0;
    for (const ReadRequest& request : requests) bytes += request.into.size();
    VARVE_TRY(take(bytes));
    return ForwardingFile::read_batch(requests);
  }

 private:
  Status take(std::uint64_t bytes) {
    if (pace_.take(bytes)) return {};
    return fail(ErrorCode::io, {fmt::format("read of {} refused", name()), "reading was stopped", "start it again"},
                ECANCELED);
  }

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
                   ForwardingIo::open(name, mode == OpenMode::read ? OpenMode::read_direct : mode));
  return std::unique_ptr<File>(std::make_unique<PacedFile>(std::move(file), pace_));
}

}  // namespace varve::storage
