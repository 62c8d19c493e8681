// SPDX-License-Identifier: Apache-2.0
//
// Damage at rest: every byte of every file of a small store with two chains is changed in turn, every file is cut at
// every length, and every file is removed. After a clean close verify() must say `damage` each time; always every image
// must restore to the right bytes or to an error, and the newest image must never be an older one.
#include <algorithm>
#include <functional>
#include <future>
#include <map>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "storage/store.h"
#include "storage/verify.h"
#include "tests/support/sanitizers.h"
#include "tests/support/simulated_io.h"
#include "tests/support/store_shadow.h"

namespace varve::storage {
namespace {

using test::ShadowMemory;
using test::SimulatedDisk;

constexpr std::size_t kPage = 4096;

// Every byte, but in instrumented builds, which are many times slower and look for other bugs, one in 31.
constexpr std::uint64_t kStride = test::kSanitized ? 31 : 1;

struct Sample {
  SimulatedDisk disk;
  std::map<std::pair<std::string, std::uint64_t>, ShadowMemory> images;
};

/// Two chains with a full image and a delta each; they share a chunk. Below 64 KiB.
Sample make_sample(bool close) {
  Sample sample;
  StoreOptions options;
  options.preallocate_bytes = close ? options.preallocate_bytes : 0;  // zeros at the end would be scanned each time
  auto store = std::move(*Store::open(sample.disk.open(), options));
  for (const std::string& chain : {std::string("main"), std::string("other")}) {
    auto writer = std::move(*store->open_chain(chain));
    ShadowMemory memory;
    memory["grid"] = {test::random_bytes(kPage + 700, 1), 0, 8};  // the same in both chains
    memory["step"] = {test::random_bytes(40, chain.size()), 24, 8};
    memory["text"] = {std::vector<std::byte>(900, std::byte{'v'}), 0, 0};
    EXPECT_TRUE(test::checkpoint(*store, *writer, chain, 1, memory, nullptr, 0).has_value());
    sample.images[{chain, 1}] = memory;
    const ShadowMemory before = memory;
    memory["step"].content[3] ^= std::byte{1};
    EXPECT_TRUE(test::checkpoint(*store, *writer, chain, 2, memory, &before, 1, "second").has_value());
    sample.images[{chain, 2}] = memory;
    if (close) {
      EXPECT_TRUE(writer->close().has_value());
    }
  }
  return sample;
}

/// What went wrong with a damaged store, or nothing.
std::string examine(Sample& sample, bool closed) {
  auto io = sample.disk.open();
  auto report = verify(*io, {});
  const bool noticed =
      !report || report->status == VerifyStatus::damage || (!closed && report->status == VerifyStatus::unfinished);
  if (!noticed) return "verify did not notice";
  auto opened = Store::open(std::move(io), {});
  if (!opened) return opened.error().code() == ErrorCode::not_found ? "it looks like no store" : "";
  Store& store = **opened;
  std::map<std::pair<std::string, std::uint64_t>, bool> whole;
  for (const auto& [image, memory] : sample.images) {
    auto restored = test::restore(store, image.first, image.second);
    whole[image] = restored.has_value();
    if (restored && *restored != memory) return fmt::format("{}/{} was restored wrong", image.first, image.second);
  }
  if (report)
    for (const ImageSummary& line : report->good)
      if (!whole[{line.chain, line.number}]) return fmt::format("verify calls {}/{} good", line.chain, line.number);
  for (const std::string& chain : {std::string("main"), std::string("other")}) {
    auto newest = store.newest_image(chain);
    if (closed && newest && newest->number != 2) return "an older image looks like the newest one";
    if (closed && !newest && newest.error().code() != ErrorCode::corruption) return "it looks like a fresh start";
  }
  return "";
}

/// Runs over all files with all of `positions` in two threads, each on a disk of its own.
void for_all_bytes(bool close,
                   const std::function<std::string(Sample&, const std::string& file, std::uint64_t at)>& attempt) {
  const auto half = [&](std::uint64_t rest) {
    Sample sample = make_sample(close);
    std::string wrong;
    for (const std::string& file : sample.disk.files()) {
      const std::uint64_t size = sample.disk.size_bytes(file);
      for (std::uint64_t at = rest; at < size && wrong.empty(); at += 2 * kStride) {
        wrong = attempt(sample, file, at);
        if (!wrong.empty()) wrong = fmt::format("{} at {}: {}", file, at, wrong);
      }
    }
    return wrong;
  };
  auto odd = std::async(std::launch::async, half, 1);
  EXPECT_EQ(half(0), "");
  EXPECT_EQ(odd.get(), "");
}

std::string flip(Sample& sample, const std::string& file, std::uint64_t at, bool closed) {
  const unsigned bit = static_cast<unsigned>(at % 8);
  sample.disk.flip_bit(file, at, bit);
  std::string wrong = examine(sample, closed);
  sample.disk.flip_bit(file, at, bit);
  return wrong;
}

std::string cut(Sample& sample, const std::string& file, std::uint64_t at, bool closed) {
  const std::vector<std::byte> content = sample.disk.read(file);
  sample.disk.truncate(file, at);
  std::string wrong = examine(sample, closed);
  sample.disk.put(file, content);
  return wrong;
}

TEST(StoreDamage, TheSampleIsSmallAndGood) {
  Sample sample = make_sample(true);
  EXPECT_LT(sample.disk.used_bytes(), 64U << 10);
  EXPECT_EQ(sample.disk.size_bytes("lock"), 0U);
  auto io = sample.disk.open();
  for (const bool deep : {false, true}) {
    auto report = verify(*io, {deep});
    ASSERT_TRUE(report.has_value());
    EXPECT_EQ(report->status, VerifyStatus::good);
    EXPECT_EQ(report->good.size(), 4U);
  }
}

TEST(StoreDamage, EveryFlippedByteOfAClosedStoreIsFound) {
  for_all_bytes(true,
                [](Sample& sample, const std::string& file, std::uint64_t at) { return flip(sample, file, at, true); });
}

TEST(StoreDamage, EveryTruncationOfAClosedStoreIsFound) {
  for_all_bytes(true,
                [](Sample& sample, const std::string& file, std::uint64_t at) { return cut(sample, file, at, true); });
}

TEST(StoreDamage, EveryMissingOrLongerFileOfAClosedStoreIsFound) {
  Sample sample = make_sample(true);
  for (const std::string& file : sample.disk.files()) {
    if (file == "lock") continue;  // holds nothing
    const std::vector<std::byte> content = sample.disk.read(file);
    sample.disk.remove(file);
    EXPECT_EQ(examine(sample, true), "") << file;
    std::vector<std::byte> longer = content;
    for (const std::size_t extra : {std::size_t{1}, std::size_t{64}, kPage}) {
      longer.resize(content.size() + extra);
      sample.disk.put(file, longer);
      EXPECT_EQ(examine(sample, true), "") << file << " longer by " << extra;
    }
    sample.disk.put(file, content);
  }
}

TEST(StoreDamage, SwappedAndStaleBlocksAreFound) {
  Sample sample = make_sample(true);
  std::vector<std::string> segments = sample.disk.files();
  std::erase_if(segments, [](const std::string& file) { return !file.starts_with("segments/"); });
  ASSERT_EQ(segments.size(), 2U);
  const std::vector<std::byte> first = sample.disk.read(segments[0]);
  const std::vector<std::byte> second = sample.disk.read(segments[1]);
  // Every block by the one before it, and by the same one of the other segment.
  for (std::size_t at = kPage; at + kPage <= first.size(); at += kPage) {
    for (const std::byte* from : {first.data() + at - kPage, second.data() + std::min(at, second.size() - kPage)}) {
      std::vector<std::byte> changed = first;
      std::copy_n(from, kPage, changed.data() + at);
      if (changed == first) continue;
      sample.disk.put(segments[0], changed);
      EXPECT_EQ(examine(sample, true), "") << at;
    }
  }
  sample.disk.put(segments[0], second);  // a whole file at another's place
  EXPECT_EQ(examine(sample, true), "");
}

TEST(StoreDamage, EveryFlippedByteOfAnOpenStoreIsNoticedOrHarmless) {
  for_all_bytes(
      false, [](Sample& sample, const std::string& file, std::uint64_t at) { return flip(sample, file, at, false); });
}

TEST(StoreDamage, NamesImageRegionAndRangeThatAreHit) {
  Sample sample = make_sample(true);
  auto io = sample.disk.open();
  auto store = std::move(*Store::open(sample.disk.open(), {}));
  // The first frame of chain main holds the grid, which chain other shares.
  const ImageSummary image = store->images().front();
  sample.disk.flip_bit(image.segment, kPage + 500, 3);
  auto report = verify(*io, {});
  ASSERT_TRUE(report.has_value());
  EXPECT_EQ(report->status, VerifyStatus::damage);
  const auto hit = [&](const std::string& name) {
    return std::ranges::any_of(report->findings, [&](const VerifyFinding& one) {
      return one.image == name && one.region == "grid" && one.range == ByteRange{0, kPage + 700} &&
             one.file == image.segment && one.offset == kPage;
    });
  };
  EXPECT_TRUE(hit("main/1"));
  EXPECT_EQ(report->good.size() + report->damaged.size(), 4U);
  EXPECT_EQ(report->damaged.size(), 4U);  // the deltas inherit it
  auto restored = test::restore(*store, "main", 2);
  ASSERT_FALSE(restored.has_value());
  EXPECT_EQ(restored.error().code(), ErrorCode::corruption);
  EXPECT_NE(restored.error().message().find(image.segment + " at offset 4096"), std::string::npos)
      << restored.error().message();
}

}  // namespace
}  // namespace varve::storage
