// SPDX-License-Identifier: Apache-2.0
//
// What the tracker's contract tests share: memory to track, sets of pages, and a fixture that runs every test for every
// back end, skipping those that this kernel does not have.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <set>
#include <string>

#include <gtest/gtest.h>

#include "tracker/tracker.h"

namespace varve::tracker {

using Pages = std::set<std::size_t>;

/// Anonymous private memory of small pages, written once unless told otherwise.
class Memory {
 public:
  struct Options {
    bool populate = true;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
    int fd = -1;
    int protection = PROT_READ | PROT_WRITE;
  };
  explicit Memory(std::size_t pages) : Memory(pages, Options()) {}
  Memory(std::size_t pages, const Options& options) : pages_(pages) {
    void* memory = mmap(nullptr, bytes(), options.protection, options.flags, options.fd, 0);
    if (memory == MAP_FAILED) return;
    begin_ = static_cast<volatile std::uint8_t*>(memory);
    madvise(memory, bytes(), MADV_NOHUGEPAGE);
    for (std::size_t page = 0; options.populate && page < pages; ++page) write(page);
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() { munmap(data(), bytes()); }

  std::size_t pages() const { return pages_; }
  std::size_t bytes() const { return pages_ * page_bytes(); }
  void* data() const { return const_cast<std::uint8_t*>(begin_); }
  std::uint8_t* at(std::size_t page, std::size_t offset = 0) const {
    return const_cast<std::uint8_t*>(begin_) + page * page_bytes() + offset;
  }
  void write(std::size_t page, std::size_t offset = 0) const {
    begin_[page * page_bytes() + offset] = static_cast<std::uint8_t>(begin_[page * page_bytes() + offset] + 1);
  }
  PageRange range() const { return range(0, pages_); }
  PageRange range(std::size_t first, std::size_t end) const {
    const auto begin = reinterpret_cast<std::uintptr_t>(begin_);
    return {begin + first * page_bytes(), begin + end * page_bytes()};
  }
  /// Maps fresh memory over some pages.
  void map_anew(std::size_t first, std::size_t end) const {
    void* const place = at(first);
    EXPECT_EQ(mmap(place, (end - first) * page_bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
                   -1, 0),
              place);
  }
  /// Page numbers of the runs; checks that they are ascending, disjoint and do not touch.
  Pages pages_of(const PageRuns& runs) const {
    Pages pages;
    std::uintptr_t last_end = 0;
    for (const PageRange& run : runs) {
      EXPECT_LT(run.begin, run.end);
      EXPECT_GT(run.begin, last_end);
      last_end = run.end;
      for (std::uintptr_t at = run.begin; at < run.end; at += page_bytes())
        pages.insert((at - range().begin) / page_bytes());
    }
    return pages;
  }
  Pages all() const { return some(0, pages_); }
  static Pages some(std::size_t first, std::size_t end) {
    Pages pages;
    for (std::size_t page = first; page < end; ++page) pages.insert(page);
    return pages;
  }
  PageRuns runs_of(const Pages& pages) const {
    PageRuns runs;
    for (const std::size_t page : pages) {
      const PageRange one = range(page, page + 1);
      if (!runs.empty() && runs.back().end == one.begin)
        runs.back().end = one.end;
      else
        runs.push_back(one);
    }
    return runs;
  }

 private:
  std::size_t pages_;
  volatile std::uint8_t* begin_ = nullptr;
};

inline bool includes(const Pages& all, const Pages& part) {
  return std::includes(all.begin(), all.end(), part.begin(), part.end());
}

inline std::unique_ptr<Tracking> track_or_fail(PageRange range, std::optional<BackEndKind> wanted, const void* owner) {
  auto tracking = Service::process().track(range, wanted, owner);
  if (tracking.has_value()) return std::move(tracking).value();
  ADD_FAILURE() << tracking.error().message();
  return nullptr;
}

/// A Tracking with the cut numbers counted for it.
class Tracked {
 public:
  Tracked(const Memory& memory, PageRange range, BackEndKind kind, const void* owner = nullptr)
      : memory_(memory), tracking_(track_or_fail(range, kind, owner)) {}

