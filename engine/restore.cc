// SPDX-License-Identifier: Apache-2.0
//
// restore(): everything that can be refused is refused before a byte is changed. From then on the regions hold neither
// state until all of the image is in place, and `half_restored_` says so.
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "base/fault_point.h"
#include "base/log.h"
#include "base/try.h"
#include "engine/engine_implementation.h"
#include "engine/region_filler.h"

namespace varve {
namespace {

std::string join(const std::vector<std::string>& parts) {
  std::string all;
  for (const auto& part : parts) all += (all.empty() ? "" : "; ") + part;
  return all;
}

}  // namespace

Result<bool> EngineImplementation::restore_if_any(const RestoreOptions& options) {
  const auto what = fmt::format("restore of chain '{}'", options_.chain);
  VARVE_TRY(check_process(what));
  MutexLock lock(api_mutex_);
  VARVE_TRY(check_open(what));
  VARVE_TRY(check_restore(options, what));
  VARVE_TRY(drain());
  VARVE_TRY_ASSIGN(const auto held, store_->hold());  // nothing of the image is collected before it is in place
  const auto newest = store_->newest_image(options_.chain);
  if (!newest && newest.error().code() == ErrorCode::not_found) return false;
  if (options.skipped != nullptr) options.skipped->clear();
  if (options.fallback) {
    Fallback fallback(*store_, options_.chain);
    VARVE_TRY(fall_back(fallback, fallback.begin_with_newest(), options));
    return true;
  }
  if (!newest) return newest.error();
  VARVE_TRY(restore_image({options_.chain, newest->number}, options));
  return true;
}

Result<ImageInfo> EngineImplementation::restore(std::string_view image, const RestoreOptions& options) {
  const auto what = fmt::format("restore of image '{}'", image);
  VARVE_TRY(check_process(what));
  MutexLock lock(api_mutex_);
  VARVE_TRY(check_open(what));
  VARVE_TRY(check_restore(options, what));
  VARVE_TRY(drain());
  VARVE_TRY_ASSIGN(const auto held, store_->hold());
  VARVE_TRY(store_->refresh());
  if (options.skipped != nullptr) options.skipped->clear();
  if (options.fallback) {
    Fallback fallback(*store_, options_.chain);
    return fall_back(fallback, fallback.begin(image), options);
  }
  VARVE_TRY_ASSIGN(const auto name, parse_image_selector(*store_, image, options_.chain));
  return restore_image(name, options);
}

Result<ImageInfo> EngineImplementation::fall_back(Fallback& fallback, Result<ImageName> image,
                                                  const RestoreOptions& options) {
  for (;;) {
    if (options.skipped != nullptr) *options.skipped = fallback.skipped();
    if (!image) return image.error();
    auto restored = restore_image(*image, options);
    if (restored || !is_lost(restored.error())) return restored;
    image = fallback.skip(*image, restored.error());
  }
}

Status EngineImplementation::drain() {
  const auto tickets = writer_->tickets_in_flight();
  writer_->wait_idle();
  for (const auto& ticket : tickets) VARVE_TRY(ticket->wait());
  return {};
}

Status EngineImplementation::check_restore(const RestoreOptions& options, const std::string& what) {
  if (!options.lazy || !options.fallback) return {};
  return fail(
      ErrorCode::invalid_argument,
      {what + " refused",
       "RestoreOptions has lazy and fallback: damage that is met lazily is met when the program runs already, and "
       "can't fall back",
       "choose one of them"});
}

Result<ImageInfo> EngineImplementation::restore_image(const ImageName& image, const RestoreOptions& options) {
  VARVE_TRY_ASSIGN(auto found, resolve_image(*store_, image.chain, image.number));
  const auto resolved = std::make_shared<const ResolvedImage>(std::move(found));
  VARVE_TRY(check_machine(*resolved));
  VARVE_TRY(match_regions(*resolved));
  VARVE_TRY(fill_regions(resolved, options));
  ImageInfo info;
  for (const auto& summary : store_->images())
    if (summary.chain == image.chain && summary.number == image.number) info = to_image_info(summary);
  if (hooks_.after_restore) hooks_.after_restore(info);
  return info;
}

Status EngineImplementation::check_machine(const ResolvedImage& resolved) const {
  const auto& manifest = resolved.manifest;
  const auto what = fmt::format("restore of image {} refused", to_string(ImageName{manifest.chain, manifest.number}));
  if (manifest.architecture != architecture())
    return fail(ErrorCode::unsupported,
                {what, fmt::format("it was made on {}, and this machine is {}", manifest.architecture, architecture()),
                 "restore it on a machine like the one that made it"});
  if (manifest.page_bytes != tracker::page_bytes())
    return fail(ErrorCode::unsupported, {what,
                                         fmt::format("it was made with pages of {} bytes, and this kernel has {}",
                                                     manifest.page_bytes, tracker::page_bytes()),
                                         "restore it under a kernel with the same page size"});
  if (manifest.chunk_bytes != store_->chunk_bytes())
    return fail(ErrorCode::corruption, {what,
                                        fmt::format("it has chunks of {} bytes in a store whose chunks have {}",
                                                    manifest.chunk_bytes, store_->chunk_bytes()),
                                        "restore another image; varve verify lists those that are good"});
  return {};
}

Status EngineImplementation::match_regions(const ResolvedImage& resolved) {
  const auto& manifest = resolved.manifest;
  std::vector<std::string> differences;
  std::size_t matched = 0;
  for (const auto& record : manifest.regions) {
    const auto found = regions_.all().find(record.name);
    if (found == regions_.all().end()) {
      differences.push_back(
          fmt::format("'{}' ({} bytes) is in the image and not protected", record.name, record.bytes));
      continue;
    }
    ++matched;
    if (found->second->bytes() != record.bytes)
      differences.push_back(fmt::format("'{}' has {} bytes in the image and {} in the program", record.name,
                                        record.bytes, found->second->bytes()));
  }
  if (matched != regions_.all().size())
    for (const auto& entry : regions_.all()) {
      const Region& region = *entry.second;
      if (std::none_of(manifest.regions.begin(), manifest.regions.end(),
                       [&](const auto& record) { return record.name == region.name; }))
        differences.push_back(
            fmt::format("'{}' ({} bytes) is protected and not in the image", region.name, region.bytes()));
    }
  if (differences.empty()) return {};
  return fail(ErrorCode::invalid_argument,
              {fmt::format("restore of image {} refused", to_string(ImageName{manifest.chain, manifest.number})),
               "its regions are not those that are protected: " + join(differences),
               "protect the same regions with the same sizes as when it was made; nothing was changed"});
}

Status EngineImplementation::fill_regions(const std::shared_ptr<const ResolvedImage>& resolved,
                                          const RestoreOptions& options) {
  const auto image = to_string(ImageName{resolved->manifest.chain, resolved->manifest.number});
  for (const auto& record : resolved->manifest.regions)
    VARVE_TRY(check_writable(*regions_.all().find(record.name)->second, image));
  VARVE_TRY(abandon_lazy());
  auto lazily = options.lazy ? open_lazily(resolved) : nullptr;
  std::vector<FillTarget> targets;
  for (const auto& record : resolved->manifest.regions) {
    const auto& region = regions_.all().find(record.name)->second;
    FillTarget target{region.get(), &record, record.excluded, {}};
    for (const auto& range : region->exclusions->ranges) insert_range(target.kept, range);
    if (lazily != nullptr) {
      target.wanted = all_chunks(record);
    } else {
      VARVE_TRY_ASSIGN(target.wanted, chunks_to_fill(*region, record));
    }
    targets.push_back(std::move(target));
  }
  half_restored_ = image;
  if (lazily != nullptr) take_lazily(*lazily, targets);
  if (const auto filled = fill(*store_, targets); !filled) {
    lazily.reset();
    for (const auto& target : targets) {
      target.region->tracking.reset();  // what is in place may have become clean already, and will be written again
      VARVE_TRY(track_again(*target.region));
    }
    const Error& cause = filled.error();
    return fail(cause.code(),
                {fmt::format("restore of image {} failed half-way, and the regions hold neither state", half_restored_),
                 fmt::format("{}: {}", cause.what(), cause.cause()),
                 "restore another image before the next checkpoint; varve verify lists those that are good"},
                cause.os_errno());
  }
  half_restored_.clear();
  VARVE_FAULT_POINT(restore_done);
  set_lazy(std::move(lazily));
  adopt_restored(resolved);
  return {};
}

Result<std::vector<ChunkRange>> EngineImplementation::chunks_to_fill(Region& region,
                                                                     const storage::RegionRecord& record) {
  // A rollback writes only what differs: the rest is not faulted in, and does not become a suspect. Not where nothing
  // is known of the region's content, where chunks lie elsewhere, nor with `mprotect`, which is made writable as a
  // whole.
  const bool known = half_restored_.empty() && !region.capture_all.load() && region.tracking != nullptr &&
                     region.tracking->back_end() != tracker::BackEndKind::mprotect;
  if (!known || record.grid_offset != region.grid.grid_offset()) return all_chunks(record);
  tracker::PageRuns suspects;
  VARVE_TRY(region.tracking->cut(newest_epoch_.fetch_add(1) + 1, suspects));
  std::vector<ChunkRange> chunks;
  suspect_chunks(region, suspects, chunks);
  return differing_chunks(region, record, chunks);
}

void EngineImplementation::adopt_restored(const std::shared_ptr<const ResolvedImage>& resolved) {
  const auto& manifest = resolved->manifest;
  // A chain's images build on images of the same chain. After one of another chain the next image is full, and every
  // chunk goes through the writer again, which takes those that the store has.
  // Nor may anything depend on images of which a segment that can't be read may say more.
  const bool own = manifest.chain == options_.chain && store_->hiding_segment(options_.chain).empty();
  image_writer_->set_line({own ? manifest.number : 0, resolved->ancestry.size() - 1});
  std::vector<std::pair<std::shared_ptr<Region>, const storage::RegionRecord*>> restored;
  for (const auto& record : manifest.regions) restored.emplace_back(regions_.all().find(record.name)->second, &record);
  const auto adopt = [this, resolved, own, restored = std::move(restored)](Cooler::Content content) {
    for (const auto& [region, record] : restored) adopt_region(*region, *record, own, content);
  };
  if (const auto streaming = lazy(); streaming != nullptr)
    streaming->begin([adopt] { adopt(Cooler::Content::may_differ); });  // the program has been running
  else
    adopt(Cooler::Content::committed);  // nobody may write before restore() returns
}

void EngineImplementation::adopt_region(Region& region, const storage::RegionRecord& record, bool own,
                                        Cooler::Content content) {
  region.committed.names.forget_all();
  const bool same_chunks =
      own && record.grid_offset == region.grid.grid_offset() && record.excluded == region.exclusions->ranges;
  region.capture_all.store(!same_chunks, std::memory_order_release);
  if (const auto tracked = track_again(region); !tracked) {
    log::warn_once("engine", tracked.error().message());
    region.capture_all.store(true, std::memory_order_release);
    return;
  }
  if (!same_chunks) return;
  region.committed.names.overwrite(record);
  cooler_->after_restore(region, content);
}

}  // namespace varve
