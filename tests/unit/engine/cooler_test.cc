// SPDX-License-Identifier: Apache-2.0
//
// The rules by which a page may stop being a suspect, with a tracker that cools what the test says.
#include "engine/cooler.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <thread>

#include <gtest/gtest.h>

#include "tests/support/refuse_syscalls.h"
#include "tests/support/simulated_io.h"

namespace varve {
namespace {

using tracker::PageRange;
using tracker::PageRuns;

class FakeTracking : public tracker::Tracking {
 public:
  explicit FakeTracking(PageRange range) : range_(range) {}
  PageRange range() const override { return range_; }
  tracker::BackEndKind back_end() const override { return tracker::BackEndKind::uffd; }
  std::string why() const override { return {}; }
  Status cut(std::uint64_t, PageRuns&) override { return {}; }
  bool watch_fork(std::uint64_t, PageRange) override { return false; }
  void changed_since_fork(std::uint64_t, PageRange range, PageRuns& changed) override { changed.assign(1, range); }
  void committed(std::uint64_t epoch) override { committed_epochs.push_back(epoch); }
  void touch(PageRange) override {}
  void reduced(std::uint64_t, const tracker::Reduced& found) override {
    suspect_pages = found.suspects;
    unchanged_pages = found.unchanged;
  }
  Status cool(PageRuns& cooled) override {
    ++cools;
    cooled = next_cooled;
    if (while_cooling) while_cooling();
    return {};
  }
  void cool_ahead(std::uintptr_t) override {}
  void settled(const PageRuns& pages) override {
    settled_pages.insert(settled_pages.end(), pages.begin(), pages.end());
  }
  void expect_drop() override {}
  tracker::TrackingCounters counters() const override { return {}; }
  tracker::Costs costs() const override { return {}; }

  std::vector<std::uint64_t> committed_epochs;
  PageRuns suspect_pages;
  PageRuns unchanged_pages;
  PageRuns next_cooled;
  PageRuns settled_pages;
  int cools = 0;
  std::function<void()> while_cooling;

 private:
  PageRange range_;
};

class CoolerTest : public ::testing::Test {
 protected:
  static constexpr std::size_t kPages = 8;
  static constexpr std::size_t kPage = 4096;

