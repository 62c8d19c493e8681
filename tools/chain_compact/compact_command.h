// SPDX-License-Identifier: Apache-2.0
//
// What chain-compact does: makes an image full, drops what retention says, collects garbage; or says what that would
// give.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/chain.h"
#include "engine/retention.h"
#include "storage/collect.h"
#include "tools/command.h"

namespace varve::tools {

struct CompactOptions {
  CommonOptions common;
  StoreArgument store;
  std::string chain;  ///< empty: the one that a selector without a chain means
  std::string image;  ///< to be made full; empty: the newest
  RetentionPolicy policy;
  double spare = 0.05;
  bool dry_run = false;
};

struct CollectedChain {
  std::string chain;
  storage::CollectReport report;
  std::string left_alone;  ///< why nothing was done; else empty
};

struct CompactResult {
  std::string chain;
  std::optional<ImageName> compacted;
  std::uint64_t compacted_chunks = 0;
  std::uint64_t compacted_bytes = 0;
  std::vector<std::uint64_t> also_compacted;  ///< they built on what was dropped
  std::vector<std::uint64_t> dropped;
  std::vector<CollectedChain> chains;
  std::optional<Error> put_off;  ///< readers or writers left no moment to remove files
};

Result<CompactResult> compact_store(const CompactOptions& options);

std::string as_text(const CompactResult& result, bool dry_run);
nlohmann::json as_json(const CompactResult& result, bool dry_run);

}  // namespace varve::tools
