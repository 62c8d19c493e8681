// SPDX-License-Identifier: Apache-2.0
//
// Retention: which images of a chain stay, and which must be made full before others may go. Pure functions.
//
//     keep 3, keep_every 4      1  2  3  4  5  6  7  8  9  10  11  12
//                               *           *           *   *   *   *     the first of every four, the last three,
//                                           and what is labelled or pinned
//
// Threads: any.
#pragma once

#include <cstdint>
#include <set>
#include <span>
#include <vector>

#include "storage/store.h"

namespace varve {

struct RetentionPolicy {
  std::uint32_t keep = 0;        ///< the last so many; 0: all
  std::uint32_t keep_every = 0;  ///< before them one of every so many; 0: none
};

struct RetentionPlan {
  std::vector<std::uint64_t> drop;     ///< ascending
  std::vector<std::uint64_t> compact;  ///< images that stay and build on one that goes; ascending
  std::uint64_t drop_bytes = 0;        ///< what the dropped ones took when they were written
  std::uint64_t compact_bytes = 0;     ///< what the manifests of the others will take, about
};

/// `images`: the listed ones of one chain, ascending. `also_keep`: numbers that stay in any case.
RetentionPlan plan_retention(std::span<const storage::ImageSummary> images, const RetentionPolicy& policy,
                             const std::set<std::uint64_t>& also_keep, std::uint32_t chunk_bytes);
/// For dropping certain images, whatever a policy says.
RetentionPlan plan_removal(std::span<const storage::ImageSummary> images, const std::set<std::uint64_t>& drop,
                           std::uint32_t chunk_bytes);

struct Retained {
  std::uint64_t compacted = 0;
  std::uint64_t dropped = 0;
};
/// Does what the plan says, compaction first: each listed image can be restored at any instant. After an error nothing
/// was dropped. REQUIRES: the writer is of this chain and has begun no image.
Result<Retained> apply_retention(storage::Store& store, storage::ChainWriter& writer, const std::string& chain,
                                 const RetentionPlan& plan);

/// The images of one chain out of all.
std::vector<storage::ImageSummary> images_of(storage::Store& store, std::string_view chain);

}  // namespace varve
