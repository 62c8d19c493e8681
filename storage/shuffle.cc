// SPDX-License-Identifier: Apache-2.0
//
// Elements of 4 and 8 bytes go through SSE2, sixteen elements at a time, as a transposition of a 16 x e byte matrix by
// log2(16) rounds of interleaving; all other sizes and the ends through plain loops.
#include "storage/shuffle.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include <cstring>

#include "base/check.h"

namespace varve::storage {
namespace {

void shuffle_plain(const std::byte* from, std::size_t elements, std::size_t first, std::size_t element_bytes,
                   std::byte* into) {
  for (std::size_t b = 0; b < element_bytes; ++b)
    for (std::size_t i = first; i < elements; ++i) into[b * elements + i] = from[i * element_bytes + b];
}

void unshuffle_plain(const std::byte* from, std::size_t elements, std::size_t first, std::size_t element_bytes,
                     std::byte* into) {
  for (std::size_t i = first; i < elements; ++i)
    for (std::size_t b = 0; b < element_bytes; ++b) into[i * element_bytes + b] = from[b * elements + i];
}

#if defined(__SSE2__)
constexpr std::size_t kStep = 16;  // elements

__m128i load(const std::byte* from) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)); }
void store(std::byte* to, __m128i value) { _mm_storeu_si128(reinterpret_cast<__m128i*>(to), value); }

/// One round: rows a[0..E) become the interleaving of the first half with the second half.
template <std::size_t E>
void interleave_halves(__m128i (&rows)[E]) {
  __m128i out[E];
  for (std::size_t i = 0; i < E / 2; ++i) {
    out[2 * i] = _mm_unpacklo_epi8(rows[i], rows[i + E / 2]);
    out[2 * i + 1] = _mm_unpackhi_epi8(rows[i], rows[i + E / 2]);
  }
  std::memcpy(rows, out, sizeof out);
}

// Numbering the bytes of the block by the bits of (element, byte), a round moves the top bit of the index to the
// bottom. The block has 4 + log2(E) index bits; after 4 rounds the bits of `element` have changed places with those
// of `byte`, which is the transposition. After log2(E) rounds it is undone.
template <std::size_t E>
std::size_t shuffle_sse2(const std::byte* from, std::size_t elements, std::byte* into) {
  std::size_t i = 0;
  for (; i + kStep <= elements; i += kStep) {
    __m128i rows[E];
    for (std::size_t r = 0; r < E; ++r) rows[r] = load(from + i * E + r * 16);
    for (int round = 0; round < 4; ++round) interleave_halves<E>(rows);
    for (std::size_t b = 0; b < E; ++b) store(into + b * elements + i, rows[b]);
  }
  return i;
}

template <std::size_t E>
std::size_t unshuffle_sse2(const std::byte* from, std::size_t elements, std::byte* into) {
  std::size_t i = 0;
  for (; i + kStep <= elements; i += kStep) {
    __m128i rows[E];
    for (std::size_t b = 0; b < E; ++b) rows[b] = load(from + b * elements + i);
    for (std::size_t round = 1; round < E; round *= 2) interleave_halves<E>(rows);
    for (std::size_t r = 0; r < E; ++r) store(into + i * E + r * 16, rows[r]);
  }
  return i;
}
#endif

}  // namespace

void shuffle_bytes(std::span<const std::byte> from, std::size_t element_bytes, std::span<std::byte> into) {
  VARVE_CHECK(element_bytes >= kMinElementBytes && element_bytes <= kMaxElementBytes && into.size() == from.size());
  const std::size_t elements = from.size() / element_bytes;
  std::size_t done = 0;
#if defined(__SSE2__)
  if (element_bytes == 8) done = shuffle_sse2<8>(from.data(), elements, into.data());
  if (element_bytes == 4) done = shuffle_sse2<4>(from.data(), elements, into.data());
#endif
  shuffle_plain(from.data(), elements, done, element_bytes, into.data());
  const std::size_t whole = elements * element_bytes;
  if (whole != from.size()) std::memcpy(into.data() + whole, from.data() + whole, from.size() - whole);
}

void unshuffle_bytes(std::span<const std::byte> from, std::size_t element_bytes, std::span<std::byte> into) {
  VARVE_CHECK(element_bytes >= kMinElementBytes && element_bytes <= kMaxElementBytes && into.size() == from.size());
  const std::size_t elements = from.size() / element_bytes;
  std::size_t done = 0;
#if defined(__SSE2__)
  if (element_bytes == 8) done = unshuffle_sse2<8>(from.data(), elements, into.data());
  if (element_bytes == 4) done = unshuffle_sse2<4>(from.data(), elements, into.data());
#endif
  unshuffle_plain(from.data(), elements, done, element_bytes, into.data());
  const std::size_t whole = elements * element_bytes;
  if (whole != from.size()) std::memcpy(into.data() + whole, from.data() + whole, from.size() - whole);
}

}  // namespace varve::storage