  Tracking& operator*() const { return *tracking_; }
  Tracking* operator->() const { return tracking_.get(); }
  void end() { tracking_.reset(); }
  std::uint64_t epoch() const { return epoch_; }

  Pages cut() {
    PageRuns suspects;
    const Status status = tracking_->cut(++epoch_, suspects);
    EXPECT_TRUE(status.has_value()) << status.error().message();
    return memory_.pages_of(suspects);
  }
  Pages cut_and_commit() {
    Pages suspects = cut();
    tracking_->committed(epoch_);
    return suspects;
  }
  Pages cool() {
    PageRuns cooled;
    const Status status = tracking_->cool(cooled);
    EXPECT_TRUE(status.has_value()) << status.error().message();
    return memory_.pages_of(cooled);
  }
  void settle(const Pages& pages) { tracking_->settled(memory_.runs_of(pages)); }

  /// From the first image to the state in which only what is written from now on is a suspect (exact back ends).
  void arm() {
    cut_and_commit();
    settle(cool());
    cut_and_commit();
  }
  /// Lets every suspect be found unchanged until the policy protects it; what was protected is pending.
  Pages make_cold() {
    PageRuns suspects;
    PageRuns cooled;
    for (int i = 0; i < 70 && cooled.empty(); ++i) {
      EXPECT_TRUE(tracking_->cut(++epoch_, suspects).has_value());
      tracking_->committed(epoch_);
      tracking_->reduced(epoch_, {.suspects = suspects, .unchanged = suspects});
      EXPECT_TRUE(tracking_->cool(cooled).has_value());
    }
    return memory_.pages_of(cooled);
  }

 private:
  const Memory& memory_;
  std::unique_ptr<Tracking> tracking_;
  std::uint64_t epoch_ = 0;
};

inline std::string reason_not_to_run(BackEndKind kind) {
  for (const BackEndReport& report : Service::process().probe())
    if (report.kind == kind && !report.available)
      return std::string(to_string(kind)) + " is not available: " + report.reason;
  return "";
}

class TrackerTest : public testing::TestWithParam<BackEndKind> {
 protected:
  void SetUp() override {
    if (const std::string reason = reason_not_to_run(kind()); !reason.empty()) GTEST_SKIP() << reason;
  }
  static BackEndKind kind() { return GetParam(); }
  static bool exact() { return kind() != BackEndKind::hash; }
  static bool protects_ranges() { return kind() == BackEndKind::uffd || kind() == BackEndKind::mprotect; }

  /// The suspects hold all that was written, and nothing else where the back end is exact. Counts what is too much.
  static void expect_suspects(const Pages& suspects, const Pages& written) {
    EXPECT_TRUE(includes(suspects, written)) << "a write was missed";
    const std::size_t too_many = suspects.size() - std::min(suspects.size(), written.size());
    over_reported += too_many;
    if (exact()) {
      EXPECT_EQ(suspects, written);
    }
  }
  static void TearDownTestSuite() {
    testing::Test::RecordProperty("over_reported_pages", static_cast<int>(over_reported));
  }
  static inline std::size_t over_reported = 0;
};

inline std::string name_of_back_end(const testing::TestParamInfo<BackEndKind>& info) {
  std::string name(to_string(info.param));
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

}  // namespace varve::tracker

/// Runs the tests of a fixture derived from TrackerTest for every back end.
#define VARVE_FOR_EVERY_BACK_END(Fixture)                                                             \
  INSTANTIATE_TEST_SUITE_P(                                                                           \
      BackEnds, Fixture,                                                                              \
      testing::Values(::varve::tracker::BackEndKind::uffd, ::varve::tracker::BackEndKind::soft_dirty, \
                      ::varve::tracker::BackEndKind::mprotect, ::varve::tracker::BackEndKind::hash),  \
      ::varve::tracker::name_of_back_end)
