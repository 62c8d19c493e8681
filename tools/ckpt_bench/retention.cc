// SPDX-License-Identifier: Apache-2.0
#include "tools/ckpt_bench/retention.h"

#include <algorithm>
#include <cstring>
#include <deque>

#include <fmt/format.h>

#include "base/clock.h"
#include "base/try.h"
#include "tools/ckpt_bench/yardstick.h"
#include "tools/units.h"

namespace varve::tools {
namespace {

using Content = std::vector<std::byte>;
using Which = Scratch::Which;

double over(double value, double base) { return base > 0 ? value / base : 0; }

Error wrong(const std::string& image) {
  return fail(ErrorCode::corruption,
              {"restore of image " + image + " of the benchmark is wrong", "memory differs from what was written",
               "this is a bug in Varve: keep the store (--keep) and report it"});
}

class Run {
 public:
  Run(const RetentionOptions& options, const WorkloadShape& shape, Scratch& scratch, Mapping memory)
      : options_(options), scratch_(scratch), memory_(std::move(memory)) {
    row_.shape = shape;
  }

  Result<RetentionRow> measure() {
    for (const Which which : {Which::store, Which::other, Which::full}) VARVE_TRY(scratch_.remove_store(which));
    VARVE_TRY(write_long());
    row_.disk_bytes = scratch_.store_bytes();
    VARVE_TRY(check_kept());
    VARVE_TRY(write_fresh(Which::other, 0));
    row_.needed_bytes = scratch_.store_bytes(Which::other);
    VARVE_TRY(write_fresh(Which::full, contents_.size() - 1));
    Progress progress("ckpt-bench retention", options_.setup.common.show_progress());
    for (unsigned i = 0; i < options_.repetitions; ++i) {
      progress.update(i, options_.repetitions, "restores");
      VARVE_TRY(restore_newest(Which::store, row_.open, row_.restore));
      VARVE_TRY(restore_newest(Which::full, row_.open_full, row_.restore_full));
    }
    return std::move(row_);
  }

 private:
  Result<Engine> open(Which which, unsigned keep, std::span<std::byte> memory) {
    Options options = engine_options(options_.setup, options_.setup.back_ends, scratch_.store(which));
    options.keep = keep;
    VARVE_TRY_ASSIGN(Engine engine, Engine::open(options));
    RegionOptions region;
    region.element_bytes = element_bytes(row_.shape.data);
    VARVE_TRY(engine.protect("memory", memory.data(), memory.size(), region));
    return engine;
  }

  // All checkpoints; the content of those that will be kept is kept aside.
  Status write_long() {
    Progress progress("ckpt-bench retention, " + describe(row_.shape), options_.setup.common.show_progress());
    fill(memory_.bytes(), row_.shape.data, 1);
    VARVE_TRY_ASSIGN(auto engine, open(Which::store, options_.keep, memory_.bytes()));
    PageSequence pages(row_.shape);
    for (unsigned i = 0; i < options_.checkpoints; ++i) {
      VARVE_TRY(check_interrupted());
      progress.update(i, options_.checkpoints, "checkpoints");
      if (i > 0) run_epoch(memory_.bytes(), pages.next(), row_.shape.data, i);
      if (options_.checkpoints - i <= options_.keep)
        contents_.emplace_back(memory_.bytes().begin(), memory_.bytes().end());
      VARVE_TRY_ASSIGN(const Ticket ticket, engine.checkpoint());
      VARVE_TRY_ASSIGN(const ImageResult image, ticket.wait());
      row_.stall.add(image.stall_ns);
      row_.written_bytes += image.written_bytes;
      row_.peak_bytes = std::max(row_.peak_bytes, engine.maintenance().stored_bytes);
    }
    const std::uint64_t begin_ns = monotonic_ns();
    VARVE_TRY(engine.close());
    row_.close_ns = monotonic_ns() - begin_ns;
    row_.maintenance = engine.maintenance();
    return {};
  }

  // Exactly the images that were to be kept are there, and each is what it was.
  Status check_kept() {
    VARVE_TRY_ASSIGN(auto engine, open(Which::store, 0, memory_.bytes()));
    VARVE_TRY_ASSIGN(const auto images, engine.images());
    if (images.size() != contents_.size())
      return fail(ErrorCode::corruption,
                  {"look at the benchmark's store", fmt::format("it holds {} images", images.size()),
                   fmt::format("{} were to be kept: {}", contents_.size(), row_.maintenance.last_failure)});
    for (std::size_t i = 0; i < images.size(); ++i) {
      const std::string image = std::to_string(images[i].image);
      VARVE_TRY(engine.restore(image));
      if (std::memcmp(memory_.bytes().data(), contents_[i].data(), contents_[i].size()) != 0) return wrong(image);
    }
    return engine.close();
  }

