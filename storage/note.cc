// SPDX-License-Identifier: Apache-2.0
#include "storage/note.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/check.h"
#include "storage/byte_codec.h"
#include "storage/store.h"

namespace varve::storage {
namespace {

bool decode_numbers(ByteReader& in, Note& note) {
  const auto count = in.get<std::uint32_t>();
  if (!in.holds(count, sizeof(std::uint64_t))) return false;
  note.numbers.reserve(count);
  for (std::uint32_t i = 0; i < count; ++i) note.numbers.push_back(in.get<std::uint64_t>());
  return in.ok();
}

bool decode_label(ByteReader& in, Note& note) {
  note.numbers.push_back(in.get<std::uint64_t>());
  note.label = in.string();
  return in.ok() && (note.label.empty() || check_label(note.label).has_value());
}

bool decode_seal(ByteReader& in, Note& note) {
  SealedElsewhere& seal = note.seal;
  seal.name.writer = in.get<std::uint64_t>();
  seal.name.n = in.get<std::uint64_t>();
  const std::span<const std::byte> incarnation = in.take(seal.incarnation.size());
  if (!in.ok()) return false;
  std::ranges::copy(incarnation, seal.incarnation.begin());
  seal.end = in.get<std::uint64_t>();
  const std::span<const std::byte> footer = in.take(in.get<std::uint64_t>());
  seal.footer.assign(footer.begin(), footer.end());
  return in.ok();
}

bool decode_sources(ByteReader& in, Note& note) {
  const auto count = in.get<std::uint32_t>();
  if (!in.holds(count, 2 * sizeof(std::uint64_t))) return false;
  note.sources.reserve(count);
  for (std::uint32_t i = 0; i < count; ++i) {
    SegmentName source;
    source.writer = in.get<std::uint64_t>();
    source.n = in.get<std::uint64_t>();
    note.sources.push_back(source);
  }
  return in.ok();
}

}  // namespace

std::vector<std::byte> encode_note(const Note& note) {
  std::vector<std::byte> content;
  ByteWriter out(content);
  out.put<std::uint16_t>(static_cast<std::uint16_t>(note.kind));
  out.put<std::uint16_t>(static_cast<std::uint16_t>(note.chain.size()));
  out.put<std::uint32_t>(0);
  out.put<std::uint64_t>(note.sequence);
  out.text(note.chain);
  switch (note.kind) {
    case NoteKind::retire:
    case NoteKind::pin:
    case NoteKind::unpin:
      out.put<std::uint32_t>(static_cast<std::uint32_t>(note.numbers.size()));
      for (const std::uint64_t number : note.numbers) out.put<std::uint64_t>(number);
      break;
    case NoteKind::label:
      VARVE_CHECK(note.numbers.size() == 1);
      out.put<std::uint64_t>(note.numbers.front());
      out.string(note.label);
      break;
    case NoteKind::seal:
      out.put<std::uint64_t>(note.seal.name.writer);
      out.put<std::uint64_t>(note.seal.name.n);
      out.bytes(note.seal.incarnation);
      out.put<std::uint64_t>(note.seal.end);
      out.put<std::uint64_t>(note.seal.footer.size());
      out.bytes(note.seal.footer);
      break;
    case NoteKind::moved:
      out.put<std::uint32_t>(static_cast<std::uint32_t>(note.sources.size()));
      for (const SegmentName& source : note.sources) {
        out.put<std::uint64_t>(source.writer);
        out.put<std::uint64_t>(source.n);
      }
      break;
  }
  return content;
}

Result<Note> decode_note(std::span<const std::byte> content, const StoredAt& at) {
  constexpr std::string_view kObject = "the note";
  ByteReader in(content);
  Note note;
  const auto kind = in.get<std::uint16_t>();
  const auto chain_bytes = in.get<std::uint16_t>();
  const auto reserved = in.get<std::uint32_t>();
  note.sequence = in.get<std::uint64_t>();
  note.chain = in.text(chain_bytes);
  if (!in.ok() || reserved != 0 || !check_chain_name(note.chain)) return damaged(kObject, at, "it is not well-formed");
  note.kind = static_cast<NoteKind>(kind);
  bool decoded = false;
  switch (note.kind) {
    case NoteKind::retire:
    case NoteKind::pin:
    case NoteKind::unpin: decoded = decode_numbers(in, note); break;
    case NoteKind::label: decoded = decode_label(in, note); break;
    case NoteKind::seal: decoded = decode_seal(in, note); break;
    case NoteKind::moved: decoded = decode_sources(in, note); break;
    default: return unknown_to_us(kObject, at, fmt::format("its kind is {}, which this version does not know", kind));
  }
  if (!decoded || !in.at_end()) return damaged(kObject, at, "its content is not well-formed");
  return note;
}

}  // namespace varve::storage
