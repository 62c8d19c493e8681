// SPDX-License-Identifier: Apache-2.0
//
// RangeCounts: how many users has each page? For a back end that must be told of a page once, however many Trackings
// hold it. Not synchronised.
#pragma once

#include <cstdint>
#include <map>

#include "tracker/tracker.h"

namespace varve::tracker {

class RangeCounts {
 public:
  /// Counts one more user; the parts that had none before.
  PageRuns add(PageRange range);
  /// Counts one user less; the parts that have none left. REQUIRES: the range was added.
  PageRuns remove(PageRange range);

 private:
  struct Part {
    std::uintptr_t end = 0;
    unsigned users = 0;
  };
  /// Cuts the part that `address` lies in, so that one begins there.
  void split(std::uintptr_t address);
  /// Joins parts with the same users, from the one before `range` to the one behind it.
  void join(PageRange range);

  std::map<std::uintptr_t, Part> parts_;  // by begin; disjoint, users > 0
};

}  // namespace varve::tracker
