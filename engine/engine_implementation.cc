// SPDX-License-Identifier: Apache-2.0
#include "engine/engine_implementation.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "base/bytes.h"
#include "base/log.h"
#include "base/niceness.h"
#include "base/try.h"

namespace varve {
namespace {

constexpr std::uint32_t kChunkBytesMin = 4096;
constexpr std::uint32_t kChunkBytesMax = 64 * 1024;
constexpr std::uint64_t kBytesPerSecondMin = 64 * 1024;

/// What the background may write at once after a pause: little against a second, and enough for a small delta.
constexpr std::uint64_t burst_bytes(std::uint64_t bytes_per_second) {
  return std::clamp<std::uint64_t>(bytes_per_second / 20, std::uint64_t{64} << 10, std::uint64_t{4} << 20);
}

Error bad_option(const Options& options, std::string cause, std::string remedy) {
  const auto store = options.store.empty() ? std::string() : fmt::format(" on store {}", options.store);
  return fail(ErrorCode::invalid_argument,
              {fmt::format("opening of the engine{} refused", store), std::move(cause), std::move(remedy)});
}

Status check_options(const Options& options) {
  if (options.store.empty()) return bad_option(options, "Options::store is empty", "name a directory");
  VARVE_TRY(storage::check_chain_name(options.chain));
  if (options.images_in_flight == 0)
    return bad_option(options, "Options::images_in_flight is 0", "allow at least one image in flight");
  if (options.keep == 0 && options.keep_every != 0)
    return bad_option(options, "Options::keep_every is set and Options::keep is 0", "set both, or neither");
  if (options.chunk_bytes != 0 && (!is_power_of_two(options.chunk_bytes) || options.chunk_bytes < kChunkBytesMin ||
                                   options.chunk_bytes > kChunkBytesMax))
    return bad_option(options, fmt::format("Options::chunk_bytes is {}", options.chunk_bytes),
                      "choose a power of two from 4096 to 65536, or 0");
  if (options.favour_size && !options.compress)
    return bad_option(options, "Options::favour_size is set and Options::compress is not", "set both, or neither");
  if (options.nice < 0 || options.nice > kMostNice)
    return bad_option(options, fmt::format("Options::nice is {}", options.nice),
                      "choose from 0 (as the program) to 19 (as nice as can be)");
  if (options.bytes_per_second != 0 && options.bytes_per_second < kBytesPerSecondMin)
    return bad_option(options, fmt::format("Options::bytes_per_second is {}", options.bytes_per_second),
                      "allow at least 65536 bytes a second, or 0 for no bound");
  return {};
}

}  // namespace

ImageInfo to_image_info(const storage::ImageSummary& summary) {
  ImageInfo info;
  info.chain = summary.chain;
  info.image = summary.number;
  info.parent = summary.parent;
  info.kind = summary.kind == storage::ImageKind::full ? ImageKind::full : ImageKind::delta;
  info.label = summary.label;
  info.time_ns = summary.time_ns;
  info.region_bytes = summary.region_bytes;
  info.written_bytes = summary.written_bytes;
  return info;
}

EngineImplementation::EngineImplementation(const Options& options, Wanted wanted)
    : options_(options),
      wanted_(std::move(wanted)),
      background_niceness_(std::min(niceness() + options.nice, kMostNice)) {}

Result<std::unique_ptr<EngineImplementation>> EngineImplementation::open(const Options& options) {
  VARVE_TRY(check_options(options));
  VARVE_TRY_ASSIGN(const auto wanted, resolve_choices(options));
  storage::IoOptions io_options;
  io_options.kind = wanted.io;
  io_options.allow_foreign = options.allow_foreign_store;
  if (options.nice != 0) io_options.niceness = niceness() + options.nice;
  VARVE_TRY_ASSIGN(auto io, storage::open_io(options.store, io_options));
  return open(options, std::move(io));
}

Result<std::unique_ptr<EngineImplementation>> EngineImplementation::open(const Options& options,
                                                                         std::unique_ptr<storage::Io> io,
                                                                         const CaptureTuning& tuning) {
  VARVE_TRY(check_options(options));
  VARVE_TRY_ASSIGN(auto wanted, resolve_choices(options));
  std::unique_ptr<EngineImplementation> engine(new EngineImplementation(options, std::move(wanted)));
  VARVE_TRY(engine->start(std::move(io), tuning));
  return engine;
}

Status EngineImplementation::start(std::unique_ptr<storage::Io> io, const CaptureTuning& tuning) {
  MutexLock lock(api_mutex_);
  io_description_ = describe_io(*io);
  VARVE_TRY_ASSIGN(file_system_, io->file_system());
  if (options_.bytes_per_second != 0) {
    pace_ = std::make_shared<storage::Pace>(
        storage::PaceOptions{options_.bytes_per_second, burst_bytes(options_.bytes_per_second)});
    io = std::make_unique<storage::PacedWrites>(std::move(io), pace_);
  }
  storage::StoreOptions store_options;
  store_options.chunk_bytes = options_.chunk_bytes;
  store_options.compress = options_.compress;
  store_options.favour_size = options_.favour_size;
  store_options.verify_on_dedup = options_.verify_on_dedup;
  store_options.threads = std::max<std::uint32_t>(1, options_.threads);
  if (options_.nice != 0) store_options.niceness = background_niceness_;
  VARVE_TRY_ASSIGN(store_, storage::Store::open(std::move(io), store_options));
  VARVE_TRY_ASSIGN(chain_, store_->open_chain(options_.chain));
  CapturerOptions capturer_options;
  capturer_options.staging_bytes = options_.staging_bytes;
  capturer_options.wanted = wanted_.capture;
  capturer_options.chunk_bytes = store_->chunk_bytes();
  if (options_.nice != 0) capturer_options.niceness = background_niceness_;
  VARVE_TRY_ASSIGN(capturer_, create_capturer(capturer_options, tuning));

  last_number_ = chain_->next_number() - 1;
  image_writer_ = std::make_unique<ImageWriter>(
      *store_, *chain_, ImageWriterOptions{options_.chain, options_.full_every, options_.verify_on_dedup, pace_});
  cooler_ = std::make_unique<Cooler>(*store_, cooling_mutex_, newest_epoch_);
  maintenance_ = std::make_unique<Maintenance>(*store_, *chain_, options_.chain,
                                               RetentionPolicy{options_.keep, options_.keep_every});
  auto writer = std::make_unique<BackgroundWriter>(*image_writer_, *cooler_, *capturer_, *maintenance_);
  VARVE_TRY(writer->start(background_niceness_));
  writer_ = std::move(writer);
  if (!file_system_.durable)
    log::warn_once("engine",
                   fmt::format("store {} lies on {}: its images are written, never durable; use a directory on "
                               "a disk to keep them over a loss of power",
                               options_.store, file_system_.type));
  return {};
}

EngineImplementation::~EngineImplementation() {
  MutexLock lock(api_mutex_);
  if (!closed_) [[maybe_unused]]
    const Status ended = end_lazy();    // memory that its owner goes on using is whole
  if (pace_ != nullptr) pace_->stop();  // else dropping would take as long as writing
  if (writer_ != nullptr) writer_->stop(BackgroundWriter::Stop::drop);
}

Status EngineImplementation::check_process(std::string_view what) const {
  if (owner_.is_this()) return {};
  return storage::forked_error(fmt::format("{} refused", what));
}

Status EngineImplementation::check_open(std::string_view what) {
  if (!closed_) return {};
  return fail(ErrorCode::invalid_argument,
              {fmt::format("{} refused", what), fmt::format("the engine of chain '{}' has been closed", options_.chain),
               "open a new one"});
}

Status EngineImplementation::protect(std::string_view name, void* address, std::size_t bytes,
                                     const RegionOptions& options) {
  const auto what = fmt::format("protection of region '{}'", name);
  VARVE_TRY(check_process(what));
  MutexLock lock(api_mutex_);
  VARVE_TRY(check_open(what));
  const RegionTable::Wanted wanted{.name = name,
                                   .address = address,
                                   .bytes = bytes,
                                   .element_bytes = options.element_bytes,
                                   .chunk_bytes = store_->chunk_bytes()};
  VARVE_TRY(regions_.add(wanted, wanted_.tracker, this));
  if (last_number_ != 0) return {};
  // The first image of a chain holds everything. A later run restores first, and goes on with deltas.
  std::uint64_t protected_bytes = 0;
  for (const auto& [other, region] : regions_.all()) protected_bytes += region->bytes();
  capturer_->expect(protected_bytes);
  writer_->warm_up();
  return {};
}

Status EngineImplementation::unprotect(std::string_view name) {
  const auto what = fmt::format("unprotection of region '{}'", name);
  VARVE_TRY(check_process(what));
  MutexLock lock(api_mutex_);
  VARVE_TRY(check_open(what));
  VARVE_TRY_ASSIGN(const auto region, regions_.find(name, "unprotection of"));
  settle_anyhow();
  regions_.remove(name);
  MutexLock cooling(cooling_mutex_);  // from here on the background does not touch its memory
  region->ended = true;
  region->tracking.reset();
  return {};
}

Status EngineImplementation::exclude(std::string_view name, std::size_t offset, std::size_t bytes) {
  const auto what = fmt::format("exclusion in region '{}'", name);
  VARVE_TRY(check_process(what));
  MutexLock lock(api_mutex_);
  VARVE_TRY(check_open(what));
  settle_anyhow();
  return regions_.exclude(name, offset, bytes);
}

Status EngineImplementation::touch(const void* address, std::size_t bytes) {
  VARVE_TRY(check_process("declaring memory written"));
  MutexLock lock(api_mutex_);
  VARVE_TRY(check_open("declaring memory written"));
  settle_anyhow();
  return regions_.touch(address, bytes);
}

Status EngineImplementation::wait() {
  const auto what = fmt::format("wait for the images of chain '{}'", options_.chain);
  VARVE_TRY(check_process(what));
  {
    MutexLock lock(api_mutex_);
    VARVE_TRY(check_open(what));
  }
  // Without the mutex: other threads may go on checkpointing. close() in another thread resolves what is in flight.
  writer_->wait_resolved();
  if (auto error = writer_->take_failure(BackgroundWriter::Failure::first)) return *error;
  return {};
}

Result<std::vector<ImageInfo>> EngineImplementation::images() {
  const auto what = fmt::format("listing of the images of store {}", options_.store);
  VARVE_TRY(check_process(what));
  MutexLock lock(api_mutex_);
  VARVE_TRY(check_open(what));
  VARVE_TRY(store_->refresh());
  std::vector<ImageInfo> infos;
  for (const auto& summary : store_->images()) infos.push_back(to_image_info(summary));
  return infos;
}

void EngineImplementation::set_hooks(Hooks hooks) {
  if (!owner_.is_this()) return;
  MutexLock lock(api_mutex_);
  hooks_ = std::move(hooks);
}

Choices EngineImplementation::choices() {
  if (!owner_.is_this()) return {};
  MutexLock lock(api_mutex_);
  std::vector<const tracker::Tracking*> trackings;
  const bool tracked = !restoring_lazily();
  for (const auto& [name, region] : regions_.all())
    if (tracked && region->tracking != nullptr) trackings.push_back(region->tracking.get());
  Choices choices;
  choices.tracker = describe_tracker(wanted_, trackings);
  choices.capture = capturer_ == nullptr ? "closed" : capturer_->describe();
  choices.io = io_description_;
  choices.file_system = file_system_.type;
  return choices;
}

MemoryUse EngineImplementation::memory_use() {
  if (!owner_.is_this()) return {};
  MutexLock lock(api_mutex_);
  if (closed_) return {};
  MemoryUse use;
  use.staging_bytes = capturer_->staging_bytes();
  const auto statistics = store_->statistics();
  use.index_bytes = statistics.index_bytes;
  use.indexed_chunks = statistics.indexed_chunks;
  use.other_bytes = statistics.writer_bytes + writer_->memory_bytes() + spans_.capacity() * sizeof(MemorySpan) +
                    chunks_.capacity() * sizeof(ChunkRange);
  for (const auto& [name, region] : regions_.all())
    use.other_bytes += sizeof(Region) + region->grid.count() * sizeof(storage::ChunkName);  // committed names
  return use;
}

MaintenanceStatus EngineImplementation::maintenance() {
  if (!owner_.is_this()) return {};
  MutexLock lock(api_mutex_);
  return closed_ ? last_maintenance_ : maintenance_->status();
}

Status EngineImplementation::close() {
  const auto what = fmt::format("closing of the engine of chain '{}'", options_.chain);
  VARVE_TRY(check_process(what));
  MutexLock lock(api_mutex_);
  VARVE_TRY(check_open(what));
  const Status restored = end_lazy();
  closed_ = true;
  writer_->stop(BackgroundWriter::Stop::finish);
  const auto failure = writer_->take_failure(BackgroundWriter::Failure::last);
  regions_.clear();  // ends the tracking: nothing is protected from here on
  maintenance_->finish(image_writer_->line().parent);
  last_maintenance_ = maintenance_->status();
  maintenance_.reset();
  const auto sealed = chain_->close();
  chain_.reset();
  store_.reset();
  capturer_.reset();
  if (failure.has_value()) return *failure;
  if (!restored) return restored.error();
  return sealed;
}

}  // namespace varve
