// SPDX-License-Identifier: Apache-2.0
#include "tools/varve/segment_view.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "base/bytes.h"
#include "base/try.h"
#include "storage/chunk_name.h"
#include "storage/footer.h"
#include "storage/frame.h"
#include "storage/manifest.h"
#include "storage/note.h"
#include "storage/record.h"
#include "tools/units.h"
#include "tools/varve/image_json.h"

namespace varve::tools {
namespace {

using storage::RecordHeader;
using storage::RecordType;
using storage::StoredAt;

const char* type_name(RecordType type) {
  switch (type) {
    case RecordType::frame: return "frame";
    case RecordType::manifest: return "manifest";
    case RecordType::note: return "note";
    case RecordType::footer: return "footer";
  }
  return "unknown";
}

const char* note_name(storage::NoteKind kind) {
  switch (kind) {
    case storage::NoteKind::retire: return "retire";
    case storage::NoteKind::label: return "label";
    case storage::NoteKind::pin: return "pin";
    case storage::NoteKind::unpin: return "unpin";
    case storage::NoteKind::seal: return "seal";
    case storage::NoteKind::moved: return "moved";
  }
  return "unknown";
}

const char* codec_name(storage::Codec codec) { return codec == storage::Codec::lz4 ? "lz4" : "raw"; }

std::string filter_name(const storage::FrameChoice& choice) {
  switch (choice.filter) {
    case storage::Filter::none: return "none";
    case storage::Filter::shuffle: return fmt::format("shuffle {}", choice.element_bytes);
    case storage::Filter::difference:
      return choice.element_bytes == 0 ? "difference" : fmt::format("difference, shuffle {}", choice.element_bytes);
  }
  return "unknown";
}

class SegmentWalk {
 public:
  SegmentWalk(const FileView& file, const SegmentViewOptions& options, Progress& progress)
      : file_(file), options_(options), progress_(progress) {}

  Result<SegmentView> run();

 private:
  Status walk();
  /// The record at `at`; how far the walk goes on. 0: there is none.
  Result<std::uint64_t> record(std::uint64_t at);
  Result<std::uint64_t> next_record(std::uint64_t from);
  Status gap(std::uint64_t begin, std::uint64_t end);
  void describe(const RecordHeader& header, std::span<const std::byte> payload);
  void describe_frame(std::span<const std::byte> payload, const StoredAt& at);
  void describe_manifest(std::span<const std::byte> payload, const StoredAt& at);
  void describe_note(std::span<const std::byte> payload, const StoredAt& at);
  void describe_footer(std::span<const std::byte> payload, const StoredAt& at);
  void describe_trailer();
  void damage(const std::string& message) {
    view_.damaged = true;
    row_["damage"] = message;
    line_ += "  DAMAGED: " + message;
  }
  void emit() {
    view_.json["records"].push_back(std::move(row_));
    view_.text += line_ + "\n";
    row_ = nlohmann::json::object();
    line_.clear();
  }

