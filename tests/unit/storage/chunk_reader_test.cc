// SPDX-License-Identifier: Apache-2.0
//
// Reading many chunks at once: enough of them that several threads share the work.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/os_error.h"
#include "storage/store.h"
#include "tests/support/hooked_io.h"
#include "tests/support/random.h"
#include "tests/unit/storage/store_fixture.h"

namespace varve::storage {
namespace {

using test::HookedCall;
using test::HookedIo;
using test::kPage;

constexpr std::size_t kPages = 5000;  // 20 MiB in two segments

class ChunkReader : public testing::Test {
 protected:
  void SetUp() override {
    StoreOptions options;
    options.compress = false;
    options.segment_bytes = kPages / 2 * kPage;
    const auto store = test::open_store(disk_, options);
    const auto writer = test::open_chain(*store);
    for (std::size_t i = 0; i < 2; ++i) {
      test::ShadowMemory half;
      half["grid"] = {
          std::vector<std::byte>(content_.begin() + static_cast<std::ptrdiff_t>(i * kPages / 2 * kPage),
                                 content_.begin() + static_cast<std::ptrdiff_t>((i + 1) * kPages / 2 * kPage)),
          0, 8};
      ASSERT_OK(test::checkpoint(*store, *writer, "main", i + 1, half, nullptr, 0));
    }
    ASSERT_OK(writer->close());
    for (std::size_t page = 0; page < kPages; ++page)
      requests_.push_back({store->name_of(page_of(page)), static_cast<std::uint32_t>(kPage), page});
  }
  std::span<const std::byte> page_of(std::uint64_t page) const {
    return std::span(content_).subspan(page * kPage, kPage);
  }
  /// Counts what is delivered, and compares it.
  DeliverChunk count() {
    delivered_ = std::vector<std::atomic<unsigned>>(kPages);
    return [this](std::uint64_t page, std::span<const std::byte> content) {
      ++delivered_[page];
      if (content.size() != kPage || std::memcmp(content.data(), page_of(page).data(), kPage) != 0) ++wrong_;
    };
  }
  void shuffle() {
    test::Random random(7);
    for (std::size_t i = requests_.size(); i > 1; --i) std::swap(requests_[i - 1], requests_[random.below(i)]);
  }

  test::SimulatedDisk disk_;
  const std::vector<std::byte> content_ = test::random_bytes(kPages * kPage, 1);
  std::vector<ChunkRequest> requests_;
  std::vector<std::atomic<unsigned>> delivered_;
  std::atomic<unsigned> wrong_{0};
};

TEST_F(ChunkReader, DeliversEachRequestOnceWhateverTheirOrderAndTheThreads) {
  shuffle();
  requests_.push_back(requests_.front());  // asked for twice
  const auto store = test::open_store(disk_);
  for (const unsigned threads : {kAllProcessors, 1U, 3U}) {
    ASSERT_OK(store->read_chunks(requests_, threads, count()));
    EXPECT_EQ(wrong_, 0U);
    for (std::size_t page = 0; page < kPages; ++page)
      ASSERT_EQ(delivered_[page], page == requests_.front().tag ? 2U : 1U) << "page " << page;
  }
}

TEST_F(ChunkReader, ReadsInTheOrderOfTheDisk) {
  std::mutex mutex;
  std::vector<std::pair<std::string, std::uint64_t>> reads;
  auto store = Store::open(std::make_unique<HookedIo>(disk_.open(),
                                                      [&](const HookedCall& call) -> Status {
                                                        if (call.kind != HookedCall::Kind::read) return {};
                                                        const std::lock_guard lock(mutex);
                                                        reads.emplace_back(call.file, call.offset);
                                                        return {};
                                                      }),
                           {});
  ASSERT_OK(store);
  shuffle();
  reads.clear();
  ASSERT_OK((*store)->read_chunks(requests_, 1, count()));
  EXPECT_LE(reads.size(), kPages * kPage / (std::size_t{512} << 10)) << "of neighbours one read is made";
  std::ranges::sort(reads);
  for (std::size_t i = 1; i < reads.size(); ++i) EXPECT_NE(reads[i], reads[i - 1]) << "read twice";
}

TEST_F(ChunkReader, TellsThatItHasPlannedBeforeItReads) {
  const auto store = test::open_store(disk_);
  unsigned times = 0;
  bool delivered_before = false;
  const auto planned = [&] {
    ++times;
    for (const auto& times_delivered : delivered_) delivered_before = delivered_before || times_delivered != 0;
  };
  std::atomic<unsigned> ends = 0;
  const ReadProgress progress{planned, [&] { ++ends; }};
  ASSERT_OK(store->read_chunks(requests_, kAllProcessors, count(), progress));
  EXPECT_EQ(times, 1U);
  EXPECT_EQ(ends, 1U);
  EXPECT_FALSE(delivered_before);
  requests_.push_back({{1, 2}, kPage, 0});  // nowhere
  EXPECT_FALSE(store->read_chunks(requests_, kAllProcessors, count(), progress).has_value());
  EXPECT_EQ(times, 1U);
  EXPECT_EQ(ends, 1U);
}

TEST_F(ChunkReader, DamageIsNamedAndWhatWasDeliveredIsRight) {
  std::string file;
  for (const std::string& one : disk_.files())
    if (one.ends_with(".seg")) file = one;
  const std::uint64_t at = disk_.size_bytes(file) / 2;
  disk_.flip_bit(file, at, 3);
  const auto store = test::open_store(disk_);
  const auto read = store->read_chunks(requests_, kAllProcessors, count());
  ASSERT_FALSE(read.has_value());
  EXPECT_EQ(read.error().code(), ErrorCode::corruption);
  EXPECT_NE(read.error().message().find(file), std::string::npos) << read.error().message();
  EXPECT_EQ(wrong_, 0U);
  std::size_t missing = 0;
  for (const auto& times : delivered_) missing += times == 0 ? 1 : 0;
  EXPECT_GT(missing, 0U);
}

TEST_F(ChunkReader, AFileThatCannotBeReadFailsTheCallOfEveryThread) {
  std::atomic<unsigned> reads{0};
  auto store = Store::open(
      std::make_unique<HookedIo>(disk_.open(),
                                 [&](const HookedCall& call) -> Status {
                                   if (call.kind != HookedCall::Kind::read) return {};
                                   if (++reads < 20) return {};
                                   return os_error(std::string("read of ").append(call.file) + " failed", ENOMEM);
                                 }),
      {});
  ASSERT_OK(store);
  reads = 10;  // some are good
  const auto read = (*store)->read_chunks(requests_, kAllProcessors, count());
  ASSERT_FALSE(read.has_value());
  EXPECT_EQ(read.error().os_errno(), ENOMEM);
  EXPECT_EQ(wrong_, 0U);
}

}  // namespace
}  // namespace varve::storage
