// SPDX-License-Identifier: Apache-2.0
//
// Are we a forked child? Then all tracking is inert: descriptors belong to the parent's memory, locks may be held for
// ever. Told by a page that the kernel wipes on fork (MADV_WIPEONFORK, Linux 4.14), so it is right for every way to
// fork (raw clone runs no pthread_atfork handlers), and says no in a vfork child, which still writes our memory.
// Async-signal-safe after mark_process().
#pragma once

namespace varve::tracker {

/// Makes this process the one that tracks. Called once, before the first tracking.
void mark_process();
/// Whether this process is a forked child of the one that was marked. REQUIRES: mark_process() was called.
bool forked();

}  // namespace varve::tracker
