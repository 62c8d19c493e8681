// SPDX-License-Identifier: Apache-2.0
//
// A disk that can't give a block: an engine opens all the same, says `io` and where, and with `fallback` restores the
// newest image that does not need the block. Each block of each segment in turn.
#include <cerrno>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/os_error.h"
#include "engine/engine_implementation.h"
#include "tests/integration/engine_fixture.h"
#include "tests/support/hooked_io.h"
#include "tests/support/simulated_io.h"

namespace varve::test {
namespace {

constexpr std::size_t kBlock = 4096;
constexpr std::size_t kPages = 16;
constexpr std::uint64_t kImages = 3;

class EngineReadError : public testing::Test {
 protected:
  /// Image i, the whole memory, lies in a segment of its own and holds fill(i).
  void SetUp() override {
    for (std::uint64_t i = 1; i <= kImages; ++i) {
      auto engine = open(disk_.open());
      ASSERT_OK(engine);
      fill(memory_.span(), i);
      const auto ticket = (*engine)->checkpoint({});
      ASSERT_OK(ticket);
      ASSERT_OK(ticket->wait());
      ASSERT_OK((*engine)->close());
    }
  }

  Result<std::unique_ptr<EngineImplementation>> open(std::unique_ptr<storage::Io> io) {
    auto engine = EngineImplementation::open(small_options("simulated"), std::move(io));
    if (engine) {
      EXPECT_OK((*engine)->protect("memory", memory_.begin(), memory_.bytes(), {}));
    }
    return engine;
  }

  static std::unique_ptr<storage::Io> with_bad_block(SimulatedDisk& disk, const std::string& file,
                                                     std::uint64_t offset) {
    return std::make_unique<HookedIo>(disk.open(), [file, offset](const HookedCall& call) -> Status {
      const bool hit = call.kind == HookedCall::Kind::read && call.file == file && call.offset < offset + kBlock &&
                       offset < call.offset + call.bytes;
      if (!hit) return {};
      return os_error(fmt::format("read of {} at offset {} failed", call.file, call.offset), EIO);
    });
  }

  std::uint64_t image_in_memory() {
    for (std::uint64_t i = 1; i <= kImages; ++i) {
      Pages expected(kPages);
      fill(expected.span(), i);
      if (same(memory_.span(), expected.span())) return i;
    }
    return 0;
  }

  SimulatedDisk disk_;
  Pages memory_{kPages};
};

TEST_F(EngineReadError, falls_back_to_the_newest_image_that_can_be_read) {
  std::size_t passed_over = 0;
  for (const std::string& file : disk_.files()) {
    if (!file.ends_with(".seg")) continue;
    for (std::uint64_t offset = 0; offset < disk_.size_bytes(file); offset += kBlock) {
      SCOPED_TRACE(file + " at " + std::to_string(offset));
      SimulatedDisk disk = disk_.copy();
      auto engine = open(with_bad_block(disk, file, offset));
      ASSERT_OK(engine);
      fill(memory_.span(), 77);
      const auto plain = (*engine)->restore_if_any({});
      if (!plain) {
        EXPECT_EQ(plain.error().code(), ErrorCode::io) << plain.error().message();
        EXPECT_EQ(plain.error().os_errno(), EIO);
        EXPECT_THAT(plain.error().message(), testing::HasSubstr(file));
      }
      std::vector<SkippedImage> skipped;
      const auto restored = (*engine)->restore_if_any({.fallback = true, .skipped = &skipped});
      ASSERT_OK(restored);
      EXPECT_TRUE(*restored);
      EXPECT_EQ(skipped.empty(), plain.has_value());
      EXPECT_GE(image_in_memory(), skipped.empty() ? kImages : kImages - 1);
      if (skipped.empty()) continue;
      ++passed_over;
      EXPECT_THAT(skipped[0].reason, testing::HasSubstr("EIO"));
      EXPECT_THAT(skipped[0].reason, testing::HasSubstr(file));
    }
  }
  EXPECT_GE(passed_over, kPages);
}

}  // namespace
}  // namespace varve::test
