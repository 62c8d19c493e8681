// SPDX-License-Identifier: Apache-2.0
#include "engine/fallback.h"

#include <algorithm>
#include <limits>

#include <fmt/format.h>

#include "base/log.h"
#include "storage/format.h"

namespace varve {
namespace {

constexpr auto kNoLimit = std::numeric_limits<std::uint64_t>::max();

}  // namespace

bool is_lost(const Error& error) { return storage::is_damage(error); }

void Fallback::note(std::string image, const Error& why) {
  log::write(log::Level::warning, "engine",
             fmt::format("{} is passed over: {}: {}", image.empty() ? "what can't be listed" : "image " + image,
                         why.what(), why.cause()));
  skipped_.push_back({std::move(image), why.what() + ": " + why.cause()});
}

Result<ImageName> Fallback::begin(std::string_view selector) {
  auto named = parse_image_selector(store_, selector, default_chain_);
  if (named || !is_lost(named.error())) return named;
  // Only "latest" can fail so: images are known to be missing, or a segment can't be read that may hold some.
  note("", named.error());
  if (const auto slash = selector.find('/'); slash != std::string_view::npos)
    return newest_below(std::string(selector.substr(0, slash)), kNoLimit);
  // Without a name it is the default chain, or the only one there is.
  const auto all = store_.images();
  const bool is_default = std::ranges::any_of(all, [&](const auto& image) { return image.chain == default_chain_; });
  return newest_below(is_default || all.empty() ? default_chain_ : all.front().chain, kNoLimit);
}

Result<ImageName> Fallback::begin_with_newest() {
  const auto newest = store_.newest_image(default_chain_);
  if (newest) return ImageName{default_chain_, newest->number};
  if (!is_lost(newest.error())) return newest.error();
  note("", newest.error());
  return newest_below(default_chain_, kNoLimit);
}

Result<ImageName> Fallback::skip(const ImageName& image, const Error& why) {
  note(to_string(image), why);
  return newest_below(image.chain, image.number);
}

Result<ImageName> Fallback::newest_below(const std::string& chain, std::uint64_t number) {
  std::uint64_t newest = 0;
  for (const auto& image : store_.images())
    if (image.chain == chain && image.number < number) newest = image.number;  // ascending
  if (newest != 0) return ImageName{chain, newest};
  return fail(ErrorCode::corruption,
              {fmt::format("restore of chain '{}' failed", chain),
               fmt::format("none of its images is good; the newest: {}", skipped_.front().reason),
               "run `varve verify` to see what is damaged, and restore the files from a copy"});
}

}  // namespace varve
