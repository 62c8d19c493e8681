// SPDX-License-Identifier: Apache-2.0
//
// Damage that a lazy restore meets: touched, it stops the program with a message; untouched, it is reported, and
// another restore mends it. Never is anything but the image's content seen.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <string>

#include <gtest/gtest.h>

#include "tests/integration/lazy_fixture.h"
#include "tests/support/sanitizers.h"

namespace varve::test {
namespace {

constexpr std::size_t kPages = 512;

class EngineLazyDamage : public ::testing::Test {
 protected:
  void SetUp() override {
    SKIP_WITHOUT_LAZY();
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    fill(memory_.span(), 1);
    auto engine = opened();
    ASSERT_OK(take_image(*engine));
    first_ = copy_of(memory_.span());
    fill(memory_.span(), 2);
    ASSERT_OK(take_image(*engine));
    second_ = copy_of(memory_.span());
    ASSERT_OK(engine->close());
    damage_first_image();
  }

  EnginePointer opened() {
    auto engine = open_gated(small_options(directory_ / "store"), gate_);
    EXPECT_OK(engine->protect("memory", memory_.begin(), memory_.bytes(), {}));
    return engine;
  }

  /// One byte in the middle of its frames: 2 MiB that don't compress.
  void damage_first_image() {
    for (const auto& entry : std::filesystem::directory_iterator(directory_ / "store/segments")) {
      std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
      constexpr std::streamoff kAt = 1 << 20;
      file.seekg(kAt);
      const int byte = file.get();
      ASSERT_NE(byte, EOF);
      file.seekp(kAt);
      file.put(static_cast<char>(byte ^ 1));
    }
  }

  void touch_all() {
    for (std::size_t page = 0; page < kPages; ++page)
      if (std::memcmp(memory_.page(page), first_.data() + page * Pages::page_bytes(), Pages::page_bytes()) != 0) {
        std::fprintf(stderr, "page %zu is wrong\n", page);
        _exit(7);
      }
    _exit(8);  // there was no damage
  }

  const TemporaryDirectory directory_;
  Gate gate_;
  Pages memory_{kPages};
  std::vector<std::byte> first_;
  std::vector<std::byte> second_;
};

constexpr const char* kMessage =
    "varve: stopping the program.*lazy restore of image main/1 failed: bytes [0-9]+ to [0-9]+ of region 'memory' \\(at "
    "0x[0-9a-f]+\\).*segments/.*checksum is wrong; restore another image.*varve verify";

TEST_F(EngineLazyDamage, touched_before_the_stream_comes_there_stops_the_program) {
  EXPECT_EXIT(
      {
        auto engine = opened();
        gate_.shut();
        if (engine->restore("1", lazily())) touch_all();
      },
      ::testing::KilledBySignal(SIGABRT), kMessage);
}

TEST_F(EngineLazyDamage, touched_after_the_stream_was_there_stops_the_program) {
  EXPECT_EXIT(
      {
        auto engine = opened();
        if (engine->restore("1", lazily()) && !engine->wait_restored()) touch_all();
      },
      ::testing::KilledBySignal(SIGABRT), kMessage);
}

TEST_F(EngineLazyDamage, met_by_a_system_call_stops_the_program) {
  EXPECT_EXIT(
      {
        auto engine = opened();
        const int zeros = open("/dev/zero", O_RDONLY);
        if (engine->restore("1", lazily()) && !engine->wait_restored()) {
          // A signal, or what the kernel has to do for a ring, may cut a read short before it comes to the damage.
          std::size_t done = 0;
          while (done < memory_.bytes()) {
            const ssize_t got = read(zeros, memory_.begin() + done, memory_.bytes() - done);
            if (got > 0) done += static_cast<std::size_t>(got);
            if (got < 0 && errno != EINTR) _exit(9);
          }
          _exit(8);
        }
      },
      ::testing::KilledBySignal(SIGABRT), kMessage);
}

TEST_F(EngineLazyDamage, untouched_is_reported_and_mended_by_another_restore) {
  auto engine = opened();
  ASSERT_OK(engine->restore("1", lazily()));
  ASSERT_ERROR(ErrorCode::corruption, engine->wait_restored());
  const auto status = engine->lazy_status();
  EXPECT_FALSE(status.streaming);
  EXPECT_NE(status.failure.find("of region 'memory'"), std::string::npos) << status.failure;
  // Everything but the one frame has come.
  EXPECT_LT(status.placed_bytes, status.lazy_bytes);
  EXPECT_GE(status.placed_bytes + 65536, status.lazy_bytes);
  const auto refused = engine->checkpoint({});
  ASSERT_ERROR(ErrorCode::corruption, refused);
  EXPECT_EQ(refused.error().what(), "checkpoint of chain 'main' refused");
  ASSERT_OK(engine->restore("2", lazily()));
  ASSERT_OK(engine->wait_restored());
  EXPECT_TRUE(same(memory_.span(), second_));
  ASSERT_OK(take_image(*engine));
  ASSERT_ERROR(ErrorCode::corruption, engine->restore("1", {}));  // eagerly, it is refused half-way as ever
  ASSERT_OK(engine->restore("2", {}));
  EXPECT_TRUE(same(memory_.span(), second_));
  ASSERT_OK(engine->close());
}

TEST_F(EngineLazyDamage, at_the_end_of_the_engine_becomes_inaccessible_instead_of_zero) {
  if (kSanitized) GTEST_SKIP() << "a Sanitizer has its own ending for SIGSEGV";
  EXPECT_EXIT(
      {
        auto engine = opened();
        if (engine->restore("1", lazily()) && !engine->close()) touch_all();
      },
      ::testing::KilledBySignal(SIGSEGV), "region 'memory' could not be restored from image main/1");
}

}  // namespace
}  // namespace varve::test