  CoolerTest() {
    memory_ = static_cast<std::byte*>(
        mmap(nullptr, kPages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    for (std::size_t i = 0; i < kPages * kPage; ++i) memory_[i] = static_cast<std::byte>(i / kPage + i % 251);
    store_ = storage::Store::open(disk_.open(), {}).value();
    region_ = std::make_shared<Region>("memory", memory_,
                                       ChunkGrid({.grid_offset = 0, .bytes = kPages * kPage, .chunk_bytes = 4096}));
    region_->exclusions = std::make_shared<const Exclusions>();
    region_->committed.names = NameTable(kPages);
    for (std::size_t i = 0; i < kPages; ++i)
      region_->committed.names.set(i, store_->name_of({memory_ + i * kPage, kPage}));
    auto tracking = std::make_unique<FakeTracking>(pages(0, kPages));
    tracking_ = tracking.get();
    region_->tracking = std::move(tracking);
    cooler_ = std::make_unique<Cooler>(*store_, cooling_mutex_, newest_epoch_);
  }
  ~CoolerTest() override { munmap(memory_, kPages * kPage); }

  PageRange pages(std::size_t first, std::size_t count) const {
    const auto begin = reinterpret_cast<std::uintptr_t>(memory_) + first * kPage;
    return {begin, begin + count * kPage};
  }
  void commit(std::uint64_t epoch) {
    ImageJob job;
    job.epoch = epoch;
    job.regions.push_back({region_, region_->exclusions, {pages(0, kPages)}});
    job.stall.set({});
    std::vector<ReducedRegion> reduced(1);
    reduced[0].unchanged = {{1, 2}, {5, 1}};
    cooler_->after_commit(job, reduced);
  }

  test::SimulatedDisk disk_;
  std::unique_ptr<storage::Store> store_;
  std::byte* memory_ = nullptr;
  std::shared_ptr<Region> region_;
  FakeTracking* tracking_ = nullptr;
  Mutex cooling_mutex_;
  std::atomic<std::uint64_t> newest_epoch_{1};
  std::unique_ptr<Cooler> cooler_;
};

TEST_F(CoolerTest, tells_the_tracker_what_is_committed_and_unchanged) {
  commit(1);
  EXPECT_EQ(tracking_->committed_epochs, std::vector<std::uint64_t>{1});
  EXPECT_EQ(tracking_->suspect_pages, PageRuns{pages(0, kPages)});
  EXPECT_EQ(tracking_->unchanged_pages, (PageRuns{pages(1, 2), pages(5, 1)}));
}

TEST_F(CoolerTest, settles_cooled_pages_that_are_what_is_committed_and_no_others) {
  tracking_->next_cooled = {pages(0, 3), pages(5, 2)};
  memory_[kPage + 7] ^= std::byte{1};
  commit(1);
  EXPECT_EQ(tracking_->settled_pages, (PageRuns{pages(0, 1), pages(2, 1), pages(5, 2)}));
}

TEST_F(CoolerTest, compares_nothing_while_an_image_that_was_cut_before_is_in_flight) {
  tracking_->next_cooled = {pages(0, 2)};
  newest_epoch_ = 2;  // a cut was made before page 0 was protected: its image may hold the page with other content
  commit(1);
  EXPECT_EQ(tracking_->settled_pages, PageRuns{});
  commit(2);
  EXPECT_EQ(tracking_->settled_pages, (PageRuns{pages(0, 2)}));
  EXPECT_EQ(tracking_->cools, 1) << "the pages of the last cool() are settled before the next one";
}

TEST_F(CoolerTest, compares_nothing_once_a_newer_cut_has_listed_it) {
  tracking_->next_cooled = {pages(0, 2)};
  newest_epoch_ = 2;
  commit(1);
  newest_epoch_ = 3;
  commit(2);
  EXPECT_EQ(tracking_->settled_pages, PageRuns{});
  EXPECT_EQ(tracking_->cools, 1);
  commit(3);
  EXPECT_EQ(tracking_->cools, 2) << "nothing of the last cool() is left to be compared";
  EXPECT_EQ(tracking_->settled_pages, (PageRuns{pages(0, 2)}));
}

TEST_F(CoolerTest, counts_a_cut_made_while_it_cools) {
  tracking_->next_cooled = {pages(0, 2)};
  tracking_->while_cooling = [this] { newest_epoch_ = 2; };
  commit(1);
  EXPECT_EQ(tracking_->settled_pages, PageRuns{});
}

TEST_F(CoolerTest, leaves_a_region_alone_that_was_unprotected) {
  tracking_->next_cooled = {pages(0, 2)};
  region_->ended = true;
  commit(1);
  EXPECT_EQ(tracking_->cools, 0);
  EXPECT_TRUE(tracking_->committed_epochs.empty());
}

TEST_F(CoolerTest, excluded_bytes_do_not_count_and_wholly_excluded_chunks_stay_suspects) {
  auto exclusions = std::make_shared<Exclusions>();
  exclusions->ranges = {{100, 50}, {kPage, kPage}};
  exclusions->whole_chunks = region_->grid.inside(exclusions->ranges);
  std::vector<std::byte> masked(memory_, memory_ + kPage);
  std::memset(masked.data() + 100, 0, 50);
  region_->committed.names.set(0, store_->name_of(masked));
  region_->exclusions = exclusions;
  tracking_->next_cooled = {pages(0, 3)};
  commit(1);
  EXPECT_EQ(tracking_->settled_pages, (PageRuns{pages(0, 1), pages(2, 1)}));
}

TEST_F(CoolerTest, reads_nothing_of_what_a_restore_has_just_put_in_place) {
  tracking_->next_cooled = {pages(0, kPages)};
  region_->committed.names.forget_all();
  for (const std::size_t index : {std::size_t{0}, std::size_t{1}, std::size_t{5}})
    region_->committed.names.set(index, storage::ChunkName{index + 9, 7});
  region_->exclusions = std::make_shared<const Exclusions>(Exclusions{{{kPage, kPage}}, {{1, 1}}});
  ASSERT_EQ(mprotect(memory_, kPages * kPage, PROT_NONE), 0);
  cooler_->after_restore(*region_, Cooler::Content::committed);
  EXPECT_EQ(tracking_->settled_pages, (PageRuns{pages(0, 1), pages(5, 1)})) << "what is known and not excluded";
}

TEST_F(CoolerTest, compares_after_a_restore_beside_which_the_program_ran) {
  tracking_->next_cooled = {pages(0, kPages)};
  memory_[3 * kPage] ^= std::byte{1};
  cooler_->after_restore(*region_, Cooler::Content::may_differ);
  EXPECT_EQ(tracking_->settled_pages, (PageRuns{pages(0, 3), pages(4, 4)}));
}

TEST_F(CoolerTest, memory_that_is_gone_is_not_settled) {
  tracking_->next_cooled = {pages(0, 4)};
  ASSERT_EQ(munmap(memory_ + 2 * kPage, kPage), 0);
  commit(1);
  for (const auto& run : tracking_->settled_pages)
    EXPECT_FALSE(run.begin <= pages(2, 1).begin && run.end > pages(2, 1).begin);
}

TEST(ReadRacingMemory, copies_while_others_write_and_refuses_what_is_not_mapped) {
  auto* memory =
      static_cast<std::byte*>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    while (!stop) memory[5] = static_cast<std::byte>(static_cast<int>(memory[5]) + 1);
  });
  std::vector<std::byte> into(4096);
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(read_racing_memory(memory, into));
  stop = true;
  writer.join();
  munmap(memory, 4096);
  EXPECT_FALSE(read_racing_memory(memory, into));
}

TEST(ReadRacingMemory, works_where_the_system_call_is_refused) {
  const std::vector<std::byte> memory(10'000, std::byte{7});
  const pid_t child = fork();
  if (child == 0) {
    if (!test::refuse_syscalls({SYS_process_vm_readv})) _exit(77);
    std::vector<std::byte> into(memory.size());
    _exit(read_racing_memory(memory.data(), into) && into == memory ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == 77) GTEST_SKIP() << "no seccomp filters here";
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace varve
