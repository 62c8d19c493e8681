// SPDX-License-Identifier: Apache-2.0
#include "engine/capture_page_copy.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace varve {
namespace {

constexpr std::size_t kPage = 4096;

#if defined(__SSE2__)

constexpr std::size_t kLine = 64;
constexpr std::size_t kLines = 2;           // of one page in turn
constexpr std::size_t kAhead = 4 * kLines;  // lines fetched ahead

inline void stream_line(std::byte* to, const std::byte* from) {
  const auto* const source = reinterpret_cast<const __m128i*>(from);
  auto* const target = reinterpret_cast<__m128i*>(to);
  const __m128i a = _mm_load_si128(source);
  const __m128i b = _mm_load_si128(source + 1);
  const __m128i c = _mm_load_si128(source + 2);
  const __m128i d = _mm_load_si128(source + 3);
  _mm_stream_si128(target, a);
  _mm_stream_si128(target + 1, b);
  _mm_stream_si128(target + 2, c);
  _mm_stream_si128(target + 3, d);
}

/// REQUIRES: whole pages.
void stream_pages(std::byte* const* to, const std::byte* const* from, std::size_t pages) {
  for (std::size_t at = 0; at < kPage; at += kLines * kLine)
    for (std::size_t page = 0; page < pages; ++page) {
      for (std::size_t line = 0; line < kLines; ++line)
        stream_line(to[page] + at + line * kLine, from[page] + at + line * kLine);
      // Beyond the page's end this is a hint for nothing: it can't fault.
      _mm_prefetch(reinterpret_cast<const char*>(from[page]) + at + kAhead * kLine, _MM_HINT_T0);
    }
}

#else

void stream_pages(std::byte* const* to, const std::byte* const* from, std::size_t pages) {
  for (std::size_t page = 0; page < pages; ++page) std::memcpy(to[page], from[page], kPage);
}

#endif

}  // namespace

void PageCopy::add(std::byte* to, const std::byte* from, std::size_t bytes) {
  if (!past_cache_) {
    std::memcpy(to, from, bytes);
    return;
  }
  const std::size_t before_page = std::min(bytes, (kPage - reinterpret_cast<std::uintptr_t>(from) % kPage) % kPage);
  std::memcpy(to, from, before_page);
  std::size_t done = before_page;
  for (; bytes - done >= kPage; done += kPage) {
    to_[waiting_] = to + done;
    from_[waiting_] = from + done;
    if (++waiting_ < kTogether) continue;
    stream_pages(to_, from_, kTogether);
    waiting_ = 0;
  }
  std::memcpy(to + done, from + done, bytes - done);
}

void PageCopy::fence() {
  if (waiting_ > 0) stream_pages(to_, from_, waiting_);
  waiting_ = 0;
#if defined(__SSE2__)
  if (past_cache_) _mm_sfence();  // streaming stores are not ordered by a lock's release: Intel SDM 3A, 10.2.2
#endif
}

}  // namespace varve
