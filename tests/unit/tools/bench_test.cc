// SPDX-License-Identifier: Apache-2.0
//
// The pieces that figures are made of: samples, page sequences, data, and the directory that is removed.
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <numeric>
#include <set>

#include <gtest/gtest.h>
#include <lz4.h>

#include "tests/support/temporary_directory.h"
#include "tools/ckpt_bench/lz4_alone.h"
#include "tools/ckpt_bench/peer.h"
#include "tools/ckpt_bench/samples.h"
#include "tools/ckpt_bench/scratch.h"
#include "tools/ckpt_bench/stages.h"
#include "tools/ckpt_bench/workload.h"
#include "tools/ckpt_bench/yardstick.h"

namespace varve::tools {
namespace {

namespace fs = std::filesystem;

TEST(PageSequence, OfLessThanAPageDrawsNothing) {
  EXPECT_TRUE(PageSequence({.bytes = 4095, .dirty = 0.5}).next().empty());
}

TEST(Mapping, OfLessThanAPageIsRefused) {
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{4095}}) {
    const auto mapping = Mapping::create({.bytes = bytes});
    ASSERT_FALSE(mapping.has_value());
    EXPECT_NE(mapping.error().message().find("less than a page"), std::string::npos) << mapping.error().message();
  }
}

TEST(Lz4Alone, PacksWhatRepeatsAndLeavesTheRest) {
  std::vector<std::byte> memory(1 << 20);
  for (const auto kind : {DataKind::zeros, DataKind::random}) {
    fill(memory, kind, 1);
    for (const unsigned threads : {1U, 3U}) {
      const auto lz4 = lz4_alone(std::span(memory).first(memory.size() - 100), threads);
      ASSERT_TRUE(lz4.has_value()) << lz4.error().message();
      EXPECT_GT(lz4->pack_bytes_per_second, 0);
      EXPECT_GT(lz4->unpack_bytes_per_second, 0);
      if (kind == DataKind::zeros)
        EXPECT_GT(lz4->ratio, 100);
      else
        EXPECT_EQ(lz4->ratio, 1) << "as it is";
    }
  }
}

TEST(Samples, QuantilesAreNearestRanks) {
  Samples samples;
  for (std::uint64_t value = 100; value >= 1; --value) samples.add(value);
  EXPECT_EQ(samples.median(), 50);
  EXPECT_EQ(samples.quantile(0.99), 99);
  EXPECT_EQ(samples.max(), 100);
  EXPECT_EQ(samples.quantile(0), 1);
  EXPECT_EQ(samples.json().at("count"), 100);
  EXPECT_TRUE(Samples().json().is_null());
  EXPECT_EQ(Samples().median(), 0);
}

TEST(Stages, FollowEachOtherWithoutGapWhateverTheClocksSay) {
  const std::vector<StageTimes> cases = {
      {.stall_ns = 100, .scan_ns = 20, .capture_ns = 50, .reduce_ns = 300, .commit_ns = 40, .durable_ns = 600},
      {.stall_ns = 100, .scan_ns = 90, .capture_ns = 50, .reduce_ns = 300, .commit_ns = 40, .durable_ns = 300},
      {.stall_ns = 100, .scan_ns = 20, .capture_ns = 50, .reduce_ns = 10, .commit_ns = 40, .durable_ns = 120}};
  for (const auto& times : cases) {
    const auto lane = lane_of("one", times);
    double at = 0;
    for (const auto& span : lane.spans) {
      EXPECT_EQ(span.begin, at);
      EXPECT_GE(span.end, span.begin);
      at = span.end;
    }
    EXPECT_EQ(at, static_cast<double>(times.durable_ns));
    EXPECT_EQ(lane.spans[2].end, 100) << "the program goes on";
  }
  EXPECT_EQ(typical(cases).durable_ns, 300u);
}

TEST(PageSequence, ScatteredPagesAreAscendingDistinctAndAsManyAsAsked) {
  PageSequence sequence({.bytes = std::uint64_t{64} << 20, .dirty = 0.01});
  const std::uint64_t pages = (std::uint64_t{64} << 20) / kPageBytes;
  std::vector<std::uint32_t> before;
  for (int epoch = 0; epoch < 5; ++epoch) {
    const auto drawn = sequence.next();
    EXPECT_EQ(drawn.size(), 164u);  // 16384 pages, rounded
    EXPECT_TRUE(std::is_sorted(drawn.begin(), drawn.end()));
    EXPECT_EQ(std::set(drawn.begin(), drawn.end()).size(), drawn.size());
    EXPECT_LT(drawn.back(), pages);
    EXPECT_GT(drawn.back() - drawn.front(), pages / 2) << "not spread over the region";
    EXPECT_NE(drawn, before) << "fresh pages in each epoch";
    before = drawn;
  }
}

