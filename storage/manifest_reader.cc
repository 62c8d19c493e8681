// SPDX-License-Identifier: Apache-2.0
#include "storage/manifest_reader.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "base/bytes.h"
#include "base/try.h"
#include "storage/aligned_buffer.h"
#include "storage/byte_codec.h"
#include "storage/chunk_name.h"
#include "storage/record.h"
#include "storage/segment_scan.h"

namespace varve::storage {
namespace {

constexpr std::uint64_t kPartBytes = std::uint64_t{1} << 20;

/// The payload of a record as it is asked for, behind its commit block.
class PayloadParts final : public ByteParts {
 public:
  /// [begin, end) of the file.
  PayloadParts(File& file, std::uint64_t begin, std::uint64_t end, std::uint64_t seed)
      : file_(file),
        at_(begin),
        end_(end),
        content_begin_(begin + kCommitBlockBytes),
        sum_(seed),
        buffer_(static_cast<std::size_t>(std::min(kPartBytes, round_up(end - begin, kIoAlignment) + kIoAlignment))) {}

  std::span<const std::byte> next() override {
    while (at_ < end_ && !error_) {
      const std::uint64_t from = at_;
      const std::span<const std::byte> part = read();
      if (at_ <= content_begin_) continue;
      return from < content_begin_ ? part.subspan(static_cast<std::size_t>(content_begin_ - from)) : part;
    }
    return {};
  }
  /// Reads what is left, for the checksum of all.
  Result<std::uint64_t> checksum() {
    while (at_ < end_ && !error_) read();
    if (error_) return *error_;
    return sum_.value();
  }

 private:
  std::span<const std::byte> read() {
    const std::uint64_t begin = round_down(at_, kIoAlignment);
    const std::uint64_t wanted = std::min<std::uint64_t>(buffer_.size(), round_up(end_ - begin, kIoAlignment));
    const auto got = file_.read(begin, buffer_.span().first(static_cast<std::size_t>(wanted)));
    if (!got) {
      error_ = got.error();
      return {};
    }
    const std::uint64_t stop = std::min(end_, begin + *got);
    if (stop <= at_) {
      error_ = damaged("the segment", {file_.name(), at_}, "the file ends before its records do");
      return {};
    }
    const auto part = std::as_const(buffer_).span().subspan(static_cast<std::size_t>(at_ - begin),
                                                            static_cast<std::size_t>(stop - at_));
    at_ = stop;
    sum_.add(part);
    return part;
  }

  File& file_;
  std::uint64_t at_;
  const std::uint64_t end_;
  const std::uint64_t content_begin_;
  Checksum sum_;
  AlignedBuffer buffer_;
  std::optional<Error> error_;
};

}  // namespace

Result<Manifest> read_manifest_record(Io& io, const SegmentView& where, std::uint64_t offset) {
  const StoredAt at{where.file, offset};
  VARVE_TRY_ASSIGN(std::unique_ptr<File> file, io.open(where.file, OpenMode::read));
  VARVE_TRY_ASSIGN(const std::uint64_t size, file->size_bytes());
  const std::uint64_t end = std::min(size, where.end);
  if (offset + kRecordHeaderBytes > end) return damaged("the manifest", at, "the file ends before it");
  WindowReader reader(*file, std::min(end, offset + kIoAlignment));
  VARVE_TRY_ASSIGN(const std::span<const std::byte> block, reader.at(offset, kRecordHeaderBytes));
  VARVE_TRY_ASSIGN(const RecordHeader header, decode_record_header(std::span<const std::byte, kRecordHeaderBytes>(
                                                                       block.data(), kRecordHeaderBytes),
                                                                   where.key, at, end - offset - kRecordHeaderBytes));
  if (header.type != RecordType::manifest || header.payload_bytes < kCommitBlockBytes)
    return damaged("the manifest", at, "there is another record at its place");
  if (header.payload_bytes >= kPartBytes) {
    VARVE_TRY_ASSIGN(file, io.open(where.file, OpenMode::read_direct));
  }
  const std::uint64_t begin = offset + kRecordHeaderBytes;
  PayloadParts parts(*file, begin, begin + header.payload_bytes, where.key + offset);
  auto manifest = decode_manifest(parts, header.payload_bytes - kCommitBlockBytes);
  VARVE_TRY_ASSIGN(const std::uint64_t sum, parts.checksum());
  if (sum != header.payload_checksum) return damaged("the manifest", at, "its checksum is wrong");
  if (!manifest && manifest.error().code() == ErrorCode::corruption)
    return damaged("the manifest", at, manifest.error().cause());
  return manifest;
}

}  // namespace varve::storage
