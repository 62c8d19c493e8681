// SPDX-License-Identifier: Apache-2.0
//
// Property: whatever threads and the kernel write, and whenever pages are cooled, settled, committed or images fail, at
// every cut each page that is no suspect equals the last committed image. Writers use few different values, so that
// pages often return to what they held before. Two clients track overlapping parts of the memory.
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <deque>
#include <map>
#include <random>
#include <shared_mutex>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "base/mutex.h"
#include "tests/contract/tracker_fixture.h"

namespace varve::tracker {
namespace {

constexpr std::size_t kPages = 600;
constexpr auto kTime = std::chrono::milliseconds(1500);
constexpr auto kLongest = std::chrono::seconds(180);

// Writers and readers meet on the first word of each page, and on its last.
std::uint64_t& word(const Memory& memory, std::size_t page, bool last = false) {
  return *reinterpret_cast<std::uint64_t*>(memory.at(page, last ? page_bytes() - 8 : 0));
}

using Content = std::array<std::uint64_t, 2>;

Content content_of(const Memory& memory, std::size_t page) {
  return {std::atomic_ref(word(memory, page)).load(std::memory_order_relaxed),
          std::atomic_ref(word(memory, page, true)).load(std::memory_order_relaxed)};
}

// One engine's view: what its last committed image says, and images under way.
class Client {
 public:
  Client(const Memory& memory, std::size_t first, std::size_t end, BackEndKind kind)
      : memory_(memory),
        first_(first),
        committed_(end - first),
        tracking_(track_or_fail(memory.range(first, end), kind, nullptr)) {}

  // No writer runs. Checks the contract; the suspects' content becomes an image under way.
  void cut() {
    PageRuns suspects;
    const Status status = tracking_->cut(++epoch_, suspects);
    ASSERT_TRUE(status.has_value()) << status.error().message();
    Image image{.epoch = epoch_, .pages = {}};
    for (const std::size_t page : memory_.pages_of(suspects)) image.pages[page] = content_of(memory_, page);
    MutexLock lock(mutex_);
    if (any_committed_)
      for (std::size_t page = first_; page < first_ + committed_.size(); ++page)
        if (!image.pages.contains(page)) {
          ASSERT_EQ(content_of(memory_, page), committed_[page - first_]) << "page " << page << ", epoch " << epoch_;
          ++clean_seen_;
        }
    under_way_.push_back(std::move(image));
  }

  // Background: the oldest image under way is committed, or fails; then what an engine does.
  void advance(std::mt19937& random) {
    Image image;
    {
      MutexLock lock(mutex_);
      if (under_way_.empty()) return;
      image = std::move(under_way_.front());
      under_way_.pop_front();
      if (random() % 10 == 0) return;  // failed
      // Calls every page unchanged, so that as much as possible is cooled: no suspect may depend on it.
      PageRuns unchanged;
      for (const auto& [page, content] : image.pages) {
        append(unchanged, page);
        committed_[page - first_] = content;
      }
      any_committed_ = true;
      tracking_->committed(image.epoch);
      tracking_->reduced(image.epoch, {.suspects = unchanged, .unchanged = unchanged});
    }
    PageRuns cooled;
    const Status status = tracking_->cool(cooled);
    ASSERT_TRUE(status.has_value()) << status.error().message();
    PageRuns equal;
    for (const std::size_t page : memory_.pages_of(cooled)) {
      ++cooled_;
      if (content_of(memory_, page) == committed_[page - first_]) append(equal, page);
    }
    if (random() % 8 != 0) tracking_->settled(equal);
  }

  std::size_t clean_seen() const { return clean_seen_; }
  std::size_t cooled() const { return cooled_; }
  std::uint64_t not_listed() const { return tracking_->counters().cuts_not_listed; }

 private:
  struct Image {
    std::uint64_t epoch = 0;
    std::map<std::size_t, Content> pages;
  };
  void append(PageRuns& runs, std::size_t page) const {
    const PageRange one = memory_.range(page, page + 1);
    if (!runs.empty() && runs.back().end == one.begin)
      runs.back().end = one.end;
    else
      runs.push_back(one);
  }

