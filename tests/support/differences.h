// SPDX-License-Identifier: Apache-2.0
//
// Which chunks of a store are differences, and to what: read from its frames, not asked of the code under test.
#pragma once

#include <cstdint>
#include <set>

#include "storage/chunk_name.h"
#include "storage/io.h"

namespace varve::test {

struct Differences {
  std::uint64_t chunks = 0;  ///< that are stored as a difference to a base
  std::uint64_t plain_chunks = 0;
  std::set<storage::ChunkName> bases;
  std::set<storage::ChunkName> deep;     ///< bases that are only in differences themselves
  std::set<storage::ChunkName> lacking;  ///< bases that are nowhere
};

/// Of all segments that are there, sealed or not. Ends the program when one can't be read.
Differences look_for_differences(storage::Io& io);

}  // namespace varve::test
