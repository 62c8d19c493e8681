// SPDX-License-Identifier: Apache-2.0
//
// SlowIo: a disk that takes so many bytes a second, whatever lies below it and however busy the machine is.
//
// Threads: as the inner Io.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <thread>
#include <utility>

#include "storage/forwarding_io.h"

namespace varve::bench {

/// Each write waits for itself before it is submitted, unlike a pace, which lets the first one go.
class SlowFile final : public storage::ForwardingFile {
 public:
  SlowFile(std::unique_ptr<storage::File> inner, std::uint64_t bytes_per_second)
      : ForwardingFile(std::move(inner)), bytes_per_second_(bytes_per_second) {}
  Status submit_write(std::uint64_t offset, std::span<const std::byte> bytes) override {
    std::this_thread::sleep_for(std::chrono::nanoseconds(bytes.size() * 1'000'000'000 / bytes_per_second_));
    return ForwardingFile::submit_write(offset, bytes);
  }

 private:
  const std::uint64_t bytes_per_second_;
};

using SlowIo = storage::WrappingIo<SlowFile, std::uint64_t>;

}  // namespace varve::bench
