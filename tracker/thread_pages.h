// SPDX-License-Identifier: Apache-2.0
//
// Where the kernel itself writes into a thread's memory, without asking any handler: its rseq area, at every preemption
// (a write that fails ends the program by SIGSEGV, also within the delivery of a SIGSEGV that has a handler), and its
// thread id, at its end (a write that fails leaves pthread_join() waiting for ever). Both lie in or beside the thread's
// control block, which may share a page with thread-local variables, with the stack of the thread, and in a statically
// linked program with the heap. Such pages must never be made read-only.
#pragma once

#include "tracker/tracker.h"

namespace varve::tracker {

/// The pages of all threads that there are now; replaces `pages`. Ascending. Empty where the C library has none such.
void find_thread_pages(PageRuns& pages);

}  // namespace varve::tracker
