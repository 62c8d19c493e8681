// SPDX-License-Identifier: Apache-2.0
//
// PageBitmap: a set of page numbers below a fixed bound. A bit in `summary_` stands for 64 words that are not all zero,
// so that walking a set costs by its members, not by the bound. Memory: a bit a page, faulted in where bits were set.
// Not synchronised.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "tracker/zeroed_array.h"

namespace varve::tracker {

class PageBitmap {
 public:
  PageBitmap() = default;
  /// False when there is no memory for it.
  bool allocate(std::size_t pages) {
    pages_ = pages;
    const std::size_t words = pages / 64 + 1;
    return words_.allocate(words) && summary_.allocate(words / (64 * 64) + 1);
  }

  std::size_t count() const { return count_; }
  bool empty() const { return count_ == 0; }
  bool test(std::size_t page) const { return (words_[page / 64] >> (page % 64) & 1U) != 0; }

  void set(std::size_t begin, std::size_t end) {
    for_words(begin, end, [this](std::size_t word, std::uint64_t mask) {
      count_ += static_cast<std::size_t>(std::popcount(mask & ~words_[word]));
      words_[word] |= mask;
      summary_[word / 4096] |= std::uint64_t{1} << (word / 64 % 64);
    });
  }
  void clear(std::size_t begin, std::size_t end) {
    for_words(begin, end, [this](std::size_t word, std::uint64_t mask) {
      const std::uint64_t hit = words_[word] & mask;
      if (hit == 0) return;
      count_ -= static_cast<std::size_t>(std::popcount(hit));
      words_[word] &= ~hit;
    });
  }

  /// The first member at or after `page`; the bound if there is none. Clears stale summary bits as it passes them.
  std::size_t next_set(std::size_t page) {
    while (page < pages_) {
      const std::size_t word = page / 64;
      const std::uint64_t bits = words_[word] >> (page % 64);
      if (bits != 0) return std::min(page + static_cast<std::size_t>(std::countr_zero(bits)), pages_);
      page = (word + 1) * 64;
      if ((word + 1) % 64 == 0 || !group_has_members(word / 64)) page = next_group(word / 64 + 1) * 4096;
    }
    return pages_;
  }
  /// The first page at or after `page` that is no member; the bound if all are.
  std::size_t next_clear(std::size_t page) const {
    while (page < pages_) {
      const std::uint64_t gaps = ~words_[page / 64] >> (page % 64);
      if (gaps != 0) return std::min(page + static_cast<std::size_t>(std::countr_zero(gaps)), pages_);
      page = (page / 64 + 1) * 64;
    }
    return pages_;
  }

 private:
  template <class Function>
  void for_words(std::size_t begin, std::size_t end, Function function) {
    while (begin < end) {
      const std::size_t stop = std::min(end, (begin / 64 + 1) * 64);
      const std::size_t width = stop - begin;
      const std::uint64_t ones = width == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << width) - 1;
      function(begin / 64, ones << (begin % 64));
      begin = stop;
    }
  }
  bool group_has_members(std::size_t group) const { return (summary_[group / 64] >> (group % 64) & 1U) != 0; }
  // The first group (64 words) at or after `group` that may have members; beyond the bound if none.
  std::size_t next_group(std::size_t group) {
    const std::size_t groups = pages_ / 4096 + 1;
    while (group < groups) {
      const std::uint64_t bits = summary_[group / 64] >> (group % 64);
      if (bits == 0) {
        group = (group / 64 + 1) * 64;
        continue;
      }
      group += static_cast<std::size_t>(std::countr_zero(bits));
      if (group >= groups || any_word(group)) return group;
      summary_[group / 64] &= ~(std::uint64_t{1} << (group % 64));
    }
    return groups;
  }
  bool any_word(std::size_t group) const {
    const std::size_t end = std::min((group + 1) * 64, pages_ / 64 + 1);
    for (std::size_t word = group * 64; word < end; ++word)
      if (words_[word] != 0) return true;
    return false;
  }

  std::size_t pages_ = 0;
  std::size_t count_ = 0;
  ZeroedArray<std::uint64_t> words_;
  ZeroedArray<std::uint64_t> summary_;
};

}  // namespace varve::tracker
