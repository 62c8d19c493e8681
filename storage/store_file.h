// SPDX-License-Identifier: Apache-2.0
//
// varve.store: the identity of a store (docs/formats/store.md). Values; any thread.
#pragma once

#include <vector>

#include "storage/chunk_name.h"
#include "storage/format.h"

namespace varve::storage {

struct StoreIdentity {
  std::uint32_t chunk_bytes = kMinChunkBytes;
  StoreId id{};
  HashSecret secret{};
};

std::vector<std::byte> encode_store_file(const StoreIdentity& identity);
/// `corruption`, or `unsupported` for a newer format.
Result<StoreIdentity> decode_store_file(std::span<const std::byte> content);

Result<StoreIdentity> read_store_file(Io& io);
/// Temporary name, flush, rename, flush of the directory.
Status write_store_file(Io& io, const StoreIdentity& identity);

/// Writes a small file under `temporary`, flushes it and gives it its name, durably. REQUIRES: nobody else does.
Status replace_file(Io& io, std::string_view temporary, std::string_view name, std::span<const std::byte> content);
/// All of a file. `limit_bytes` bounds what is allocated: `corruption` when the file is longer.
Result<std::vector<std::byte>> read_file(Io& io, std::string_view name, std::uint64_t limit_bytes);

}  // namespace varve::storage