  const FileView& file_;
  const SegmentViewOptions& options_;
  Progress& progress_;
  storage::SegmentHeader header_;
  std::uint64_t key_ = 0;
  SegmentView view_;
  nlohmann::json row_ = nlohmann::json::object();
  std::string line_;
};

Result<SegmentView> SegmentWalk::run() {
  VARVE_TRY_ASSIGN(const auto block, file_.read(0, storage::kSegmentHeaderBytes));
  VARVE_TRY_ASSIGN(header_, storage::decode_segment_header(block, file_.name()));
  key_ = storage::record_key(header_.store, header_.incarnation);
  view_.json = {{"file", file_.name()},
                {"kind", "segment"},
                {"bytes", file_.bytes()},
                {"store", storage::to_hex(header_.store)},
                {"incarnation", storage::to_hex(header_.incarnation)},
                {"name", storage::to_string(header_.name)},
                {"chain", header_.chain},
                {"generation", header_.generation},
                {"time", format_time(header_.time_ns)},
                {"records", nlohmann::json::array()}};
  view_.text = fmt::format("segment {} of store {}, chain '{}', {} bytes, made {}, generation {}, incarnation {}\n\n",
                           storage::to_string(header_.name), storage::to_hex(header_.store), header_.chain,
                           format_count(file_.bytes()), format_time(header_.time_ns), header_.generation,
                           storage::to_hex(header_.incarnation));
  VARVE_TRY(walk());
  return std::move(view_);
}

Status SegmentWalk::walk() {
  for (std::uint64_t at = storage::kSegmentHeaderBytes; at < file_.bytes();) {
    progress_.update(at, file_.bytes(), "bytes");
    VARVE_TRY_ASSIGN(const std::uint64_t end, record(at));
    if (end != 0) {
      at = end;
      continue;
    }
    VARVE_TRY_ASSIGN(const std::uint64_t next, next_record(at));
    VARVE_TRY(gap(at, next));
    at = next;
  }
  describe_trailer();
  return {};
}

Result<std::uint64_t> SegmentWalk::record(std::uint64_t at) {
  const StoredAt where{file_.name(), at};
  VARVE_TRY_ASSIGN(const auto block, file_.read(at, storage::kRecordHeaderBytes));
  if (block.size() < storage::kRecordHeaderBytes) return std::uint64_t{0};
  const std::span<const std::byte, storage::kRecordHeaderBytes> bytes(block.data(), storage::kRecordHeaderBytes);
  if (!storage::looks_like_record(bytes, key_, at)) return std::uint64_t{0};
  const std::uint64_t limit = file_.bytes() - at - storage::kRecordHeaderBytes;
  auto header = storage::decode_record_header(bytes, key_, where, limit);
  if (!header) {  // a type of a newer version, or a length beyond the end
    row_ = {{"offset", at}, {"type", "unknown"}};
    line_ = fmt::format("{:>12}  unknown record", at);
    damage(header.error().cause());
    emit();
    return std::uint64_t{0};
  }
  VARVE_TRY_ASSIGN(const auto payload, file_.read(at + storage::kRecordHeaderBytes, header->payload_bytes));
  row_ = {{"offset", at},
          {"type", type_name(header->type)},
          {"payload_bytes", header->payload_bytes},
          {"nonce", fmt::format("{:016x}", header->nonce)},
          {"ordinal", header->ordinal}};
  line_ = fmt::format("{:>12}  {:<8}  {:>3} of {:016x}  {:>10} bytes", at, type_name(header->type), header->ordinal,
                      header->nonce, format_count(header->payload_bytes));
  if (storage::payload_matches(*header, payload, key_))
    describe(*header, payload);
  else
    damage("the payload's checksum is wrong");
  emit();
  const std::uint64_t end = at + storage::record_bytes(*header);
  return storage::closes(header->type) ? round_up(end, storage::kBlockBytes) : end;
}

// Commits begin at whole blocks.
Result<std::uint64_t> SegmentWalk::next_record(std::uint64_t from) {
  constexpr std::uint64_t kPiece = std::uint64_t{4} << 20;
  for (std::uint64_t at = round_up(from + 1, storage::kBlockBytes); at < file_.bytes(); at += kPiece) {
    VARVE_TRY_ASSIGN(const auto piece, file_.read(at, kPiece));
    for (std::size_t i = 0; i + storage::kRecordHeaderBytes <= piece.size(); i += storage::kBlockBytes) {
      const std::span<const std::byte, storage::kRecordHeaderBytes> bytes(piece.data() + i,
                                                                          storage::kRecordHeaderBytes);
      if (storage::looks_like_record(bytes, key_, at + i)) return at + i;
    }
  }
  return file_.bytes();
}

// What lies between records. A sealed segment has the zeros before its trailer there; an open one what was
// preallocated, or the remains of an image that was not committed.
Status SegmentWalk::gap(std::uint64_t begin, std::uint64_t end) {
  constexpr std::uint64_t kPiece = std::uint64_t{4} << 20;
  std::uint64_t content_end = end;
  if (end == file_.bytes() && end >= begin + storage::kTrailerBytes) {
    VARVE_TRY_ASSIGN(const auto tail, file_.read(end - storage::kTrailerBytes, storage::kTrailerBytes));
    if (storage::decode_trailer(tail, header_.store, {file_.name(), end - storage::kTrailerBytes}))
      content_end = end - storage::kTrailerBytes;
  }
  bool zeros = true;
  for (std::uint64_t at = begin; zeros && at < content_end; at += kPiece) {
    VARVE_TRY_ASSIGN(const auto piece, file_.read(at, std::min(kPiece, content_end - at)));
    zeros = storage::is_zero(piece);
  }
  if (content_end == begin) return {};
  row_ = {{"offset", begin}, {"type", zeros ? "zeros" : "no record"}, {"bytes", content_end - begin}};
  line_ = fmt::format("{:>12}  {:<8}  {:>22}  {:>10} bytes", begin, zeros ? "zeros" : "-", "",
                      format_count(content_end - begin));
  // The format: what lies before an accepted commit was durable once, so a gap there is damage.
  if (!zeros && end < file_.bytes())
    damage("no record, and a good one follows");
  else if (!zeros)
    line_ += "  no record: remains of an image that was not committed, or damage";
  emit();
  return {};
}

void SegmentWalk::describe(const RecordHeader& header, std::span<const std::byte> payload) {
  const StoredAt at{file_.name(), header.offset};
  switch (header.type) {
    case RecordType::frame: return describe_frame(payload, at);
    case RecordType::manifest: return describe_manifest(payload, at);
    case RecordType::note: return describe_note(payload, at);
    case RecordType::footer: return describe_footer(payload, at);
  }
}

void SegmentWalk::describe_frame(std::span<const std::byte> payload, const StoredAt& at) {
  const auto frame = storage::parse_frame(payload, storage::kMaxChunkBytes, at);
  if (!frame) return damage(frame.error().cause());
  row_["codec"] = codec_name(frame->choice.codec);
  row_["filter"] = filter_name(frame->choice);
  row_["chunks"] = frame->chunks;
  row_["raw_bytes"] = frame->raw_bytes;
  row_["stored_bytes"] = frame->stored.size();
  line_ += fmt::format("  {} chunks, {} bytes, {}, filter {}", frame->chunks, format_count(frame->raw_bytes),
                       codec_name(frame->choice.codec), filter_name(frame->choice));
  if (!options_.chunks) return;
  row_["names"] = nlohmann::json::array();
  for (std::uint32_t i = 0; i < frame->chunks; ++i) {
    const auto chunk = frame->chunk(i);
    row_["names"].push_back({{"name", storage::to_string(chunk.name)}, {"bytes", chunk.bytes}});
    line_ += fmt::format("\n{:>14}{}  {} bytes", "", storage::to_string(chunk.name), chunk.bytes);
    if (const auto base = frame->base(i); base != storage::kNoBase) {
      row_["names"].back()["base"] = storage::to_string(base);
      line_ += fmt::format(", difference to {}", storage::to_string(base));
    }
  }
}

void SegmentWalk::describe_manifest(std::span<const std::byte> payload, const StoredAt& at) {
  const auto commit = storage::decode_commit_block(payload, at);
  if (!commit) return damage(commit.error().cause());
  const auto manifest = storage::decode_manifest(payload.subspan(storage::kCommitBlockBytes));
  if (!manifest) return damage(manifest.error().cause());
  row_["commit"] = {{"begin", commit->begin},
                    {"records", commit->records},
                    {"written_bytes", commit->written_bytes},
                    {"raw_bytes", commit->raw_bytes},
                    {"new_chunks", commit->new_chunks}};
  row_["image"] = manifest->number;
  row_["image_kind"] = kind_name(manifest->kind);
  row_["parent"] = manifest->parent;
  row_["revision"] = manifest->revision;
  row_["label"] = manifest->label;
  row_["regions"] = nlohmann::json::array();
  line_ += fmt::format("  image {}, {}, parent {}{}, {} new chunks, commit from {} on, {} bytes", manifest->number,
                       kind_name(manifest->kind), manifest->parent,
                       manifest->label.empty() ? "" : ", label '" + manifest->label + "'",
                       format_count(commit->new_chunks), commit->begin, format_count(commit->written_bytes));
  for (const auto& region : manifest->regions) {
    row_["regions"].push_back(region_json(region, manifest->chunk_bytes));
    const RunCounts counts = count_runs(region, manifest->chunk_bytes);
    line_ += fmt::format("\n{:>14}region '{}', {} bytes: {} of {} chunks named, {} of them zero", "", region.name,
                         format_count(region.bytes), format_count(counts.changed), format_count(counts.chunks),
                         format_count(counts.zero));
  }
}

void SegmentWalk::describe_note(std::span<const std::byte> payload, const StoredAt& at) {
  const auto commit = storage::decode_commit_block(payload, at);
  if (!commit) return damage(commit.error().cause());
  const auto note = storage::decode_note(payload.subspan(storage::kCommitBlockBytes), at);
  if (!note) return damage(note.error().cause());
  row_["note"] = note_name(note->kind);
  row_["sequence"] = note->sequence;
  row_["chain"] = note->chain;
  row_["images"] = note->numbers;
  line_ += fmt::format("  {} (sequence {}) of chain '{}'", note_name(note->kind), note->sequence, note->chain);
  for (const auto number : note->numbers) line_ += fmt::format(" {}", number);
  if (note->kind == storage::NoteKind::label) row_["label"] = note->label;
  if (note->kind != storage::NoteKind::seal) return;
  row_["seals"] = {{"segment", storage::to_string(note->seal.name)}, {"end", note->seal.end}};
  line_ += fmt::format(" {} at {}", storage::to_string(note->seal.name), note->seal.end);
}

void SegmentWalk::describe_footer(std::span<const std::byte> payload, const StoredAt& at) {
  const auto footer = storage::decode_footer(payload, at);
  if (!footer) return damage(footer.error().cause());
  row_["end"] = footer->end;
  row_["generation"] = footer->generation;
  row_["frames"] = footer->frames.size();
  row_["chunks"] = footer->names.size();
  row_["notes"] = footer->notes.size();
  row_["images"] = nlohmann::json::array();
  for (const auto& image : footer->images) row_["images"].push_back(image.number);
  line_ += fmt::format("  generation {}, {} frames, {} chunks, {} images, {} notes, end of commits {}",
                       footer->generation, format_count(footer->frames.size()), format_count(footer->names.size()),
                       format_count(footer->images.size()), format_count(footer->notes.size()), footer->end);
}

void SegmentWalk::describe_trailer() {
  view_.json["sealed"] = false;
  if (file_.bytes() < storage::kSegmentHeaderBytes + storage::kTrailerBytes) return;
  const std::uint64_t at = file_.bytes() - storage::kTrailerBytes;
  const auto tail = file_.read(at, storage::kTrailerBytes);
  if (!tail) return;
  const auto trailer = storage::decode_trailer(*tail, header_.store, {file_.name(), at});
  if (!trailer) {
    view_.text += "\nno trailer: the segment is open, or was left by a writer that was killed\n";
    return;
  }
  view_.json["sealed"] = true;
  view_.json["trailer"] = {{"offset", at},
                           {"footer_offset", trailer->footer_offset},
                           {"footer_bytes", trailer->footer_bytes},
                           {"file_bytes", trailer->file_bytes}};
  view_.text +=
      fmt::format("{:>12}  trailer   footer at {}, {} bytes; file of {} bytes\n\nsealed\n", at, trailer->footer_offset,
                  format_count(trailer->footer_bytes), format_count(trailer->file_bytes));
}

}  // namespace

Result<SegmentView> view_segment(const FileView& file, const SegmentViewOptions& options, Progress& progress) {
  return SegmentWalk(file, options, progress).run();
}

}  // namespace varve::tools