TEST(PageSequence, ContiguousPagesAreOneRunAndMoveOnUnlessRepeated) {
  PageSequence fresh({.bytes = std::uint64_t{64} << 20, .dirty = 0.01, .pattern = Pattern::contiguous});
  const auto first = fresh.next();
  EXPECT_EQ(first.back() - first.front() + 1, first.size());
  const auto second = fresh.next();
  EXPECT_EQ(second.front(), first.back() + 1);
  PageSequence same(
      {.bytes = std::uint64_t{64} << 20, .dirty = 0.01, .pattern = Pattern::contiguous, .repeat_pages = true});
  const auto once = same.next();
  EXPECT_EQ(same.next(), once);
}

TEST(PageSequence, AllAndNothingAreExact) {
  PageSequence all({.bytes = std::uint64_t{1} << 20, .dirty = 1});
  EXPECT_EQ(all.next().size(), 256u);
  PageSequence nothing({.bytes = std::uint64_t{1} << 20, .dirty = 0});
  EXPECT_TRUE(nothing.next().empty());
}

TEST(Workload, AnEpochChangesExactlyTheNamedPagesAtAnyOffset) {
  for (const std::size_t offset : {std::size_t{0}, std::size_t{16}}) {
    auto memory = Mapping::create({.bytes = std::size_t{4} << 20, .offset = offset});
    ASSERT_TRUE(memory);
    const auto bytes = memory->bytes();
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(bytes.data()) % kPageBytes, offset);
    fill(bytes, DataKind::random, 1);
    const std::vector<std::byte> before(bytes.begin(), bytes.end());
    const std::vector<std::uint32_t> pages = {0, 17, 18, 1023};
    run_epoch(bytes, pages, DataKind::random, 5);
    std::set<std::size_t> changed;
    for (std::size_t i = 0; i < bytes.size(); ++i)
      if (bytes[i] != before[i]) changed.insert((i + offset) / kPageBytes);
    EXPECT_EQ(changed, std::set<std::size_t>(pages.begin(), pages.end())) << "offset " << offset;
  }
}

TEST(PageSequence, SkewedPagesComeBackByAPowerLaw) {
  PageSequence sequence({.bytes = std::uint64_t{64} << 20, .dirty = 0.01, .pattern = Pattern::skewed});
  std::map<std::uint32_t, int> drawn;
  for (int epoch = 0; epoch < 100; ++epoch) {
    const auto& pages = sequence.next();
    ASSERT_EQ(pages.size(), 164u);
    EXPECT_TRUE(std::is_sorted(pages.begin(), pages.end()));
    EXPECT_EQ(std::set(pages.begin(), pages.end()).size(), pages.size());
    EXPECT_LT(pages.back(), 16384u);
    for (const auto page : pages) ++drawn[page];
  }
  const auto often = std::count_if(drawn.begin(), drawn.end(), [](const auto& page) { return page.second > 50; });
  const auto once = std::count_if(drawn.begin(), drawn.end(), [](const auto& page) { return page.second == 1; });
  EXPECT_GT(often, 5) << "some in most epochs";
  EXPECT_GT(once, 1000) << "most of them rarely";
  PageSequence most({.bytes = std::uint64_t{1} << 20, .dirty = 0.9, .pattern = Pattern::skewed});
  EXPECT_EQ(most.next().size(), 230u);
}

