// SPDX-License-Identifier: Apache-2.0
//
// Constants of format version 1 that several encoders share; docs/formats/ is the specification.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "storage/io.h"
#include "varve/result.h"

namespace varve::storage {

inline constexpr std::uint32_t kFormatVersion = 1;
inline constexpr std::uint32_t kMinChunkBytes = 4096;
inline constexpr std::uint32_t kMaxChunkBytes = 65536;
inline constexpr std::uint32_t kFrameRawBytes = 65536;
inline constexpr std::uint32_t kFrameChunks = 256;
inline constexpr std::size_t kMaxNameBytes = 64;          // of chains and labels
inline constexpr std::size_t kRecordAlignment = 64;       // within a commit
inline constexpr std::size_t kBlockBytes = kIoAlignment;  // commits, headers, trailers
inline constexpr std::uint64_t kMaxImageNumber = std::uint64_t{1} << 62;
inline constexpr std::uint64_t kMaxSegmentBytes = std::uint64_t{1} << 42;

inline constexpr std::string_view kStoreFile = "varve.store";
inline constexpr std::string_view kStoreFileNew = "varve.store.new";
inline constexpr std::string_view kInventoryFile = "inventory";
inline constexpr std::string_view kInventoryFileNew = "inventory.new";
inline constexpr std::string_view kLockFile = "lock";
inline constexpr std::string_view kSegmentFolder = "segments";

/// Bytes of the file `lock`: what each is for stands in docs/formats/store.md.
inline constexpr std::uint64_t kLockTable = 0;
inline constexpr std::uint64_t kLockStore = 1;
inline constexpr std::uint64_t kLockGate = 2;

using StoreId = std::array<std::byte, 16>;
using Incarnation = std::array<std::byte, 16>;

/// Where stored bytes lie, for messages.
struct StoredAt {
  std::string_view file;
  std::uint64_t offset = 0;
};

/// "segments/a-1.seg at offset 4096"
std::string to_string(const StoredAt& at);
std::string to_hex(std::span<const std::byte> bytes);

/// A `corruption` error about stored bytes: "frame in FILE at offset N is damaged: CAUSE; REMEDY".
Error damaged(std::string_view object, const StoredAt& at, std::string cause);
/// An `unsupported` error: this version does not know what a newer one may have written.
Error unknown_to_us(std::string_view object, const StoredAt& at, std::string cause);

/// Whether an error says that the medium can't give the bytes: EIO, and what file systems say of their own checksums.
bool medium_failed(const Error& error);
/// Whether an error says that stored bytes are wrong, or that the medium can't give them: it touches what lies there
/// alone. Other errors are the caller's.
bool is_damage(const Error& error);

}  // namespace varve::storage
