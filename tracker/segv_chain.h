// SPDX-License-Identifier: Apache-2.0
//
// The SIGSEGV handler of the process, and its place in the program's chain. A fault that `resolve` does not know goes
// to the handler that was there before ours, as the kernel would have called it: SA_SIGINFO or not, with its mask,
// SA_RESETHAND; the default action is put in place and the instruction runs into it again; SIG_IGN ignores a signal
// that was sent, and dies of a fault, as under the kernel.
//
// A handler that the program installs later, over ours, takes our faults. So before anything is protected,
// keep_in_front() looks, and puts ours in front again, with theirs behind it. Theirs may have kept ours as *its*
// predecessor: every time we move to the front it is with another entry point, whose predecessor is theirs, while the
// old entry point goes on to what it always went on to. So nothing runs in circles.
//
// Once installed it stays (others may have a pointer to it); with nothing tracked it only passes on.
#pragma once

#include <cstdint>

#include "varve/result.h"

namespace varve::tracker {

/// Async-signal-safe. Whether the fault was one of ours, and the instruction can run again. Signals are all blocked.
using ResolveFault = bool (*)(std::uintptr_t address);

/// Installs the handler, or moves it to the front again. Not for several threads at once.
Status keep_in_front(ResolveFault resolve);

}  // namespace varve::tracker