TEST(Workload, EachKindChangesEachNamedPageAndNoOther) {
  for (const auto& name : data_names()) {
    const auto kind = *parse_data(name);
    for (const std::size_t offset : {std::size_t{0}, std::size_t{16}}) {
      auto memory = Mapping::create({.bytes = std::size_t{1} << 20, .offset = offset});
      ASSERT_TRUE(memory);
      const auto bytes = memory->bytes();
      fill(bytes, kind, 1);
      const std::vector<std::uint32_t> pages = {0, 17, 18, 255};
      for (std::uint64_t salt = 1; salt < 20; ++salt) {
        const std::vector<std::byte> before(bytes.begin(), bytes.end());
        run_epoch(bytes, pages, kind, salt);
        std::set<std::size_t> changed;
        for (std::size_t i = 0; i < bytes.size(); ++i)
          if (bytes[i] != before[i]) changed.insert((i + offset) / kPageBytes);
        EXPECT_EQ(changed, std::set<std::size_t>(pages.begin(), pages.end())) << name << ", salt " << salt;
      }
    }
  }
}

TEST(Workload, DoublesThatDriftStayNearWhereTheyWere) {
  for (const auto kind : {DataKind::particles, DataKind::field}) {
    auto memory = Mapping::create({.bytes = std::size_t{1} << 16});
    ASSERT_TRUE(memory);
    const auto bytes = memory->bytes();
    fill(bytes, kind, 1);
    std::vector<double> before(bytes.size() / 8), after(bytes.size() / 8);
    std::memcpy(before.data(), bytes.data(), bytes.size());
    std::vector<std::uint32_t> pages(16);
    std::iota(pages.begin(), pages.end(), 0u);
    for (std::uint64_t salt = 1; salt <= 100; ++salt) run_epoch(bytes, pages, kind, salt);
    std::memcpy(after.data(), bytes.data(), bytes.size());
    for (std::size_t i = 0; i < before.size(); ++i)
      ASSERT_NEAR(after[i], before[i], 0.5) << to_string(kind) << " " << i;
  }
}

TEST(Peer, NeedsANameAndTheProcess) {
  const auto peer = parse_peer("criu=criu dump -t {pid} -D {dir} --opt=1");
  ASSERT_TRUE(peer);
  EXPECT_EQ(peer->name, "criu");
  EXPECT_EQ(peer->command, "criu dump -t {pid} -D {dir} --opt=1");
  for (const char* text : {"", "criu", "=dump {pid}", "criu=", "criu=dump"})
    EXPECT_EQ(parse_peer(text).error().code(), ErrorCode::invalid_argument) << text;
}

TEST(Workload, KindsOfDataCompressAsTheirNamesSay) {
  const auto ratio = [](DataKind kind) {
    std::vector<std::byte> raw(std::size_t{1} << 20);
    fill(raw, kind, 3);
    std::vector<char> packed(static_cast<std::size_t>(LZ4_compressBound(static_cast<int>(raw.size()))));
    const int bytes = LZ4_compress_default(reinterpret_cast<const char*>(raw.data()), packed.data(),
                                           static_cast<int>(raw.size()), static_cast<int>(packed.size()));
    return static_cast<double>(raw.size()) / bytes;
  };
  EXPECT_LT(ratio(DataKind::random), 1.01);
  EXPECT_LT(ratio(DataKind::particles), 1.5);
  EXPECT_LT(ratio(DataKind::field), 1.2);  // it takes a byte shuffle
  EXPECT_GT(ratio(DataKind::heap), 1.4);
  EXPECT_GT(ratio(DataKind::graph), 1.4);
  EXPECT_GT(ratio(DataKind::key_value), 1.1);
  EXPECT_GT(ratio(DataKind::text), 2);
  EXPECT_GT(ratio(DataKind::zeros), 100);
}

TEST(Yardstick, CopiesExactlyTheNamedPages) {
  auto memory = Mapping::create({.bytes = std::size_t{1} << 20});
  auto into = Mapping::create({.bytes = std::size_t{1} << 20});
  ASSERT_TRUE(memory && into);
  fill(memory->bytes(), DataKind::random, 1);
  const std::vector<std::uint32_t> pages = {3, 4, 5, 200};
  copy_pages(memory->bytes(), pages, into->bytes());
  for (std::size_t i = 0; i < pages.size(); ++i) {
    const auto page = page_of(memory->bytes(), pages[i]);
    EXPECT_TRUE(
        std::equal(page.begin(), page.end(), into->bytes().begin() + static_cast<std::ptrdiff_t>(i * kPageBytes)));
  }
}

