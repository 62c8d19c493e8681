// SPDX-License-Identifier: Apache-2.0
//
// VARVE_CHECK: a broken invariant is a bug, and better no image than a wrong one, so it aborts, in release too.
// VARVE_AUDIT: walks whole structures; only in builds with VARVE_AUDIT_ENABLED (preset `audit`).
#pragma once

#include <string_view>

namespace varve {
/// Prints file, line and condition to standard error and aborts; waits for a debugger first under VARVE_STOP_ON_FAIL=1.
[[noreturn]] void check_failed(const char* file, int line, const char* condition) noexcept;

/// Ends the program because it can't go on with what it would see: one line to standard error, by one write(2), since a
/// thread that waits for us may hold the stream; then as check_failed().
[[noreturn]] void stop_program(std::string_view message) noexcept;
}  // namespace varve

#define VARVE_CHECK(condition)                               \
  do {                                                       \
    if (!(condition)) [[unlikely]]                           \
      ::varve::check_failed(__FILE__, __LINE__, #condition); \
  } while (false)

#ifdef VARVE_AUDIT_ENABLED
#define VARVE_AUDIT(condition) VARVE_CHECK(condition)
#else
#define VARVE_AUDIT(condition) \
  do {                         \
  } while (false)
#endif
