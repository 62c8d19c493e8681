// SPDX-License-Identifier: Apache-2.0
//
// Costs of a page, measured on this machine, and the figure that the policy works with (hotness.h): for how many cuts
// must a page stay protected for that to have paid? Protecting it costs the protecting and a fault; leaving it writable
// costs a visit at every cut. So worth = (fault + protect) / visit, within 1 and 64: with a fault of 16 us and a visit
// of 0.4 us that is 41 cuts; with a fault of 0.5 us it is 2.
//
// Measured once per process and back end, and not kept from process to process: it takes some milliseconds at most
// (kBudgetNs bounds each part), what it finds depends on more than the boot (the container, the memory's node, a
// machine that moved, who else was running), and every cut and cool corrects it from then on.
#pragma once

#include "tracker/tracker.h"

namespace varve::tracker {

unsigned cuts_worth_protecting(const Costs& costs);

/// Follows what is measured: a moving average, to which the first figure is taken as it is.
void follow(double& average, double measured);

/// Measures what does not depend on the back end.
double measure_visit_ns();

class BackEnd;
/// Measures fault, protect and list by using the back end on memory of its own. Zero where that fails.
Costs measure_costs(BackEnd& back_end);

}  // namespace varve::tracker
