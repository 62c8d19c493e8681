// SPDX-License-Identifier: Apache-2.0
#include "storage/store_file.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/bytes.h"
#include "base/fault_point.h"
#include "base/try.h"
#include "storage/byte_codec.h"

namespace varve::storage {
namespace {

constexpr std::string_view kMagic = "varvstor";
constexpr std::size_t kFileBytes = 4096;
constexpr std::size_t kChecksumAt = kFileBytes - 8;
constexpr std::uint64_t kSeed = 0x7661727665737430;

}  // namespace

std::vector<std::byte> encode_store_file(const StoreIdentity& identity) {
  std::vector<std::byte> content;
  ByteWriter out(content);
  out.text(kMagic);
  out.put<std::uint32_t>(kFormatVersion);
  out.put<std::uint32_t>(identity.chunk_bytes);
  out.bytes(identity.id);
  out.bytes(identity.secret);
  out.zeros(kChecksumAt - content.size());
  out.put<std::uint64_t>(checksum(content, kSeed));
  return content;
}

Result<StoreIdentity> decode_store_file(std::span<const std::byte> content) {
  const StoredAt at{kStoreFile, 0};
  constexpr std::string_view kObject = "the store's identity";
  if (content.size() != kFileBytes)
    return damaged(kObject, at, fmt::format("the file has {} bytes instead of {}", content.size(), kFileBytes));
  ByteReader in(content);
  const bool magic = in.text(kMagic.size()) == kMagic;
  if (!magic) return damaged(kObject, at, "it does not begin as a store does");
  if (load_le<std::uint64_t>(content.data() + kChecksumAt) != checksum(content.first(kChecksumAt), kSeed))
    return damaged(kObject, at, "its checksum is wrong");
  const auto version = in.get<std::uint32_t>();
  if (version > kFormatVersion)
    return unknown_to_us(
        "the store", at,
        fmt::format("written by a newer Varve, format {}; this one reads up to {}", version, kFormatVersion));
  StoreIdentity identity;
  identity.chunk_bytes = in.get<std::uint32_t>();
  if (version == 0 || !is_power_of_two(identity.chunk_bytes) || identity.chunk_bytes < kMinChunkBytes ||
      identity.chunk_bytes > kMaxChunkBytes)
    return damaged(kObject, at,
                   fmt::format("format {} with chunks of {} bytes does not exist", version, identity.chunk_bytes));
  std::ranges::copy(in.take(identity.id.size()), identity.id.begin());
  std::ranges::copy(in.take(identity.secret.size()), identity.secret.begin());
  if (!is_zero(in.take(in.remaining() - 8))) return damaged(kObject, at, "its padding is not zero");
  return identity;
}

Result<StoreIdentity> read_store_file(Io& io) {
  VARVE_TRY_ASSIGN(const std::vector<std::byte> content, read_file(io, kStoreFile, kFileBytes));
  return decode_store_file(content);
}

Status write_store_file(Io& io, const StoreIdentity& identity) {
  return replace_file(io, kStoreFileNew, kStoreFile, encode_store_file(identity));
}

Status replace_file(Io& io, std::string_view temporary, std::string_view name, std::span<const std::byte> content) {
  // A leftover of a killed process; a missing one is the usual case.
  if (auto removed = io.remove(temporary); !removed && removed.error().code() != ErrorCode::not_found)
    return removed.error();
  {
    VARVE_TRY_ASSIGN(const std::unique_ptr<File> file, io.open(temporary, OpenMode::create));
    VARVE_TRY(file->submit_write(0, content));
    VARVE_TRY(file->sync());
  }
  if (name == kInventoryFile) VARVE_FAULT_POINT(inventory_written);
  VARVE_TRY(io.rename(temporary, name));
  VARVE_TRY(io.sync_directory(""));
  if (name == kInventoryFile) VARVE_FAULT_POINT(inventory_renamed);
  return {};
}

Result<std::vector<std::byte>> read_file(Io& io, std::string_view name, std::uint64_t limit_bytes) {
  VARVE_TRY_ASSIGN(const std::unique_ptr<File> file, io.open(name, OpenMode::read));
  VARVE_TRY_ASSIGN(const std::uint64_t size, file->size_bytes());
  if (size > limit_bytes)
    return damaged("the file", {name, limit_bytes}, fmt::format("it has {} bytes, and may have {}", size, limit_bytes));
  std::vector<std::byte> content(static_cast<std::size_t>(size));
  VARVE_TRY_ASSIGN(const std::size_t got, file->read(0, content));
  content.resize(got);
  return content;
}

}  // namespace varve::storage