  // The contents from `first` on, each as an image.
  Status write_fresh(Which which, std::size_t first) {
    VARVE_TRY_ASSIGN(auto engine, open(which, 0, memory_.bytes()));
    for (std::size_t i = first; i < contents_.size(); ++i) {
      std::memcpy(memory_.bytes().data(), contents_[i].data(), contents_[i].size());
      CheckpointOptions sync;
      sync.sync = true;
      VARVE_TRY(engine.checkpoint(sync));
    }
    return engine.close();
  }

  Status restore_newest(Which which, Samples& opened, Samples& restored) {
    VARVE_TRY(check_interrupted());
    if (!options_.cached)
      for (const auto& segment : scratch_.segments(which)) drop_cached(segment);
    VARVE_TRY_ASSIGN(const Mapping memory, Mapping::create({.bytes = row_.shape.bytes,
                                                            .offset = options_.setup.offset,
                                                            .huge_pages = huge_pages(options_.setup),
                                                            .populate = false}));
    const std::uint64_t begin_ns = monotonic_ns();
    VARVE_TRY_ASSIGN(auto engine, open(which, 0, memory.bytes()));
    opened.add(monotonic_ns() - begin_ns);
    VARVE_TRY(engine.restore("latest"));
    restored.add(monotonic_ns() - begin_ns);
    VARVE_TRY(engine.close());
    const bool good = std::memcmp(memory.bytes().data(), contents_.back().data(), contents_.back().size()) == 0;
    return good ? Status() : wrong("latest");
  }

  const RetentionOptions& options_;
  Scratch& scratch_;
  Mapping memory_;
  RetentionRow row_;
  std::deque<Content> contents_;  // of the kept images, ascending
};

}  // namespace

double RetentionRow::disk_share() const {
  return over(static_cast<double>(disk_bytes), static_cast<double>(needed_bytes));
}

double RetentionRow::restore_share() const { return over(restore.median(), restore_full.median()); }

double RetentionRow::rewritten_per_freed() const {
  const std::uint64_t net = maintenance.bytes_freed - std::min(maintenance.bytes_freed, maintenance.bytes_rewritten);
  return over(static_cast<double>(maintenance.bytes_rewritten), static_cast<double>(net));
}

Result<RetentionRow> measure_retention(const RetentionOptions& options, const WorkloadShape& shape, Scratch& scratch) {
  VARVE_TRY_ASSIGN(
      Mapping memory,
      Mapping::create({.bytes = shape.bytes, .offset = options.setup.offset, .huge_pages = huge_pages(options.setup)}));
  return Run(options, shape, scratch, std::move(memory)).measure();
}

nlohmann::json as_json(const RetentionRow& row, const RetentionOptions& options) {
  const MaintenanceStatus& maintenance = row.maintenance;
  return {{"workload", describe(row.shape)},
          {"checkpoints", options.checkpoints},
          {"keep", options.keep},
          {"disk_bytes", row.disk_bytes},
          {"needed_bytes", row.needed_bytes},
          {"disk_over_needed", row.disk_share()},
          {"peak_segment_bytes", row.peak_bytes},
          {"written_bytes", row.written_bytes},
          {"open_ns", row.open.json()},
          {"open_full_ns", row.open_full.json()},
          {"restore_ns", row.restore.json()},
          {"restore_full_ns", row.restore_full.json()},
          {"restore_over_full", row.restore_share()},
          {"cached", options.cached},
          {"stall_ns", row.stall.json()},
          {"close_ns", row.close_ns},
          {"rewritten_per_freed", row.rewritten_per_freed()},
          {"bytes_rewritten", maintenance.bytes_rewritten},
          {"bytes_freed", maintenance.bytes_freed},
          {"collections", maintenance.collections},
          {"segments_dropped", maintenance.segments_dropped},
          {"segments_rewritten", maintenance.segments_rewritten},
          {"images_dropped", maintenance.images_dropped},
          {"images_compacted", maintenance.images_compacted},
          {"failures", maintenance.failures},
          {"last_failure", maintenance.last_failure}};
}

}  // namespace varve::tools
