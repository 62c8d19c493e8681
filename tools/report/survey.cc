// SPDX-License-Identifier: Apache-2.0
#include "tools/report/survey.h"

#include <algorithm>
#include <optional>

#include <fmt/format.h>

#include "base/try.h"
#include "engine/image_diff.h"
#include "tools/report/stored_sizes.h"

namespace varve::tools {
namespace {

using storage::ByteRange;
using storage::Manifest;
using storage::RegionRecord;
using Ranges = std::vector<ByteRange>;

constexpr std::size_t kMaxDamage = 50;  // sentences

void append(Ranges& ranges, const ByteRange& range) {
  if (!ranges.empty() && ranges.back().offset + ranges.back().bytes == range.offset)
    ranges.back().bytes += range.bytes;
  else if (range.bytes != 0)
    ranges.push_back(range);
}

// What the record itself names.
Ranges named_ranges(const RegionRecord& record, std::uint32_t chunk_bytes) {
  Ranges ranges;
  for (const auto& run : record.runs) {
    const ByteRange first = storage::chunk_extent(record, chunk_bytes, run.first);
    const ByteRange last = storage::chunk_extent(record, chunk_bytes, run.first + run.count - 1);
    append(ranges, {first.offset, last.offset + last.bytes - first.offset});
  }
  return ranges;
}

// Who had chunks as new content: what they take on disk is told when all images were looked at.
struct Owner {
  ChangeCounts* image;
  ChangeCounts* region;
};

class ChainSurveyor {
 public:
  ChainSurveyor(storage::Store& store, StoredSizes& sizes, std::vector<Owner>& owners, const SurveyOptions& options,
                SurveyedChain& chain)
      : store_(store), sizes_(sizes), owners_(owners), options_(options), chain_(chain) {}

  void image(std::size_t index);

 private:
  std::string problem_of(const SurveyedImage& image, const Result<Manifest>& manifest) const;
  /// Of each region, where it differs from the image before; a region that is not there changed as a whole.
  Result<std::map<std::string, Ranges>> ranges_since(const SurveyedImage& before, const SurveyedImage& image) const;
  std::map<std::string, Ranges> changed_ranges(std::size_t index, const Manifest& manifest);
  ChangeCounts count(const RegionRecord& record, const Ranges& changed, std::uint32_t owner);

