// SPDX-License-Identifier: Apache-2.0
//
// A damaged image does not stop an older one from being restored: restore with `fallback` takes the newest good one,
// says what it passed over and why, and the program goes on from there. Without it damage stays an error.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/integration/engine_fixture.h"
#include "varve/varve.h"

namespace varve::test {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

constexpr std::size_t kPages = 32;
constexpr int kImages = 4;

/// A store with four images in one segment, closed or as a killed writer leaves it; image i holds fill(i).
class EngineFallback : public testing::Test {
 protected:
  EngineFallback() : memory_(kPages) {}

  void write_images(bool close) {
    auto engine = Engine::open(small_options(store()));
    ASSERT_OK(engine);
    ASSERT_OK(engine->protect("memory", memory_.begin(), memory_.bytes()));
    for (int i = 1; i <= kImages; ++i) {
      fill(memory_.span(), static_cast<std::uint64_t>(i));
      ASSERT_OK(checkpoint(*engine));
    }
    if (close) {
      ASSERT_OK(engine->close());
    }
    fill(memory_.span(), 99);
  }

  Result<Engine> reopen() {
    auto engine = Engine::open(small_options(store()));
    if (!engine) return engine;
    if (auto ok = engine->protect("memory", memory_.begin(), memory_.bytes()); !ok) return ok.error();
    return engine;
  }

  bool holds(int image) const {
    Pages expected(kPages);
    fill(expected.span(), static_cast<std::uint64_t>(image));
    return same(memory_.span(), expected.span());
  }

