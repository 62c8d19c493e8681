// SPDX-License-Identifier: Apache-2.0
#include "storage/segment_scan.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/bytes.h"
#include "base/try.h"
#include "storage/note.h"

namespace varve::storage {
namespace {

constexpr std::uint64_t kWindowBytes = std::uint64_t{1} << 20;

std::span<const std::byte, kRecordHeaderBytes> header_block(std::span<const std::byte> bytes) {
  return std::span<const std::byte, kRecordHeaderBytes>(bytes.data(), kRecordHeaderBytes);
}

std::string unreadable(const Error& error) { return "it can't be read: " + error.cause(); }

}  // namespace

WindowReader::WindowReader(File& file, std::uint64_t file_bytes) : file_(file), file_bytes_(file_bytes) {}

Status WindowReader::load(std::uint64_t offset, std::uint64_t bytes) {
  begin_ = round_down(offset, kIoAlignment);
  const std::uint64_t wanted = std::max(kWindowBytes, round_up(offset + bytes - begin_, kIoAlignment));
  window_.resize(static_cast<std::size_t>(std::min(wanted, file_bytes_ - begin_)));
  auto got = file_.read(begin_, window_);
  const std::uint64_t needed = std::min(round_up(offset + bytes - begin_, kIoAlignment), file_bytes_ - begin_);
  if (!got && medium_failed(got.error()) && needed < window_.size()) {
    window_.resize(static_cast<std::size_t>(needed));  // the bad place may lie behind what is asked for
    got = file_.read(begin_, window_);
  }
  if (!got) {
    window_.clear();
    return got.error();
  }
  window_.resize(*got);
  return {};
}

Result<std::span<const std::byte>> WindowReader::at(std::uint64_t offset, std::uint64_t bytes) {
  const auto held = [&] { return offset >= begin_ && offset + bytes <= begin_ + window_.size(); };
  if (!held()) VARVE_TRY(load(offset, bytes));
  if (!held()) return damaged("the segment", {file_.name(), offset}, "the file ends before its records do");
  return std::span<const std::byte>(window_).subspan(static_cast<std::size_t>(offset - begin_),
                                                     static_cast<std::size_t>(bytes));
}

SegmentScanner::SegmentScanner(File& file, std::uint64_t key, std::uint64_t begin, std::uint64_t end,
                               const ScanOptions& options)
    : reader_(file, end),
      name_(file.name()),
      key_(key),
      position_(begin),
      end_(end),
      options_(options),
      gap_begin_(begin) {}

Result<std::optional<ScannedCommit>> SegmentScanner::next() {
  while (position_ < end_) {
    const std::uint64_t block_bytes = std::min<std::uint64_t>(kBlockBytes, end_ - position_);
    auto read = reader_.at(position_, block_bytes);
    if (!read && !passes(read.error())) return read.error();
    if (!read) {
      ScannedCommit commit;
      commit.gap_begin = commit.begin = position_;
      position_ = gap_begin_ = commit.end = position_ + block_bytes;
      gap_is_zero_ = true;
      commit.problems.push_back({commit.begin, block_bytes, unreadable(read.error()), true});
      return std::optional<ScannedCommit>(std::move(commit));
    }
    const std::span<const std::byte> block = *read;
    if (block_bytes >= kRecordHeaderBytes && looks_like_record(header_block(block), key_, position_)) {
      auto header =
          decode_record_header(header_block(block), key_, at(position_), end_ - position_ - kRecordHeaderBytes);
      // A footer here is the remainder of a sealing that was cut short; what is unknown is for read_commit() to name.
      if (!header || (header->ordinal == 0 && header->type != RecordType::footer)) {
        VARVE_TRY_ASSIGN(ScannedCommit commit, read_commit(position_));
        commit.gap_begin = gap_begin_;
        commit.gap_is_zero = gap_is_zero_;
        position_ = gap_begin_ = commit.end;
        gap_is_zero_ = true;
        return std::optional<ScannedCommit>(std::move(commit));
      }
    }
    gap_is_zero_ = gap_is_zero_ && is_zero(block);
    position_ += block_bytes;
  }
  return std::optional<ScannedCommit>();
}

void SegmentScanner::look_again(std::uint64_t offset) {
  reader_.forget();
  position_ = gap_begin_ = offset;
  gap_is_zero_ = true;
}

Result<ScannedCommit> SegmentScanner::read_commit(std::uint64_t begin) {
  ScannedCommit commit;
  commit.begin = commit.end = begin;
  combined_ = 0;
  closed_ = false;
  while (!closed_) {
    VARVE_TRY_ASSIGN(const bool follows, read_record(commit.end, commit));
    if (!follows) break;
  }
  if (!closed_) {
    // Go on searching behind what was understood, and at least a block further.
    commit.end = std::max(round_up(commit.end, kBlockBytes), begin + kBlockBytes);
  }
  commit.end = std::min(commit.end, end_);
  return commit;
}

Result<bool> SegmentScanner::read_record(std::uint64_t offset, ScannedCommit& commit) {
  const auto problem = [&](std::uint64_t bytes, std::string what) {
    commit.problems.push_back({offset, bytes, std::move(what)});
  };
  if (offset + kRecordHeaderBytes > end_) {
    problem(end_ - std::min(offset, end_), "the file ends within a commit");
    return false;
  }
  auto read = reader_.at(offset, kRecordHeaderBytes);
  if (!read && !passes(read.error())) return read.error();
  if (!read) {
    commit.problems.push_back({offset, kRecordHeaderBytes, unreadable(read.error()), true});
    return false;
  }
  const std::span<const std::byte> block = *read;
  auto decoded = decode_record_header(header_block(block), key_, at(offset), end_ - offset - kRecordHeaderBytes);
  if (!decoded) {
    problem(kRecordHeaderBytes, decoded.error().cause());
    return false;
  }
  const RecordHeader header = *decoded;
  if (commit.records == 0) nonce_ = header.nonce;
  if (header.nonce != nonce_ || header.ordinal != commit.records || header.type == RecordType::footer) {
    problem(kRecordHeaderBytes, "the commit is not closed: a record of another one follows");
    return false;
  }
  const auto payload = reader_.at(offset + kRecordHeaderBytes, header.payload_bytes);
  if (!payload && !passes(payload.error())) return payload.error();
  if (!payload)
    commit.problems.push_back({offset, kRecordHeaderBytes + header.payload_bytes, unreadable(payload.error()), true});
  const bool intact = payload && payload_matches(header, *payload, key_);
  if (payload && !intact)
    problem(kRecordHeaderBytes + header.payload_bytes, "the checksum of the record's payload is wrong");
  const std::uint64_t payload_end = offset + kRecordHeaderBytes + header.payload_bytes;
  closed_ = closes(header.type);
  if (header.type == RecordType::frame) {
    if (intact)
      check_frame(header, *payload, commit);
    else
      commit.frames.push_back({{offset, static_cast<std::uint32_t>(record_bytes(header)), 0}, false});
  } else if (intact) {
    check_closing(header, *payload, commit);
  }
  ++commit.records;
  combined_ = combine_checksums(combined_, header.header_checksum, key_);
  commit.end = closed_ ? round_up(payload_end, kBlockBytes) : offset + record_bytes(header);
  VARVE_TRY(check_padding(payload_end, std::min(commit.end, end_), commit));
  if (commit.end > end_) problem(commit.end - end_, "the file ends within the padding of a record");
  return commit.end <= end_;
}

void SegmentScanner::check_frame(const RecordHeader& header, std::span<const std::byte> payload,
                                 ScannedCommit& commit) {
  const auto bytes = static_cast<std::uint32_t>(record_bytes(header));
  ScannedFrame scanned{{header.offset, bytes, 0}, false};
  auto frame = parse_frame(payload, options_.chunk_bytes, at(header.offset));
  if (!frame) {
    commit.problems.push_back({header.offset, bytes, frame.error().cause()});
    commit.frames.push_back(scanned);
    return;
  }
  scanned.frame.chunks = frame->chunks;
  scanned.frame.difference = frame->is_difference();
  scanned.good = true;
  std::span<const std::byte> raw;
  if (options_.secret != nullptr) {
    auto unpacked = unpack_frame(*frame, scratch_, at(header.offset));
    if (!unpacked) {
      commit.problems.push_back({header.offset, bytes, unpacked.error().cause()});
      scanned.good = false;
    } else if (!frame->is_difference()) {
      raw = *unpacked;
    }
  }
  for (std::uint32_t i = 0; i < frame->chunks; ++i) {
    const FrameChunk chunk = frame->chunk(i);
    commit.names.push_back(chunk.name);
    if (raw.empty()) continue;
    if (name_chunk(raw.first(chunk.bytes), *options_.secret) != chunk.name) {
      commit.problems.push_back({header.offset, bytes, fmt::format("the content of chunk {} has another name", i)});
      scanned.good = false;
    }
    raw = raw.subspan(chunk.bytes);
  }
  commit.frames.push_back(scanned);
}

void SegmentScanner::check_closing(const RecordHeader& header, std::span<const std::byte> payload,
                                   ScannedCommit& commit) {
  const auto problem = [&](std::string what) {
    commit.problems.push_back({header.offset, record_bytes(header), std::move(what)});
  };
  auto block = decode_commit_block(payload, at(header.offset));
  if (!block) return problem(block.error().cause());
  const std::span<const std::byte> content = payload.subspan(kCommitBlockBytes);
  if (header.type == RecordType::manifest) {
    auto manifest = decode_manifest(content);
    if (!manifest) return problem(manifest.error().cause());
    commit.image = summarize(*manifest, *block, header.offset);
  } else {
    auto note = decode_note(content, at(header.offset));
    if (!note) return problem(note.error().cause());
    commit.note = FooterNote{header.offset, {content.begin(), content.end()}};
  }
  const std::uint64_t end = round_up(header.offset + kRecordHeaderBytes + header.payload_bytes, kBlockBytes);
  if (block->begin != commit.begin || block->records != header.ordinal || block->combined != combined_ ||
      block->written_bytes != end - commit.begin)
    problem("its range and combined checksum do not fit the records before it");
}

Status SegmentScanner::check_padding(std::uint64_t from, std::uint64_t until, ScannedCommit& commit) {
  if (from >= until) return {};
  const auto padding = reader_.at(from, until - from);
  if (!padding && !passes(padding.error())) return padding.error();
  if (!padding)
    commit.problems.push_back({from, until - from, unreadable(padding.error()), true});
  else if (!is_zero(*padding))
    commit.problems.push_back({from, until - from, "the padding behind a record is not zero"});
  return {};
}

}  // namespace varve::storage
