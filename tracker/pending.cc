// SPDX-License-Identifier: Apache-2.0
#include "tracker/pending.h"

#include <algorithm>

#include "base/check.h"
#include "tracker/back_end.h"

namespace varve::tracker {

bool Pending::allocate(PageRange range) {
  range_ = range;
  pages_ = range.size_bytes() / page_bytes();
  whole_ = sequence_;
  return bits_.allocate(pages_) && stamps_.allocate(pages_);
}

void Pending::report(PageRange pages, Reporter reporter) {
  const bool may_be_settled = reporter == Reporter::own_cool && last_committed_ == last_cut_;
  const std::uint32_t stamp = may_be_settled ? sequence_ + 1 : sequence_;
  const std::size_t begin = page_number(pages.begin);
  const std::size_t end = page_number(pages.end);
  bits_.set(begin, end);
  for (std::size_t page = begin; page < end; ++page) stamps_[page] = stamp;
}

void Pending::report_suspects(PageRange pages, std::uint64_t epoch) {
  const Cut* cut = find(epoch);
  if (cut == nullptr) return report(pages, Reporter::other);
  // All is pending, and no cut is between: since() asks none of these pages, and this cut's commit drops all.
  if (whole_ != 0 && whole_ >= before_last_cut_) return;
  const std::uint32_t stamp = cut->stamp - 2;
  const std::size_t end = page_number(pages.end);
  for (std::size_t page = page_number(pages.begin); page < end; ++page) {
    // Even: what a cool before this cut found equal was written since.
    const std::uint32_t known = bits_.test(page) ? stamps_[page] & ~std::uint32_t{1} : 0;
    stamps_[page] = std::max(known, stamp);
  }
  bits_.set(page_number(pages.begin), end);
}

bool Pending::since(std::uint64_t epoch, PageRange range, PageRuns& pages) {
  const Cut* cut = find(epoch);
  if (cut == nullptr || whole_ >= cut->stamp) return false;
  const std::size_t end = page_number(range.end);
  for (std::size_t page = bits_.next_set(page_number(range.begin)); page < end; page = bits_.next_set(page + 1)) {
    if (stamps_[page] < cut->fork) continue;
    const std::uintptr_t begin = range_.begin + page * page_bytes();
    pages.push_back({begin, begin + page_bytes()});
  }
  return true;
}

// Stamps run out after some 2^31 cuts and cools: everything is pending then and counting begins anew.
void Pending::advance() {
  if (sequence_ < kLastSequence) {
    sequence_ += 2;
    return;
  }
  bits_.clear(0, pages_);
  recent_ = {};
  whole_ = 2;
  sequence_ = 4;
  last_cut_ = last_committed_ = cool_began_ = 0;
}

void Pending::begin_cut(std::uint64_t epoch) {
  VARVE_CHECK(epoch > last_epoch_);
  advance();
  before_last_cut_ = last_cut_;
  last_cut_ = sequence_;
  last_epoch_ = epoch;
  ++cuts_;
  recent_[cuts_ % kCutsKept] = {.epoch = epoch, .number = cuts_, .stamp = last_cut_, .fork = last_cut_};
}

void Pending::begin_fork(std::uint64_t epoch) {
  if (epoch != last_epoch_) return;
  advance();
  recent_[cuts_ % kCutsKept].fork = sequence_;
}

const Pending::Cut* Pending::find(std::uint64_t epoch) const {
  for (const Cut& cut : recent_)
    if (cut.stamp != 0 && cut.epoch == epoch) return &cut;
  return nullptr;
}

std::optional<std::uint64_t> Pending::cut_number(std::uint64_t epoch) const {
  const Cut* cut = find(epoch);
  return cut == nullptr ? std::nullopt : std::optional(cut->number);
}

void Pending::merge(const PageRuns& written, PageRuns& suspects) {
  if (whole_ != 0) {
    suspects.push_back(range_);
    return;
  }
  auto run = written.begin();
  const auto address = [this](std::size_t page) { return range_.begin + page * page_bytes(); };
  for (std::size_t page = bits_.next_set(0); page < pages_;) {
    const std::size_t stop = bits_.next_clear(page);
    for (; run != written.end() && run->begin <= address(page); ++run) append_run(suspects, *run);
    append_run(suspects, {address(page), address(stop)});
    page = bits_.next_set(stop);
  }
  for (; run != written.end(); ++run) append_run(suspects, *run);
}

void Pending::committed(std::uint64_t epoch) {
  const Cut* cut = find(epoch);
  if (cut == nullptr || cut->stamp <= last_committed_) return;
  last_committed_ = cut->stamp;
  if (whole_ < last_committed_) whole_ = 0;
}

std::optional<std::size_t> Pending::drop_committed(std::size_t from, std::size_t pages) {
  const std::size_t end = std::min(pages_, from + pages);
  for (std::size_t page = bits_.next_set(from); page < end;) {
    if (stamps_[page] >= last_committed_) {
      page = bits_.next_set(page + 1);
      continue;
    }
    std::size_t stop = page + 1;
    while (stop < end && bits_.test(stop) && stamps_[stop] < last_committed_) ++stop;
    bits_.clear(page, stop);
    page = bits_.next_set(stop);
  }
  if (end == pages_ || bits_.empty()) return std::nullopt;
  return end;
}

void Pending::begin_cool() {
  advance();
  cool_began_ = sequence_;
}

std::optional<std::size_t> Pending::spread_whole(std::size_t from, std::size_t pages) {
  if (whole_ == 0 || whole_ >= cool_began_) return std::nullopt;
  const std::size_t end = std::min(pages_, from + pages);
  for (std::size_t page = bits_.next_clear(from); page < end;) {
    const std::size_t stop = std::min(bits_.next_set(page), end);
    bits_.set(page, stop);
    for (; page < stop; ++page) stamps_[page] = whole_;
    page = bits_.next_clear(page);
  }
  if (end < pages_) return end;
  whole_ = 0;
  return std::nullopt;
}

void Pending::settled(PageRange pages) {
  const std::size_t end = page_number(pages.end);
  for (std::size_t page = page_number(pages.begin); page < end; ++page) {
    const bool ours = bits_.test(page) && stamps_[page] % 2 == 1 && stamps_[page] >= cool_began_;
    if (ours) bits_.clear(page, page + 1);
  }
}

}  // namespace varve::tracker