  std::string store() const { return directory_ / "store"; }
  std::string segment() const {
    for (const auto& entry : std::filesystem::directory_iterator(store() + "/segments")) return entry.path();
    return "";
  }
  /// Where in the segment the bytes of image i begin: its pages do not compress.
  static void flip(const std::string& file, std::uint64_t offset) {
    const int fd = open(file.c_str(), O_RDWR | O_CLOEXEC);
    char byte = 0;
    EXPECT_EQ(pread(fd, &byte, 1, static_cast<off_t>(offset)), 1);
    byte = static_cast<char>(byte ^ 1);
    EXPECT_EQ(pwrite(fd, &byte, 1, static_cast<off_t>(offset)), 1);
    ::close(fd);
  }
  /// A byte of a page of image i.
  std::uint64_t offset_of(int image) const {
    Pages content(kPages);
    fill(content.span(), static_cast<std::uint64_t>(image));
    const std::string file = segment();
    std::vector<char> bytes(std::filesystem::file_size(file));
    const int fd = open(file.c_str(), O_RDONLY | O_CLOEXEC);
    EXPECT_EQ(pread(fd, bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
    ::close(fd);
    const auto* const wanted = reinterpret_cast<const char*>(content.page(5));
    const auto found = std::search(bytes.begin(), bytes.end(), wanted, wanted + 64);
    EXPECT_NE(found, bytes.end());
    return static_cast<std::uint64_t>(found - bytes.begin());
  }

  TemporaryDirectory directory_;
  Pages memory_;
};

TEST_F(EngineFallback, takes_the_newest_good_image_and_says_what_it_passed_over) {
  write_images(true);
  flip(segment(), offset_of(4));
  flip(segment(), offset_of(3));
  auto engine = reopen();
  ASSERT_OK(engine);
  ASSERT_ERROR(ErrorCode::corruption, engine->restore_if_any());
  std::vector<SkippedImage> skipped;
  const auto restored = engine->restore_if_any({.fallback = true, .skipped = &skipped});
  ASSERT_OK(restored);
  EXPECT_TRUE(*restored);
  EXPECT_TRUE(holds(2));
  ASSERT_THAT(skipped, SizeIs(2));
  EXPECT_EQ(skipped[0].image, "main/4");
  EXPECT_EQ(skipped[1].image, "main/3");
  EXPECT_THAT(skipped[0].reason, HasSubstr("segments/"));
  EXPECT_THAT(skipped[0].reason, HasSubstr("checksum"));
}

TEST_F(EngineFallback, the_program_goes_on_from_there) {
  write_images(true);
  flip(segment(), offset_of(4));
  {
    auto engine = reopen();
    ASSERT_OK(engine);
    ASSERT_OK(engine->restore_if_any({.fallback = true}));
    EXPECT_TRUE(holds(3));
    memory_.page(1)[0] ^= std::byte{1};
    const auto next = checkpoint(*engine);
    ASSERT_OK(next);
    EXPECT_EQ(next->image, 5U);
    EXPECT_EQ(next->parent, 3U);
    ASSERT_OK(engine->close());
  }
  memory_.page(1)[0] ^= std::byte{1};
  fill(memory_.span(), 77);
  auto engine = reopen();
  ASSERT_OK(engine);
  std::vector<SkippedImage> skipped;
  ASSERT_OK(engine->restore_if_any({.fallback = true, .skipped = &skipped}));
  EXPECT_THAT(skipped, IsEmpty());  // the newest one is good now
  memory_.page(1)[0] ^= std::byte{1};
  EXPECT_TRUE(holds(3));
}

TEST_F(EngineFallback, of_an_image_that_was_named_takes_an_older_one) {
  write_images(true);
  flip(segment(), offset_of(3));
  auto engine = reopen();
  ASSERT_OK(engine);
  std::vector<SkippedImage> skipped;
  const auto restored = engine->restore("3", {.fallback = true, .skipped = &skipped});
  ASSERT_OK(restored);
  EXPECT_EQ(restored->image, 2U);
  EXPECT_TRUE(holds(2));
  EXPECT_THAT(skipped, SizeIs(1));
  // Image 4 is whole: everything in it is new.
  ASSERT_OK(engine->restore("4", {.fallback = true, .skipped = &skipped}));
  EXPECT_THAT(skipped, IsEmpty());
  EXPECT_TRUE(holds(4));
  ASSERT_ERROR(ErrorCode::not_found, engine->restore("17", {.fallback = true}));
}

TEST_F(EngineFallback, says_that_nothing_is_left) {
  write_images(true);
  for (int i = 1; i <= kImages; ++i) flip(segment(), offset_of(i));
  auto engine = reopen();
  ASSERT_OK(engine);
  std::vector<SkippedImage> skipped;
  const auto restored = engine->restore_if_any({.fallback = true, .skipped = &skipped});
  ASSERT_ERROR(ErrorCode::corruption, restored);
  EXPECT_THAT(restored.error().message(), HasSubstr("none of its images is good"));
  EXPECT_THAT(skipped, SizeIs(kImages));
  ASSERT_ERROR(ErrorCode::invalid_argument, engine->checkpoint());  // the regions hold neither state
}

TEST_F(EngineFallback, a_missing_segment_is_passed_over_by_name) {
  write_images(true);
  {
    auto engine = reopen();
    ASSERT_OK(engine);
    ASSERT_OK(engine->restore_if_any());
    memory_.page(3)[0] ^= std::byte{1};
    ASSERT_OK(checkpoint(*engine));  // image 5, in a segment of its own
    ASSERT_OK(engine->close());
  }
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(store() + "/segments")) files.push_back(entry.path());
  ASSERT_THAT(files, SizeIs(2));
  const auto newest = std::ranges::max(files, {}, [](const auto& file) { return last_write_time(file); });
  std::filesystem::remove(newest);
  auto engine = reopen();
  ASSERT_OK(engine);
  ASSERT_ERROR(ErrorCode::corruption, engine->restore_if_any());
  std::vector<SkippedImage> skipped;
  ASSERT_OK(engine->restore_if_any({.fallback = true, .skipped = &skipped}));
  EXPECT_TRUE(holds(4));
  ASSERT_THAT(skipped, SizeIs(1));
  EXPECT_EQ(skipped[0].image, "");
  EXPECT_THAT(skipped[0].reason, HasSubstr("image 5 was recorded and can't be found"));
}

TEST_F(EngineFallback, the_next_image_depends_on_nothing_that_a_hidden_segment_may_contradict) {
  write_images(true);
  {
    auto engine = reopen();
    ASSERT_OK(engine);
    ASSERT_OK(engine->restore_if_any());
    memory_.page(3)[0] ^= std::byte{1};
    ASSERT_OK(checkpoint(*engine));  // image 5; the engine goes without close()
  }
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(store() + "/segments")) files.push_back(entry.path());
  flip(std::ranges::max(files, {}, [](const auto& file) { return last_write_time(file); }), 20);  // its header
  auto engine = reopen();
  ASSERT_OK(engine);
  ASSERT_ERROR(ErrorCode::corruption, engine->restore_if_any());
  std::vector<SkippedImage> skipped;
  ASSERT_OK(engine->restore_if_any({.fallback = true, .skipped = &skipped}));
  EXPECT_TRUE(holds(4));
  EXPECT_THAT(skipped, SizeIs(1));
  const auto next = checkpoint(*engine);
  ASSERT_OK(next);
  EXPECT_EQ(next->kind, ImageKind::full);
  EXPECT_GT(next->image, 5U);  // a number that the hidden one can't have
}

TEST_F(EngineFallback, what_is_no_damage_is_an_error_as_ever) {
  write_images(true);
  Pages other(kPages + 1);
  auto engine = Engine::open(small_options(store()));
  ASSERT_OK(engine);
  ASSERT_OK(engine->protect("memory", other.begin(), other.bytes()));
  std::vector<SkippedImage> skipped;
  ASSERT_ERROR(ErrorCode::invalid_argument, engine->restore_if_any({.fallback = true, .skipped = &skipped}));
  EXPECT_THAT(skipped, IsEmpty());
}

TEST_F(EngineFallback, an_empty_chain_is_a_fresh_start) {
  auto engine = reopen();
  ASSERT_OK(engine);
  const auto restored = engine->restore_if_any({.fallback = true});
  ASSERT_OK(restored);
  EXPECT_FALSE(*restored);
}

}  // namespace
}  // namespace varve::test
