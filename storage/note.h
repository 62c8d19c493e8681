// SPDX-License-Identifier: Apache-2.0
//
// Notes: small changes to the list of images (docs/formats/segment.md, note). Values.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "storage/format.h"
#include "storage/inventory.h"

namespace varve::storage {

enum class NoteKind : std::uint16_t { retire = 1, label = 2, pin = 3, unpin = 4, seal = 5, moved = 6 };

/// A segment that ends at `end` and has no footer of its own, since writing or flushing it failed.
struct SealedElsewhere {
  SegmentName name;
  Incarnation incarnation{};
  std::uint64_t end = 0;
  std::vector<std::byte> footer;  ///< the payload that its footer would have
  friend bool operator==(const SealedElsewhere&, const SealedElsewhere&) = default;
};

struct Note {
  NoteKind kind = NoteKind::retire;
  std::uint64_t sequence = 0;
  std::string chain;
  std::vector<std::uint64_t> numbers;  ///< retire, pin, unpin: those; label: the one
  std::string label;
  SealedElsewhere seal;
  std::vector<SegmentName> sources = {};  ///< moved: where the frames of this commit were before
  friend bool operator==(const Note&, const Note&) = default;
};

/// What follows the commit block.
std::vector<std::byte> encode_note(const Note& note);
Result<Note> decode_note(std::span<const std::byte> content, const StoredAt& at);

}  // namespace varve::storage
