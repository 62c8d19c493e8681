// SPDX-License-Identifier: Apache-2.0
//
// Costs of a page, measured on this machine, and the rule that follows from them: when is a page cold?
//
// A page that is left writable costs a visit (copy it, hash it) at every cut. A page that is protected costs the
// protecting once, and a fault if it is written again after all. Nobody knows whether it will be. The rule for such
// bets (ski rental) is to pay by the day until the days have cost as much as buying, then buy: never more than twice
// the cost of knowing the future. So a page is cold after
//
//     k = (fault + protect) / visit        consecutive cuts in which it was a suspect and had not changed,
//
// kept within 1 and 64. With a fault of 16 us and a visit of 0.4 us that is 41 cuts; with a fault of 0.5 us it is 2.
#pragma once

namespace varve::tracker {

struct Costs {
  double fault_ns = 0;    ///< a first write to a protected page, less a plain write
  double protect_ns = 0;  ///< protecting a page, in a large range
  double visit_ns = 0;    ///< copying a page that is not in the nearest caches, and reading the copy once
};

/// The k of the rule above.
unsigned cuts_until_cold(const Costs& costs);

/// Measures what does not depend on the back end.
double measure_visit_ns();

class BackEnd;
/// Measures fault and protect by using the back end on memory of its own. Zero where that fails.
Costs measure_costs(BackEnd& back_end);

}  // namespace varve::tracker
