// SPDX-License-Identifier: Apache-2.0
//
// Which sanitizer a test was built with: gcc says __SANITIZE_x__, clang __has_feature(x).
#pragma once

#ifndef __has_feature
#define __has_feature(feature) 0
#endif

namespace varve::test {

#ifdef __SANITIZE_ADDRESS__
inline constexpr bool kAddressSanitizer = true;
#else
inline constexpr bool kAddressSanitizer = __has_feature(address_sanitizer) != 0;
#endif
#ifdef __SANITIZE_THREAD__
inline constexpr bool kThreadSanitizer = true;
#else
inline constexpr bool kThreadSanitizer = __has_feature(thread_sanitizer) != 0;
#endif
inline constexpr bool kSanitized = kAddressSanitizer || kThreadSanitizer;

}  // namespace varve::test
