// SPDX-License-Identifier: Apache-2.0
//
// Reading many chunks at once: enough of them that several threads share the work.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <fmt/format.h>
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

  /// All of them, each delivered once, and each part told of in turn.
  void read_in_parts(Store& store, unsigned threads, std::size_t part);

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

TEST_F(ChunkReader, ReadsHardlyMoreThanWhatTheFramesTake) {
  std::vector<std::byte> content = content_;
  for (std::size_t page = 0; page < kPages; ++page)  // half of each compresses
    std::ranges::fill(std::span(content).subspan(page * kPage, kPage / 2), std::byte{0});
  test::SimulatedDisk disk;
  {
    const auto store = test::open_store(disk);
    const auto writer = test::open_chain(*store);
    const test::ShadowMemory memory{{"grid", {content, 0, 0}}};
    ASSERT_OK(test::checkpoint(*store, *writer, "main", 1, memory, nullptr, 0));
    ASSERT_OK(writer->close());
    for (std::size_t page = 0; page < kPages; ++page)
      requests_[page].name = store->name_of(std::span(content).subspan(page * kPage, kPage));
  }
  std::atomic<std::uint64_t> reads{0};
  std::atomic<std::uint64_t> bytes{0};
  auto store = Store::open(std::make_unique<HookedIo>(disk.open(),
                                                      [&](const HookedCall& call) -> Status {
                                                        if (call.kind != HookedCall::Kind::read) return {};
                                                        ++reads;
                                                        bytes += call.bytes;
                                                        return {};
                                                      }),
                           {});
  ASSERT_OK(store);
  reads = bytes = 0;
  ASSERT_OK((*store)->read_chunks(requests_, kAllProcessors, [](std::uint64_t, std::span<const std::byte>) {}));
  const std::uint64_t stored = disk.size_bytes((*store)->images()[0].segment);
  EXPECT_LT(stored, kPages * kPage * 6 / 10);
  EXPECT_LE(bytes, stored + reads * 2 * kPage) << reads << " reads";
}

/// The requests in parts of these sizes, and what was told of them.
class PartedRequests final : public RequestSource {
 public:
  PartedRequests(std::span<const ChunkRequest> requests, std::size_t part, std::function<bool(std::uint64_t)> delivered)
      : rest_(requests), part_(part), delivered_(std::move(delivered)) {}

  std::span<const ChunkRequest> next(std::vector<ChunkRequest>& room) override {
    EXPECT_TRUE(room.empty());
    EXPECT_EQ(caller_, std::this_thread::get_id());
    // Now from a list of its own, now from one that stands elsewhere.
    const auto requests = rest_.first(std::min(part_, rest_.size()));
    rest_ = rest_.subspan(requests.size());
    in_flight_.push_back({requests.begin(), requests.end()});
    most_in_flight_ = std::max(most_in_flight_, in_flight_.size());
    if (in_flight_.size() % 2 == 0) return requests;
    room.assign(requests.begin(), requests.end());
    return room;
  }
  void finished(std::span<const ChunkRequest> requests) override {
    EXPECT_EQ(caller_, std::this_thread::get_id());
    ASSERT_FALSE(in_flight_.empty());
    EXPECT_TRUE(std::ranges::equal(requests, in_flight_.front(), {}, &ChunkRequest::tag, &ChunkRequest::tag));
    for (const auto& request : requests) EXPECT_TRUE(delivered_(request.tag));
    in_flight_.pop_front();
    ++finished_;
  }
  std::size_t finished() const { return finished_; }
  std::size_t most_in_flight() const { return most_in_flight_; }

 private:
  std::span<const ChunkRequest> rest_;
  const std::size_t part_;
  const std::function<bool(std::uint64_t)> delivered_;
  const std::thread::id caller_ = std::this_thread::get_id();
  std::deque<std::vector<ChunkRequest>> in_flight_;
  std::size_t most_in_flight_ = 0;
  std::size_t finished_ = 0;
};

void ChunkReader::read_in_parts(Store& store, unsigned threads, std::size_t part) {
  const auto deliver = count();
  PartedRequests source(requests_, part, [this](std::uint64_t page) { return delivered_[page] == 1; });
  ASSERT_OK(store.read_chunks(source, threads, deliver));
  EXPECT_EQ(wrong_, 0U);
  EXPECT_EQ(source.finished(), (kPages + part - 1) / part);
  EXPECT_LE(source.most_in_flight(), 5U) << "memory is bounded";
  for (std::size_t page = 0; page < kPages; ++page) ASSERT_EQ(delivered_[page], 1U) << "page " << page;
}

TEST_F(ChunkReader, ReadsPartAfterPartAndTellsOfEachInTurnWhenAllOfItIsDelivered) {
  const auto store = test::open_store(disk_);
  for (const unsigned threads : {kAllProcessors, 1U, 3U})
    for (const std::size_t part : {std::size_t{1}, std::size_t{37}, std::size_t{1000}, kPages, kPages + 1}) {
      SCOPED_TRACE(fmt::format("{} threads, parts of {}", threads, part));
      read_in_parts(*store, threads, part);
    }
}

TEST_F(ChunkReader, APartWithAChunkThatIsNowhereFailsTheCallAndIsNotFinished) {
  const auto store = test::open_store(disk_);
  requests_[kPages / 2].name = {1, 2};
  for (const unsigned threads : {kAllProcessors, 1U}) {
    const auto deliver = count();
    PartedRequests source(requests_, 500, [this](std::uint64_t page) { return delivered_[page] == 1; });
    const auto read = store->read_chunks(source, threads, deliver);
    ASSERT_FALSE(read.has_value());
    EXPECT_EQ(read.error().code(), ErrorCode::corruption);
    EXPECT_EQ(wrong_, 0U);
    EXPECT_LE(source.finished(), kPages / 2 / 500);
  }
}

TEST_F(ChunkReader, PartsOfWhichOneCopyIsDamagedAreReadFromAnotherAndFinishedInTurn) {
  test::SimulatedDisk disk;
  StoreOptions options;
  options.compress = false;
  const auto first = test::open_store(disk, options);
  const auto second = test::open_store(disk, options);
  const auto one = test::open_chain(*first, "first");
  const auto other = test::open_chain(*second, "second");  // does not know what the first one writes: its own copies
  const test::ShadowMemory memory{{"grid", {content_, 0, 8}}};
  ASSERT_OK(test::checkpoint(*first, *one, "first", 1, memory, nullptr, 0));
  ASSERT_OK(test::checkpoint(*second, *other, "second", 1, memory, nullptr, 0));
  ASSERT_OK(one->close());
  ASSERT_OK(other->close());
  for (std::size_t page = 0; page < kPages; ++page) requests_[page].name = first->name_of(page_of(page));
  const auto reader = test::open_store(disk);
  std::uint64_t first_damage = std::uint64_t{1} << 20;
  for (const auto& image : reader->images()) {
    ASSERT_GT(disk.size_bytes(image.segment), kPages * kPage) << "it is all in one";
    for (std::uint64_t at = first_damage; at < kPages * kPage; at += std::uint64_t{5} << 20)
      disk.flip_bit(image.segment, at, 3);
    first_damage += std::uint64_t{2} << 20;  // never the same frame of both
  }
  for (const unsigned threads : {kAllProcessors, 1U})
    for (const std::size_t part : {std::size_t{100}, std::size_t{1500}, kPages}) {
      SCOPED_TRACE(fmt::format("{} threads, parts of {}", threads, part));
      read_in_parts(*reader, threads, part);
    }
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
