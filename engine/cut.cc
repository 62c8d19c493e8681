// SPDX-License-Identifier: Apache-2.0
//
// checkpoint(): everything here up to the return of capture() is the stall.
#include <algorithm>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "base/clock.h"
#include "base/fault_point.h"
#include "base/processors.h"
#include "base/try.h"
#include "engine/engine_implementation.h"
#include "engine/live_reader.h"
#include "engine/ticket.h"

namespace varve {

namespace {

/// Adds what the tracker decided since the cut before.
void count_decisions(Region& region, ImageResult& result) {
  if (region.tracking == nullptr) return;
  const auto now = region.tracking->counters();
  result.cooled_pages += now.protected_pages - region.counted.protected_pages;
  result.mistaken_pages += now.mistakes - region.counted.mistakes;
  if (now.cuts_not_listed != region.counted.cuts_not_listed) result.unlisted_bytes += region.bytes();
  region.counted = now;
}

}  // namespace

/// What a cut has come to, for its end.
struct EngineImplementation::Cut {
  std::shared_ptr<ImageJob> job;  ///< null until the writer has it
  StallFigures::Figures figures;
};

std::string EngineImplementation::next_image() const { return fmt::format("{}/{}", options_.chain, last_number_ + 1); }

Result<Ticket> EngineImplementation::checkpoint(const CheckpointOptions& options) {
  const std::uint64_t begin_ns = monotonic_ns();
  VARVE_TRY(check_process(fmt::format("checkpoint of chain '{}'", options_.chain)));
  std::optional<Ticket> ticket;
  {
    MutexLock lock(api_mutex_);
    VARVE_TRY_ASSIGN(ticket, cut(options, begin_ns));
  }
  if (options.sync) VARVE_TRY(ticket->wait());
  return *ticket;
}

Status EngineImplementation::check_checkpoint(const CheckpointOptions& options, const std::string& what) {
  VARVE_TRY(check_open(what));
  if (!half_restored_.empty())
    return fail(
        ErrorCode::invalid_argument,
        {what + " refused",
         fmt::format("the restore of image {} failed half-way, and the regions hold neither state", half_restored_),
         "restore an image first"});
  if (regions_.empty())
    return fail(ErrorCode::invalid_argument, {what + " refused", "no region is protected", "call protect() first"});
  if (!options.label.empty()) VARVE_TRY(check_new_label(options.label, what));
  return {};
}

Status EngineImplementation::check_new_label(const std::string& label, const std::string& what) {
  VARVE_TRY(storage::check_label(label));
  bool taken = writer_->label_in_flight(label);
  for (const auto& image : store_->images()) taken = taken || (image.chain == options_.chain && image.label == label);
  if (!taken) return {};
  return fail(ErrorCode::invalid_argument,
              {what + " refused", fmt::format("an image labelled '{}' exists already", label), "choose another label"});
}

Result<Ticket> EngineImplementation::cut(const CheckpointOptions& options, std::uint64_t begin_ns) {
  VARVE_TRY(check_checkpoint(options, fmt::format("checkpoint of chain '{}'", options_.chain)));
  VARVE_TRY_ASSIGN(auto skipped, await_lazy());
  if (skipped.has_value()) return *skipped;
  const std::string remedy = "checkpoint less often, or allow more images in flight or staging";
  const std::size_t room = options_.images_in_flight;
  if (writer_->in_flight() >= room && options_.when_behind != WhenBehind::wait)
    return behind(fmt::format("{} images are in flight, and more are not allowed", room), remedy);
  writer_->wait_for_room(room);

  if (hooks_.before_cut) hooks_.before_cut();
  look_at_mappings_again();
  Cut cut;
  auto ticket = cut_and_capture(options, begin_ns, cut);
  if (hooks_.after_cut) hooks_.after_cut();
  if (cut.job != nullptr) {
    cut.figures.stall_ns = monotonic_ns() - begin_ns;
    cut.job->stall.set(cut.figures);
  }
  if (!ticket) return ticket.error();
  if (!ticket->has_value()) return behind("staging memory is full of images that are being written", remedy);
  return **ticket;
}

void EngineImplementation::look_at_mappings_again() {
  const std::uint64_t failed = writer_->failed();
  if (failed == failures_seen_) return;
  failures_seen_ = failed;
  for (const auto& [name, region] : regions_.all())
    if (auto traits = inspect_mapping(region->begin, region->bytes()); traits && traits->mapped)
      region->traits.fork_holds_it = traits->fork_holds_it;  // the rest is read by the background
}

Result<std::optional<Ticket>> EngineImplementation::await_lazy() {
  if (restoring_lazily() && options_.when_behind != WhenBehind::wait) {
    VARVE_TRY_ASSIGN(auto ticket, behind(fmt::format("image {} is still being restored lazily", lazy()->image()),
                                         "wait for it (Engine::wait_restored())"));
    return std::optional<Ticket>(std::move(ticket));
  }
  const Status settled = settle();
  if (settled) return std::optional<Ticket>();
  const Error& error = settled.error();
  return fail(error.code(),
              {fmt::format("checkpoint of chain '{}' refused", options_.chain),
               fmt::format("{}: {}", error.what(), error.cause()), error.remedy()},
              error.os_errno());
}

Result<Ticket> EngineImplementation::behind(const std::string& cause, const std::string& remedy) {
  if (options_.when_behind == WhenBehind::fail)
    return fail(ErrorCode::busy, {fmt::format("checkpoint of chain '{}' refused", options_.chain), cause,
                                  remedy + "; the next image holds these pages"});
  auto state = std::make_shared<Ticket::State>(options_.chain, 0);
  ImageResult skipped;
  skipped.skipped = true;
  state->resolve(skipped);
  return Ticket(std::move(state));
}

Status EngineImplementation::list_suspects(ImageJob& job) {
  spans_.clear();
  job.regions.reserve(regions_.all().size());
  for (const auto& [name, region] : regions_.all()) {
    RegionCut cut{region, region->exclusions, writer_->take_spare_runs()};
    if (region->tracking == nullptr && region->whole_pages().size_bytes() != 0) {  // it was lost after a lazy restore
      VARVE_TRY(track_again(*region));
      region->capture_all.store(true, std::memory_order_release);
    }
    if (region->tracking != nullptr) VARVE_TRY(region->tracking->cut(job.epoch, cut.suspects));
    chunks_.clear();
    suspect_chunks(*region, cut.suspects, chunks_);
    for (const auto& run : chunks_) {
      const auto extent = region->grid.extent(run);
      spans_.push_back({.region = static_cast<std::uint32_t>(job.regions.size()),
                        .begin = region->begin + extent.offset,
                        .bytes = extent.bytes,
                        .grid = region->grid_address(),
                        .fork_holds_it = region->traits.fork_holds_it});
      job.result.captured_bytes += extent.bytes;
    }
    count_decisions(*region, job.result);
    for (const auto& pages : cut.suspects) job.result.suspect_pages += pages.size_bytes() / tracker::page_bytes();
    job.result.protected_bytes += region->bytes();
    job.regions.push_back(std::move(cut));
  }
  return {};
}

Result<std::optional<Ticket>> EngineImplementation::cut_and_capture(const CheckpointOptions& options,
                                                                    std::uint64_t begin_ns, Cut& cut) {
  VARVE_FAULT_POINT(cut_begin);
  auto job = std::make_shared<ImageJob>();
  job->epoch = newest_epoch_.fetch_add(1) + 1;  // before anything is listed: see Cooler
  job->want_full = options.full;
  job->label = options.label;
  job->begin_ns = begin_ns;
  job->time_ns = wall_clock_ns();
  const std::uint64_t scan_begin_ns = monotonic_ns();
  VARVE_TRY(list_suspects(*job));
  job->result.scan_ns = monotonic_ns() - scan_begin_ns;
  // A cut that is larger than all of staging streams through it; only where others hold staging is the writer behind.
  if (options_.when_behind != WhenBehind::wait && writer_->in_flight() != 0 &&
      capturer_->would_wait(job->result.captured_bytes))
    return std::optional<Ticket>();

  job->number = ++last_number_;
  job->stream = capturer_->make_stream();
  const auto state = std::make_shared<Ticket::State>(options_.chain, job->number);
  job->ticket = state;
  cut.job = job;
  // A cut that does not fit in staging needs its consumer. For others it comes afterwards, so that waking it, and its
  // reading, takes nothing from the copy.
  const bool fits = capturer_->fits(job->result.captured_bytes);
  if (!fits) writer_->push(job);
  const std::uint64_t capture_begin_ns = monotonic_ns();
  // As long as no image holds any of it, an image that is durable earlier is worth a little of the stall. On the only
  // processor a reader would be in the way.
  const bool first =
      std::ranges::all_of(job->regions, [](const RegionCut& one) { return one.region->capture_all.load(); });
  const auto beside =
      first && !fits && usable_processors() > 1 ? LiveReader::Beside::reader : LiveReader::Beside::nobody;
  auto live = std::make_shared<LiveReader>(cooling_mutex_, job->epoch, store_->chunk_bytes(), beside);
  for (const RegionCut& region : job->regions) live->add(region.region);
  const auto outcome = capturer_->capture(spans_, *job->stream, std::move(live));
  VARVE_FAULT_POINT(capture_done);
  cut.figures.capture_ns = monotonic_ns() - capture_begin_ns;
  if (fits) writer_->push(job);
  if (!outcome) {
    job->ticket->mark_asked();
    return outcome.error();
  }
  cut.figures.capture = outcome->forked_bytes > outcome->copied_bytes ? Capture::fork : Capture::copy;
  cut.figures.capture_why = outcome->why;
  cut.figures.copied_bytes = outcome->copied_bytes;
  cut.figures.copy_ns = outcome->copy_ns;
  return std::optional<Ticket>(Ticket(state));
}

}  // namespace varve
