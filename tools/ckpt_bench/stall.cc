// SPDX-License-Identifier: Apache-2.0
#include "tools/ckpt_bench/stall.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <optional>

#include "base/try.h"
#include "tools/ckpt_bench/yardstick.h"

namespace varve::tools {
namespace {

std::uint64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  std::uint64_t total = 0, resident = 0;
  file >> total >> resident;
  return resident * 4096;
}

class StallRun {
 public:
  StallRun(const BenchSetup& setup, const StallPlan& plan, Scratch& scratch, Progress& progress)
      : setup_(setup), plan_(plan), scratch_(scratch), progress_(progress), pages_(plan.shape) {
    row_.plan = plan;
  }

  Result<StallRow> run();

 private:
  Status prepare();
  Status fresh_engine(unsigned checkpoints);
  Status end_engine();
  Status plain_epochs(unsigned epochs);
  Status round(unsigned checkpoints, bool full_write);
  Status checkpoint_iteration(bool counted);
  Status measure_floor(const std::vector<std::uint32_t>& pages);
  Status collect();
  Status look_at_chain();
  EpochTime epoch(std::span<std::byte> memory, const std::vector<std::uint32_t>& pages) {
    return run_epoch(memory, pages, plan_.shape.data, ++salt_);
  }
  std::uint64_t store_limit() const { return disk_bound(setup_, plan_.shape.bytes) - plan_.shape.bytes; }
  std::uint64_t delta_bytes() const { return delta_image_bytes(pages_.pages_per_epoch()); }
  unsigned round_size() const;

  struct Pending {
    Ticket ticket;
    bool counted;
  };