  storage::Store& store_;
  StoredSizes& sizes_;
  std::vector<Owner>& owners_;
  const SurveyOptions& options_;
  SurveyedChain& chain_;
  std::set<std::uint64_t> good_;
  std::uint64_t missing_ = 0;  // chunks of the image at hand that are in no segment
};

std::string ChainSurveyor::problem_of(const SurveyedImage& image, const Result<Manifest>& manifest) const {
  if (!manifest) return manifest.error().message();
  const auto& summary = image.summary;
  if (options_.damaged.contains({summary.chain, summary.number})) return "verification found it damaged";
  if (summary.kind == storage::ImageKind::delta && !good_.contains(summary.parent))
    return fmt::format("image {}, which it builds on, is damaged or missing", summary.parent);
  return {};
}

Result<std::map<std::string, Ranges>> ChainSurveyor::ranges_since(const SurveyedImage& before,
                                                                  const SurveyedImage& image) const {
  VARVE_TRY_ASSIGN(const auto a, resolve_image(store_, before.summary.chain, before.summary.number));
  VARVE_TRY_ASSIGN(const auto b, resolve_image(store_, image.summary.chain, image.summary.number));
  std::map<std::string, Ranges> result;
  for (const auto& region : diff_images(a, b).regions) {
    if (!region.b) continue;
    Ranges& ranges = result[region.name];
    const std::uint64_t bytes = region.b->bytes;
    if (region.difference == RegionDifference::only_in_b || region.difference == RegionDifference::alignment) {
      ranges = {{0, bytes}};
      continue;
    }
    ranges = region.ranges;
    if (bytes > region.compared_bytes) append(ranges, {region.compared_bytes, bytes - region.compared_bytes});
  }
  return result;
}

// A full image, or a region that was recorded whole, names what did not change, too: only a comparison tells.
std::map<std::string, Ranges> ChainSurveyor::changed_ranges(std::size_t index, const Manifest& manifest) {
  const bool whole = std::any_of(manifest.regions.begin(), manifest.regions.end(),
                                 [](const RegionRecord& record) { return record.complete; });
  if (whole && index > 0 && chain_.images[index - 1].problem.empty()) {
    auto ranges = ranges_since(chain_.images[index - 1], chain_.images[index]);
    if (ranges) return std::move(ranges).value();
    chain_.images[index].problem = ranges.error().message();
  }
  std::map<std::string, Ranges> result;
  for (const auto& record : manifest.regions) result[record.name] = named_ranges(record, manifest.chunk_bytes);
  return result;
}

ChangeCounts ChainSurveyor::count(const RegionRecord& record, const Ranges& changed, std::uint32_t owner) {
  ChangeCounts counts;
  std::size_t at = 0;
  for_each_chunk(record, store_.chunk_bytes(), [&](const ResolvedChunk& chunk) {
    const bool zero = chunk.kind == storage::RunKind::zero;
    StoredSizes::Chunk* stored = zero ? nullptr : sizes_.find(chunk.name);
    if (!zero && stored == nullptr) ++missing_;
    const bool first = stored != nullptr && stored->extent_bytes == 0;
    if (first) stored->extent_bytes = static_cast<std::uint32_t>(chunk.extent.bytes);
    while (at < changed.size() && changed[at].offset + changed[at].bytes <= chunk.extent.offset) ++at;
    if (at == changed.size() || changed[at].offset >= chunk.extent.offset + chunk.extent.bytes) return;
    ++counts.changed_chunks;
    counts.changed_bytes += chunk.extent.bytes;
    if (zero) {
      ++counts.zero_chunks;
    } else if (!first) {
      ++counts.known_chunks;
    } else {
      ++counts.new_chunks;
      counts.new_bytes += chunk.extent.bytes;
      stored->owner = owner;
    }
  });
  return counts;
}

void ChainSurveyor::image(std::size_t index) {
  SurveyedImage& image = chain_.images[index];
  const std::string name = "image " + std::to_string(image.summary.number);
  const auto manifest = store_.read_manifest(image.summary.chain, image.summary.number);
  image.problem = problem_of(image, manifest);
  if (!manifest || !image.problem.empty()) {
    chain_.map.skip(index, name + " (damaged)");
    return;
  }
  const auto changed = changed_ranges(index, *manifest);
  image.regions = manifest->regions.size();
  missing_ = 0;
  for (const auto& record : manifest->regions) {
    const auto found = changed.find(record.name);
    const Ranges none, &ranges = found == changed.end() ? none : found->second;
    SurveyedRegion& region = chain_.regions[record.name];
    const ChangeCounts counts = count(record, ranges, static_cast<std::uint32_t>(owners_.size()));
    if (counts.new_chunks > 0) owners_.push_back({.image = &image.counts, .region = &region.counts});
    image.counts.add(counts);
    chain_.map.add(index, name, record.name, record.bytes, ranges);
    region.bytes = record.bytes;
    region.element_bytes = record.element_bytes;
    ++region.images;
    region.counts.add(counts);
  }
  if (missing_ > 0 && sizes_.unread().empty())
    image.problem = fmt::format("{} chunks that it names are nowhere in the store", missing_);
  if (image.problem.empty()) good_.insert(image.summary.number);
}

std::vector<SurveyedChain> chains_of(const std::vector<storage::ImageSummary>& images) {
  std::vector<SurveyedChain> chains;
  for (const auto& image : images) {
    if (chains.empty() || chains.back().name != image.chain)
      chains.push_back({.name = image.chain, .images = {}, .regions = {}});
    chains.back().images.push_back({.summary = image, .problem = {}, .counts = {}});
  }
  for (auto& chain : chains) chain.map = ChangeMap(chain.images.size());
  return chains;
}

struct Turn {
  std::uint64_t time_ns = 0;
  std::size_t chain = 0, index = 0;
};

// All images by time, since chains share content and an earlier image may be one of another chain. Within a chain by
// number, also where the clock went back.
std::vector<Turn> by_time(const std::vector<SurveyedChain>& chains) {
  std::vector<Turn> turns;
  for (std::size_t chain = 0; chain < chains.size(); ++chain) {
    std::uint64_t latest_ns = 0;
    for (std::size_t i = 0; i < chains[chain].images.size(); ++i) {
      latest_ns = std::max(latest_ns, chains[chain].images[i].summary.time_ns);
      turns.push_back({.time_ns = latest_ns, .chain = chain, .index = i});
    }
  }
  std::stable_sort(turns.begin(), turns.end(), [](const Turn& a, const Turn& b) { return a.time_ns < b.time_ns; });
  return turns;
}

void survey_images(storage::Store& store, StoredSizes& sizes, const SurveyOptions& options,
                   std::vector<SurveyedChain>& chains) {
  std::vector<Owner> owners;
  std::vector<ChainSurveyor> surveyors;
  for (auto& chain : chains) surveyors.emplace_back(store, sizes, owners, options, chain);
  const auto turns = by_time(chains);
  for (std::size_t i = 0; i < turns.size(); ++i) {
    if (options.progress) options.progress(i, turns.size(), "images");
    surveyors[turns[i].chain].image(turns[i].index);
  }
  sizes.share_out(store.chunk_bytes(), [&owners](std::uint32_t owner, double stored_bytes) {
    owners[owner].image->stored_bytes += stored_bytes;
    owners[owner].region->stored_bytes += stored_bytes;
  });
}

nlohmann::json image_row(const SurveyedImage& image) {
  const auto& summary = image.summary;
  auto row = image.counts.json();
  row["image"] = summary.number;
  row["kind"] = summary.kind == storage::ImageKind::full ? "full" : "delta";
  row["parent"] = summary.parent == 0 ? nlohmann::json() : nlohmann::json(summary.parent);
  row["label"] = summary.label.empty() ? nlohmann::json() : nlohmann::json(summary.label);
  row["pinned"] = summary.pinned;
  row["time_ns"] = summary.time_ns;
  row["region_bytes"] = summary.region_bytes;
  row["written_bytes"] = summary.written_bytes;
  row["problem"] = image.problem.empty() ? nlohmann::json() : nlohmann::json(image.problem);
  return row;
}

}  // namespace

void ChangeCounts::add(const ChangeCounts& other) {
  changed_chunks += other.changed_chunks;
  changed_bytes += other.changed_bytes;
  zero_chunks += other.zero_chunks;
  known_chunks += other.known_chunks;
  new_chunks += other.new_chunks;
  new_bytes += other.new_bytes;
  stored_bytes += other.stored_bytes;
}

nlohmann::json ChangeCounts::json() const {
  return {{"changed_chunks", changed_chunks},
          {"changed_bytes", changed_bytes},
          {"zero_chunks", zero_chunks},
          {"known_chunks", known_chunks},
          {"new_chunks", new_chunks},
          {"new_bytes", new_bytes},
          {"stored_bytes", static_cast<std::uint64_t>(stored_bytes)}};
}

nlohmann::json StoreSurvey::json(std::size_t most) const {
  auto rows = nlohmann::json::array();
  for (const auto& chain : chains) {
    if (rows.size() == most) break;
    auto images = nlohmann::json::array(), regions = nlohmann::json::array();
    const std::size_t left_out = chain.images.size() > most ? chain.images.size() - most : 0;
    for (std::size_t i = left_out; i < chain.images.size(); ++i) images.push_back(image_row(chain.images[i]));
    for (const auto& [name, region] : chain.regions) {
      if (regions.size() == most) break;
      auto row = region.counts.json();
      row["name"] = name;
      row["bytes"] = region.bytes;
      row["element_bytes"] = region.element_bytes;
      row["images"] = region.images;
      regions.push_back(std::move(row));
    }
    rows.push_back({{"chain", chain.name},
                    {"images", std::move(images)},
                    {"images_left_out", left_out},
                    {"regions_left_out", chain.regions.size() - regions.size()},
                    {"regions", std::move(regions)}});
  }
  return {{"store", directory},
          {"id", id},
          {"chunk_bytes", chunk_bytes},
          {"stored_bytes", statistics.stored_bytes},
          {"stored_chunks", statistics.indexed_chunks},
          {"segments", statistics.segments},
          {"verified", verified},
          {"damage", damage},
          {"chains_left_out", chains.size() - rows.size()},
          {"chains", std::move(rows)}};
}

Result<StoreSurvey> survey_store(storage::Store& store, const SurveyOptions& options) {
  VARVE_TRY_ASSIGN(const auto held, store.hold());  // what is listed now stays until it was read
  VARVE_TRY(store.refresh());
  StoreSurvey survey;
  survey.directory = store.io().directory();
  survey.id = store.id();
  survey.chunk_bytes = store.chunk_bytes();
  survey.statistics = store.statistics();
  survey.verified = options.verified;
  survey.damage = store.damage();
  VARVE_TRY_ASSIGN(auto sizes, StoredSizes::read(store, [&](std::size_t done, std::size_t total) {
                     if (options.progress) options.progress(done, total, "segments");
                   }));
  for (const auto& sentence : sizes.unread()) survey.damage.push_back(sentence);
  for (const auto& chain : store.chains())
    if (const auto newest = store.newest_image(chain); !newest && newest.error().code() == ErrorCode::corruption)
      survey.damage.push_back(newest.error().message());

  survey.chains = chains_of(store.images());
  survey_images(store, sizes, options, survey.chains);
  for (const auto& chain : survey.chains)
    for (const auto& image : chain.images)
      if (!image.problem.empty())
        survey.damage.push_back(fmt::format("image {}/{}: {}", chain.name, image.summary.number, image.problem));
  if (survey.damage.size() > kMaxDamage) {
    const std::size_t more = survey.damage.size() - kMaxDamage;
    survey.damage.resize(kMaxDamage);
    survey.damage.push_back(fmt::format("and {} more", more));
  }
  return survey;
}

}  // namespace varve::tools
