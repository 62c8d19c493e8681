// SPDX-License-Identifier: Apache-2.0
//
// The byte shuffle filter: byte b of every element stands together, so that LZ4 finds the repetitions in arrays of
// numbers (docs/formats/segment.md, frame). Pure functions.
#pragma once

#include <cstddef>
#include <span>

namespace varve::storage {

inline constexpr std::size_t kMinElementBytes = 2;
inline constexpr std::size_t kMaxElementBytes = 16;

/// REQUIRES: element_bytes in [2, 16]; into as long as from; they don't overlap.
void shuffle_bytes(std::span<const std::byte> from, std::size_t element_bytes, std::span<std::byte> into);
/// The reverse. Same requirements.
void unshuffle_bytes(std::span<const std::byte> from, std::size_t element_bytes, std::span<std::byte> into);

}  // namespace varve::storage