  const BenchSetup& setup_;
  StallPlan plan_;
  Scratch& scratch_;
  Progress& progress_;
  PageSequence pages_;
  StallRow row_;
  std::optional<Mapping> protected_, warm_;  // protected memory outlives the engine
  std::optional<ListingScan> listing_;
  std::optional<Engine> engine_;
  std::optional<Pending> in_flight_;
  std::uint64_t salt_ = 0;
  std::uint64_t store_written_ = 0;
  std::uint64_t resident_before_ = 0;
  unsigned done_ = 0;
};

Status StallRun::prepare() {
  progress_.update("filling memory");
  Mapping::Options memory{.bytes = plan_.shape.bytes, .offset = setup_.offset, .huge_pages = huge_pages(setup_)};
  VARVE_TRY_ASSIGN(protected_, Mapping::create(memory));
  VARVE_TRY_ASSIGN(warm_, Mapping::create({.bytes = std::max<std::size_t>(1, pages_.pages_per_epoch()) * kPageBytes,
                                           .huge_pages = HugePages::always}));
  fill(protected_->bytes(), plan_.shape.data, 1);
  VARVE_TRY_ASSIGN(auto listing, ListingScan::create());
  listing_.emplace(std::move(listing));
  resident_before_ = resident_bytes();
  return {};
}

// An engine of its own, a full image, and warm-up epochs. The store is made anew before it grows beyond its limit.
Status StallRun::fresh_engine(unsigned checkpoints) {
  progress_.update("first image");
  const std::uint64_t round_bytes =
      full_image_bytes(plan_.shape.bytes) + (checkpoints + plan_.warm_up + 2) * delta_bytes();
  if (store_written_ == 0 || store_written_ + round_bytes > store_limit()) {
    VARVE_TRY(scratch_.remove_store());
    if (store_written_ != 0) ++row_.stores;
    store_written_ = 0;
    row_.images = 0;
  }
  VARVE_TRY_ASSIGN(auto engine, Engine::open(engine_options(setup_, plan_.back_ends, scratch_.store())));
  engine_.emplace(std::move(engine));
  const auto memory = protected_->bytes();
  RegionOptions region;
  region.element_bytes = element_bytes(plan_.shape.data);
  VARVE_TRY(engine_->protect("memory", memory.data(), memory.size(), region));
  CheckpointOptions full;
  full.sync = true;
  VARVE_TRY_ASSIGN(const Ticket ticket, engine_->checkpoint(full));
  VARVE_TRY_ASSIGN(const ImageResult first, ticket.wait());
  if (row_.first.image == 0) row_.first = first;
  store_written_ += first.written_bytes;
  ++row_.images;
  for (unsigned i = 0; i < plan_.warm_up; ++i) VARVE_TRY(checkpoint_iteration(false));
  return collect();
}

Status StallRun::end_engine() {
  row_.choices = engine_->choices();
  row_.memory = engine_->memory_use();
  const std::uint64_t resident = resident_bytes();
  row_.resident_growth_bytes = resident > resident_before_ ? resident - resident_before_ : 0;
  VARVE_TRY(engine_->close());
  engine_.reset();
  return {};
}

Status StallRun::collect() {
  if (!in_flight_) return {};
  const Pending pending = std::move(*in_flight_);
  in_flight_.reset();
  VARVE_TRY_ASSIGN(const ImageResult image, pending.ticket.wait());
  store_written_ += image.written_bytes;
  ++row_.images;
  if (!pending.counted) return {};
  row_.stall.add(image.stall_ns);
  row_.scan.add(image.scan_ns);
  row_.capture.add(image.capture_ns);
  row_.durable.add(image.durable_ns);
  row_.reduce.add(image.reduce_ns);
  row_.commit.add(image.commit_ns);
  row_.suspects.add(image.suspect_pages);
  row_.changed.add(image.changed_chunks);
  row_.written.add(image.written_bytes);
  row_.raw.add(image.raw_bytes);
  row_.cooled.add(image.cooled_pages);
  row_.mistaken.add(image.mistaken_pages);
  row_.unlisted.add(image.unlisted_bytes);
  row_.capture_why = image.capture_why;
  row_.stages.push_back(stages_of(image));
  progress_.update(++done_, plan_.epochs, "checkpoints");
  return {};
}

// The epoch runs while the image before it is being written.
Status StallRun::checkpoint_iteration(bool counted) {
  VARVE_TRY(check_interrupted());
  const EpochTime took = epoch(protected_->bytes(), pages_.next());
  if (counted) {
    row_.epoch_with.add(took.ns);
    row_.processor_with.add(took.processor_ns);
  }
  VARVE_TRY(collect());
  VARVE_TRY_ASSIGN(auto ticket, engine_->checkpoint());
  in_flight_.emplace(Pending{std::move(ticket), counted});
  return {};
}

Status StallRun::measure_floor(const std::vector<std::uint32_t>& pages) {
  VARVE_TRY_ASSIGN(const std::uint64_t scan_ns, listing_->run(protected_->bytes()));
  const std::uint64_t copy_ns = copy_pages(protected_->bytes(), pages, warm_->bytes());
  row_.floor_scan.add(scan_ns);
  row_.floor_copy.add(copy_ns);
  row_.floor.add(scan_ns + copy_ns);
  return {};
}

Status StallRun::plain_epochs(unsigned epochs) {
  const bool before = row_.epoch_plain.empty();
  for (unsigned i = 0; i <= epochs; ++i) {
    VARVE_TRY(check_interrupted());
    const EpochTime took = epoch(protected_->bytes(), pages_.next());
    if (i == 0) continue;  // what an engine before left in the caches
    row_.epoch_plain.add(took.ns);
    row_.processor_plain.add(took.processor_ns);
    if (before) row_.epoch_before.add(took.ns);
  }
  return {};
}

Status StallRun::round(unsigned checkpoints, bool full_write) {
  VARVE_TRY(plain_epochs(checkpoints));
  VARVE_TRY(fresh_engine(checkpoints));

  // The lead-in: the floor is measured at the point at which the others cut, with the same things in the caches.
  const auto& pages = pages_.next();
  epoch(protected_->bytes(), pages);
  VARVE_TRY(measure_floor(pages));
  VARVE_TRY_ASSIGN(auto ticket, engine_->checkpoint());
  in_flight_.emplace(Pending{std::move(ticket), false});

  for (unsigned i = 0; i < checkpoints; ++i) VARVE_TRY(checkpoint_iteration(true));
  VARVE_TRY(collect());
  VARVE_TRY(end_engine());
  if (!full_write) return {};
  VARVE_TRY(check_interrupted());
  VARVE_TRY_ASSIGN(const std::uint64_t ns, write_everything(scratch_.yardstick(), protected_->bytes()));
  row_.full_write.add(ns);
  return {};
}

// As many checkpoints as give some rounds, and as fit between a full image and the bound of the store.
unsigned StallRun::round_size() const {
  const unsigned rounds = std::max(1U, std::min(plan_.epochs, 5U));
  const unsigned wanted = (plan_.epochs + rounds - 1) / rounds;
  const std::uint64_t limit = store_limit(), full = full_image_bytes(plan_.shape.bytes);
  const std::uint64_t room = limit > full ? (limit - full) / delta_bytes() : 0;
  const std::uint64_t most = room > plan_.warm_up + 3 ? room - plan_.warm_up - 2 : 1;
  return static_cast<unsigned>(std::min<std::uint64_t>(wanted, most));
}

// What the store's manifests tell of the last engines' images, for the plots.
Status StallRun::look_at_chain() {
  progress_.update("reading the store");
  VARVE_TRY_ASSIGN(auto store, open_store({.directory = scratch_.store()}));
  VARVE_TRY_ASSIGN(auto survey, survey_store(*store, {}));
  if (!survey.chains.empty()) row_.chain = std::move(survey.chains.front());
  return {};
}

Result<StallRow> StallRun::run() {
  VARVE_TRY(prepare());
  const unsigned size = round_size();
  const unsigned rounds = (plan_.epochs + size - 1) / size;
  const unsigned each = plan_.full_writes == 0 ? 0 : std::max(1u, rounds / plan_.full_writes);
  unsigned left = plan_.epochs;
  for (unsigned i = 0; left > 0; ++i) {
    const unsigned checkpoints = std::min(size, left);
    VARVE_TRY(round(checkpoints, each != 0 && i % each == 0));
    left -= checkpoints;
  }
  row_.listing = listing_->by_pagemap_scan() ? "PAGEMAP_SCAN" : "/proc/self/pagemap";
  row_.store_bytes = scratch_.store_bytes();
  if (!setup_.html.empty()) VARVE_TRY(look_at_chain());
  return std::move(row_);
}

}  // namespace

std::uint64_t disk_bound(const BenchSetup& setup, std::uint64_t bytes) {
  const std::uint64_t store =
      setup.max_store_bytes != 0 ? setup.max_store_bytes : std::max(std::uint64_t{8} << 30, 4 * bytes);
  return store + bytes;
}

Result<StallRow> measure_stall(const BenchSetup& setup, const StallPlan& plan, Scratch& scratch, Progress& progress) {
  return StallRun(setup, plan, scratch, progress).run();
}

}  // namespace varve::tools