TEST(Yardstick, EachTakesTimeAndLeavesWhatItSays) {
  test::TemporaryDirectory directory;
  auto memory = Mapping::create({.bytes = std::size_t{4} << 20});
  ASSERT_TRUE(memory);
  const std::string path = directory / "yardstick";
  const auto everything = write_everything(path, memory->bytes());
  ASSERT_TRUE(everything) << everything.error().message();
  EXPECT_GT(*everything, 0u);
  EXPECT_FALSE(fs::exists(path));
  const auto direct = write_direct(path, (std::size_t{3} << 20) + 100);
  ASSERT_TRUE(direct) << direct.error().message();
  EXPECT_GT(direct->ns, 0u);
  EXPECT_GE(fs::file_size(path), (std::size_t{3} << 20) + 100);
  auto listing = ListingScan::create();
  ASSERT_TRUE(listing);
  const auto scan = listing->run(memory->bytes());
  ASSERT_TRUE(scan) << scan.error().message();
  EXPECT_GT(*scan, 0u);
}

TEST(Yardstick, ReadsEveryByteOfFilesOfAnyLength) {
  test::TemporaryDirectory directory;
  std::vector<std::string> paths;
  for (const std::size_t bytes : {std::size_t{5}, std::size_t{4096}, (std::size_t{2} << 20) + 77}) {
    paths.push_back(directory / std::to_string(bytes));
    std::ofstream(paths.back()) << std::string(bytes, 'x');
  }
  std::uint64_t bytes = 0;
  const auto timing = read_direct(paths, bytes);
  ASSERT_TRUE(timing) << timing.error().message();
  EXPECT_EQ(bytes, 5u + 4096u + (2u << 20) + 77u);
}

TEST(Scratch, IsMadeFreshAndRemoved) {
  test::TemporaryDirectory directory;
  const std::string path = directory / "bench";
  {
    auto scratch = Scratch::create(path, 1 << 20, false);
    ASSERT_TRUE(scratch) << scratch.error().message();
    fs::create_directories(scratch->store() + "/segments");
    std::ofstream(scratch->store() + "/segments/a-1.seg") << std::string(8192, 'x');
    EXPECT_GE(scratch->store_bytes(), 8192u);
    EXPECT_EQ(scratch->segments().size(), 1u);
    std::ofstream(scratch->yardstick()) << "x";
    ASSERT_TRUE(scratch->remove_yardstick());
    scratch->settle();  // on whatever file system this is
    EXPECT_FALSE(fs::exists(scratch->yardstick()));
    EXPECT_EQ(scratch->segments().size(), 1u);
  }
  EXPECT_FALSE(fs::exists(path));
}

TEST(Scratch, KeepsTheStoreWhenAskedAndTakesItsOwnDirectoryAgain) {
  test::TemporaryDirectory directory;
  const std::string path = directory / "bench";
  {
    auto scratch = Scratch::create(path, 1 << 20, true);
    ASSERT_TRUE(scratch);
    fs::create_directory(scratch->store());
    std::ofstream(scratch->yardstick()) << "x";
  }
  EXPECT_TRUE(fs::exists(path + "/store"));
  EXPECT_FALSE(fs::exists(path + "/yardstick"));
  {
    auto scratch = Scratch::create(path, 1 << 20, false);
    ASSERT_TRUE(scratch) << scratch.error().message();
    EXPECT_FALSE(fs::exists(scratch->store())) << "not fresh";
  }
  EXPECT_FALSE(fs::exists(path));
}

TEST(Scratch, NeverRemovesWhatItDidNotMake) {
  test::TemporaryDirectory directory;
  std::ofstream(directory / "thesis.txt") << "years of work";
  auto refused = Scratch::create(directory.path(), 1 << 20, false);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), ErrorCode::invalid_argument);
  EXPECT_TRUE(fs::exists(directory / "thesis.txt"));

  const std::string empty = directory / "empty";
  fs::create_directory(empty);
  { ASSERT_TRUE(Scratch::create(empty, 1 << 20, false)); }
  EXPECT_TRUE(fs::exists(empty)) << "a directory that was there stays";
  EXPECT_TRUE(fs::is_empty(empty));
}

TEST(Scratch, RefusesWhenTheDiskIsTooSmall) {
  test::TemporaryDirectory directory;
  auto refused = Scratch::create(directory / "bench", std::uint64_t{1} << 60, false);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().os_errno(), ENOSPC);
  EXPECT_NE(refused.error().message().find("--size"), std::string::npos);
}

}  // namespace
}  // namespace varve::tools
