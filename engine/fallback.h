// SPDX-License-Identifier: Apache-2.0
//
// Fallback: which image to take when the one that was wanted is damaged or missing. The older ones of its chain, from
// the newest on; what is passed over, and why, is kept for the caller and logged.
//
//     auto image = fallback.begin("latest");
//     while (image && !usable(*image)) image = fallback.skip(*image, why);
//
// Threads: one at a time; the store is only read.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "engine/chain.h"
#include "varve/engine.h"

namespace varve {

/// Whether this error says that stored bytes are damaged, missing or unreadable: then an older image may be good.
bool is_lost(const Error& error);

class Fallback {
 public:
  Fallback(storage::Store& store, std::string default_chain)
      : store_(store), default_chain_(std::move(default_chain)) {}

  /// The image that the selector means; where damage hides the newest one, the newest that is listed. Errors: those of
  /// parse_image_selector(), and `corruption` when nothing is left.
  Result<ImageName> begin(std::string_view selector);
  /// Likewise of the default chain's newest one.
  Result<ImageName> begin_with_newest();
  /// The next older one. `corruption` when there is none.
  Result<ImageName> skip(const ImageName& image, const Error& why);

  const std::vector<SkippedImage>& skipped() const { return skipped_; }

 private:
  Result<ImageName> newest_below(const std::string& chain, std::uint64_t number);
  void note(std::string image, const Error& why);

  storage::Store& store_;
  const std::string default_chain_;
  std::vector<SkippedImage> skipped_;
};

}  // namespace varve
