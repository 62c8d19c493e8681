// SPDX-License-Identifier: Apache-2.0
//
// Regions, a cut of them that is forked, and whether what is read in place, directly or ahead, is what the child holds.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "base/check.h"
#include "engine/live_read_ahead.h"
#include "engine/live_reader.h"
#include "tests/support/memory_sharer.h"
#include "tests/support/random.h"
#include "tests/unit/engine/capture_test_support.h"

namespace varve::live_reader_test {

using capture_test::fill;
using capture_test::Mapped;
using test::MemorySharer;

inline constexpr std::size_t kPage = 4096;
inline constexpr std::size_t kMiB = std::size_t{1} << 20;

/// What became of each chunk of a region: 'l' read in place, 'h' left to the holder, '.' not asked for.
using Fates = std::string;

/// Memory, a region in it, and its content at the fork.
struct Protected {
  Mapped memory;
  std::shared_ptr<Region> region;
  std::vector<std::byte> at_fork = {};
  Fates fates = {};
  std::uintptr_t last_end = 0;

  explicit Protected(std::size_t bytes) : memory(bytes) {
    madvise(memory.get(), bytes, MADV_NOHUGEPAGE);
    fill(memory.get(), bytes, bytes);
  }
  void write(std::size_t page) { memory.get()[page * kPage + 7] ^= std::byte{1}; }
};

class LiveReaderTest : public testing::Test {
 protected:
  Protected& add(std::size_t bytes) { return add(bytes, 0, bytes); }
  /// A region of memory that is `room` bytes long.
  Protected& add(std::size_t room, std::size_t begin, std::size_t bytes, std::uint32_t chunk_bytes = kPage) {
    Protected& made = regions_.emplace_back(room);
    const std::string name = "region-" + std::to_string(regions_.size());
    auto region = table_.add({.name = name,
                              .address = made.memory.get() + begin,
                              .bytes = bytes,
                              .element_bytes = 0,
                              .chunk_bytes = chunk_bytes},
                             tracker_, this);
    VARVE_CHECK(region.has_value());
    made.region = *region;
    made.fates.assign(made.region->grid.count(), '.');
    chunk_bytes_ = chunk_bytes;
    return made;
  }

  /// Whether the tracker here tells what changed.
  bool tells() {
    for (const Protected& each : regions_) {
      if (each.region->tracking == nullptr) continue;
      const auto kind = each.region->tracking->back_end();
      if (kind != tracker::BackEndKind::uffd && kind != tracker::BackEndKind::soft_dirty) return false;
    }
    return true;
  }

  /// Holds these chunks of a region; without a call for any, all of all.
  void hold(std::uint32_t number, ChunkRange chunks) {
    const Region& region = *at(number).region;
    const auto extent = region.grid.extent(chunks);
    spans_.push_back({number, region.begin + extent.offset, extent.bytes, region.grid_address(), true});
  }

  void cut_and_fork() {
    cut_and_fork_within_stall();
    reader_->end_stall();
  }
  /// Until the reader's end_stall() nobody may write.
  void cut_and_fork_within_stall() {
    cut_all();
    fork();
    reader_->watch(spans_);
    for (Protected& each : regions_) each.at_fork.assign(each.region->begin, each.region->begin + each.region->bytes());
  }
  void cut_all() {
    if (spans_.empty())
      for (std::uint32_t number = 0; number < regions_.size(); ++number)
        hold(number, {0, at(number).region->grid.count()});
    reader_ = std::make_shared<LiveReader>(touching_, ++epoch_, chunk_bytes_, beside_);
    for (Protected& each : regions_) {
      reader_->add(each.region);
      cut(*each.region);
    }
  }
  /// Another cut that is captured by fork, while the first is read.
  void cut_and_fork_again() {
    ++epoch_;
    for (Protected& each : regions_) cut(*each.region);
    fork();
    for (Protected& each : regions_)
      if (each.region->tracking != nullptr) each.region->tracking->watch_fork(epoch_, each.region->tracking->range());
  }
  void commit() {
    for (Protected& each : regions_)
      if (each.region->tracking != nullptr) each.region->tracking->committed(epoch_);
  }
  void fork() { sharers_.emplace_back(); }

