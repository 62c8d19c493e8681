// SPDX-License-Identifier: Apache-2.0
//
// What LZ4 alone does with the benchmark's memory, from memory to memory: no names, no store, no disk. By liblz4's
// and libxxhash's own functions, in blocks as large as the store's frames.
//
// Threads: one caller; it starts as many as it is told.
#pragma once

#include <cstdint>
#include <span>

#include "varve/result.h"

namespace varve::tools {

struct Lz4Alone {
  double pack_bytes_per_second = 0;    ///< of memory: LZ4_compress_default()
  double unpack_bytes_per_second = 0;  ///< of memory: LZ4_decompress_safe() and XXH3 of every 4 KiB
  double ratio = 1;  ///< memory over packed bytes; a block that does not become smaller stays as it is
};

/// Of the first 256 MiB. REQUIRES: memory is not empty.
Result<Lz4Alone> lz4_alone(std::span<const std::byte> memory, unsigned threads);

}  // namespace varve::tools
