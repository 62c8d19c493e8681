// SPDX-License-Identifier: Apache-2.0
//
// The name of every environment variable that Varve reads, in one place. docs/debugging.md documents each; the tidy
// test compares the two.
#pragma once

namespace varve::env {

inline constexpr const char* kTracker = "VARVE_TRACKER";          // uffd, soft-dirty, mprotect, hash
inline constexpr const char* kCapture = "VARVE_CAPTURE";          // copy, fork
inline constexpr const char* kIo = "VARVE_IO";                    // uring, posix
inline constexpr const char* kLazy = "VARVE_LAZY";                // off: every restore is eager
inline constexpr const char* kLog = "VARVE_LOG";                  // LEVEL[:FOLDER[,FOLDER...]]
inline constexpr const char* kStopOnFail = "VARVE_STOP_ON_FAIL";  // 1: wait for a debugger before aborting
inline constexpr const char* kFault = "VARVE_FAULT";              // POINT[:N]: fault points, not in release builds

}  // namespace varve::env