  const Memory& memory_;
  const std::size_t first_;
  std::vector<Content> committed_;  // written by the background, under the mutex; read by it without
  std::unique_ptr<Tracking> tracking_;
  std::uint64_t epoch_ = 0;
  bool any_committed_ = false;
  std::size_t clean_seen_ = 0;
  std::atomic<std::size_t> cooled_ = 0;  // by the background
  Mutex mutex_;
  std::deque<Image> under_way_ VARVE_GUARDED_BY(mutex_);
};

class TrackerRace : public TrackerTest {
 protected:
  // Writes some pages: most often of a small hot set, now and then anywhere.
  void write_some(std::mt19937& random, int zero_fd) {
    for (int i = 0; i < 8; ++i) {
      const std::size_t page = random() % 4 != 0 ? random() % 24 * 25 : random() % kPages;
      const bool last = random() % 2 == 0;
      if (random() % 8 != 0) {
        std::atomic_ref(word(memory_, page, last)).store(random() % 3, std::memory_order_relaxed);
        continue;
      }
      // The kernel writes. mprotect: it may be protected again in between. Not pread(), which ThreadSanitizer would
      // take for a plain store of the caller's.
      while (syscall(SYS_pread64, zero_fd, &word(memory_, page, last), 8, 0) != 8) {
        const Status status = Service::process().writable(memory_.range(page, page + 1));
        ASSERT_TRUE(status.has_value()) << status.error().message();
      }
    }
  }

  // Every page, as an epoch of a stencil does.
  void write_all(std::mt19937& random) {
    for (std::size_t page = 0; page < kPages; ++page)
      std::atomic_ref(word(memory_, page)).store(random() % 3, std::memory_order_relaxed);
  }

  const Memory memory_{kPages};
  std::shared_mutex running_;  // writers hold it shared while they write
  std::atomic<bool> paused_{false};
  std::atomic<bool> all_hot_{false};
  std::atomic<bool> stop_{false};
};

TEST_P(TrackerRace, NoWriteIsLostWhateverRuns) {
  const auto seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  Client low(memory_, 0, 400, kind());
  Client high(memory_, 250, kPages, kind());
  const int zero_fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
  std::vector<std::thread> threads;
  for (unsigned writer = 0; writer < 2; ++writer)
    threads.emplace_back([&, writer] {
      std::mt19937 random(seed + writer);
      while (!stop_) {
        while (paused_) std::this_thread::yield();
        {
          const std::shared_lock lock(running_);
          if (all_hot_ && writer == 0) write_all(random);
          write_some(random, zero_fd);
        }
        // Else a fast machine writes every page between two cuts in these times too, and none is ever seen clean.
        if (!all_hot_) std::this_thread::sleep_for(std::chrono::microseconds(random() % 100));
      }
    });
  threads.emplace_back([&] {
    std::mt19937 random(seed + 100);
    while (!stop_) {
      low.advance(random);
      if (random() % 2 == 0) high.advance(random);
    }
  });
  // On a busy or emulated machine it takes longer until the run proves something.
  const auto enough = [&](int cuts) {
    return cuts > 20 && (!exact() || low.clean_seen() + high.clean_seen() > 1000) &&
           (!protects_ranges() || (low.cooled() + high.cooled() > kPages && low.not_listed() > 0));
  };
  const auto begin = std::chrono::steady_clock::now();
  const auto goes_on = [&](int cuts) {
    const auto passed = std::chrono::steady_clock::now() - begin;
    return passed < kTime || (passed < kLongest && !enough(cuts));
  };
  std::mt19937 random(seed + 200);
  int cuts = 0;
  while (goes_on(cuts) && !HasFatalFailure()) {
    {
      paused_ = true;  // shared locks go first
      const std::unique_lock lock(running_);
      low.cut();
      if (random() % 3 != 0) high.cut();
    }
    all_hot_ = cuts / 64 % 2 == 1;
    paused_ = false;
    ++cuts;
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 1000));
  }
  stop_ = true;
  for (std::thread& thread : threads) thread.join();
  close(zero_fd);
  RecordProperty("cuts", cuts);
  RecordProperty("pages_cooled", static_cast<int>(low.cooled() + high.cooled()));
  RecordProperty("cuts_not_listed", static_cast<int>(low.not_listed() + high.not_listed()));
  EXPECT_TRUE(enough(cuts)) << "too little happened to prove anything: " << cuts << " cuts, "
                            << low.clean_seen() + high.clean_seen() << " clean pages seen, "
                            << low.cooled() + high.cooled() << " cooled, " << low.not_listed() << " cuts not listed";
}

VARVE_FOR_EVERY_BACK_END(TrackerRace);

}  // namespace
}  // namespace varve::tracker