  void begin() { reader_->begin(spans_); }
  void begin_ahead(LiveReadAhead::Ahead ahead) {
    ahead_ = std::make_unique<LiveReadAhead>(reader_, spans_, nullptr, ahead);
  }
  /// Reads one piece and checks it; false at the end.
  bool read_one() {
    const auto piece = next_piece();
    if (!piece) return false;
    Protected& from = at(piece->region);
    EXPECT_GE(piece->begin, from.last_end) << "not ascending";
    from.last_end = piece->begin + piece->content.size();
    take('l', from, piece->begin, piece->content.size());
    const std::size_t offset = piece->begin - from.region->address();
    EXPECT_EQ(std::memcmp(piece->content.data(), from.at_fork.data() + offset, piece->content.size()), 0)
        << "content differs from that at the fork";
    return true;
  }
  /// Reads to the end, and checks that every chunk that was asked for came once.
  void read_all() {
    while (!testing::Test::HasFailure() && read_one()) {
    }
    const MemorySpan* last = nullptr;
    const auto rest = ahead_ == nullptr ? reader_->take_rest() : ahead_->take_rest();
    for (const MemorySpan& span : rest) {
      Protected& from = at(span.region);
      EXPECT_EQ(span.grid, from.region->grid_address());
      EXPECT_TRUE(span.fork_holds_it);
      if (last != nullptr && last->region == span.region) {
        EXPECT_GT(span.begin, last->begin + last->bytes);
      }
      take('h', from, reinterpret_cast<std::uintptr_t>(span.begin), span.bytes);
      last = &span;
    }
    for (const MemorySpan& span : spans_) {
      const Protected& from = at(span.region);
      const auto chunks = chunks_of(from, reinterpret_cast<std::uintptr_t>(span.begin), span.bytes);
      EXPECT_EQ(from.fates.substr(chunks.first, chunks.count).find('.'), Fates::npos) << "not all of it came";
    }
  }
  void read_all_while_another_thread_writes(
      Protected& written, const std::function<void()>& first = [] {}) {
    std::atomic<bool> stop = false;
    std::thread writer([&written, &stop, &first] {
      first();
      test::Random random(1);
      volatile std::byte* const memory = written.memory.get();
      while (!stop) memory[random.below(written.memory.bytes())] = static_cast<std::byte>(random.next());
    });
    read_all();
    stop = true;
    writer.join();
  }
  Protected& at(std::uint32_t number) { return *std::next(regions_.begin(), number); }

  void end_region(Protected& ended) {
    MutexLock lock(touching_);
    ended.region->ended = true;
    ended.region->tracking.reset();
    // Unmapped, and nobody else gets the addresses.
    void* const place = ended.memory.get();
    ASSERT_EQ(mmap(place, ended.memory.bytes(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), place);
  }

  Mutex touching_;
  RegionTable table_;
  std::list<Protected> regions_;
  std::vector<MemorySpan> spans_;
  std::uint32_t chunk_bytes_ = kPage;
  std::optional<tracker::BackEndKind> tracker_;  // of what is added next
  std::uint64_t epoch_ = 0;
  LiveReader::Beside beside_ = LiveReader::Beside::nobody;
  std::shared_ptr<LiveReader> reader_;
  std::vector<std::byte> block_memory_ = std::vector<std::byte>(LiveReader::kBlockBytes);
  LiveReader::Block block_ = {block_memory_.data(), {}};
  std::size_t piece_ = 0;
  std::unique_ptr<LiveReadAhead> ahead_;  // has the reader, once it began
  std::list<MemorySharer> sharers_;

 private:
  std::optional<CapturedPiece> next_piece() {
    if (ahead_ != nullptr) return ahead_->next();
    if (piece_ == block_.pieces.size()) {
      piece_ = 0;
      if (!reader_->read(block_)) return {};
    }
    return block_.pieces[piece_++];
  }
  void cut(Region& region) {
    if (region.tracking == nullptr) return;
    tracker::PageRuns suspects;
    const Status status = region.tracking->cut(epoch_, suspects);
    EXPECT_TRUE(status) << status.error().message();
  }
  static ChunkRange chunks_of(const Protected& from, std::uintptr_t begin, std::size_t bytes) {
    return from.region->grid.touching({begin - from.region->address(), bytes});
  }
  /// Whole chunks, each once.
  static void take(char fate, Protected& from, std::uintptr_t begin, std::size_t bytes) {
    const std::uint64_t offset = begin - from.region->address();
    ASSERT_LE(offset + bytes, from.region->bytes());
    const ChunkRange chunks = chunks_of(from, begin, bytes);
    const auto extent = from.region->grid.extent(chunks);
    EXPECT_TRUE(extent.offset == offset && extent.bytes == bytes) << "not whole chunks";
    for (std::uint64_t chunk = chunks.first; chunk < chunks.end(); ++chunk) {
      EXPECT_EQ(from.fates[chunk], '.') << "chunk " << chunk << " came twice";
      from.fates[chunk] = fate;
    }
  }
};

#define SKIP_WHERE_NO_TRACKER_TELLS() \
  if (!tells()) GTEST_SKIP() << "no tracker here tells what changed since a fork"

}  // namespace varve::live_reader_test
