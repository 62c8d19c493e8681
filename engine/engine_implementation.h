// SPDX-License-Identifier: Apache-2.0
//
// EngineImplementation: what stands behind varve::Engine. It joins the layers:
//
//     checkpoint():  tracker (which pages?) -> capturer (keep them) -> ImageJob -> background writer -> store
//     restore():     chain (what does the image hold?) -> store -> memory
//
// Locks, in the order in which they may be taken: api_mutex_ (regions, hooks, cuts, restores: one call at a time),
// cooling_mutex_ (the background touches a region's memory), then those inside the writer, the store and the tracker.
// The writer's state (committed names, the line) is read and set here only while the writer is idle.
//
// While a lazy restore streams, the tracking and committed names of all regions are its thread's: calls that use them
// settle() first. That thread never takes api_mutex_, since such a call waits for it.
//
// Divided over engine_implementation.cc (opening, closing, regions), cut.cc (checkpoint), restore.cc and
// restore_lazily.cc.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/mutex.h"
#include "engine/background_writer.h"
#include "engine/capture.h"
#include "engine/capture_tuning.h"
#include "engine/chain.h"
#include "engine/choices.h"
#include "engine/cooler.h"
#include "engine/fallback.h"
#include "engine/lazy_restore.h"
#include "engine/maintenance.h"
#include "engine/region.h"
#include "engine/region_filler.h"
#include "storage/fork_guard.h"
#include "storage/pace.h"
#include "storage/store.h"
#include "varve/engine.h"

namespace varve {

class EngineImplementation {
 public:
  static Result<std::unique_ptr<EngineImplementation>> open(const Options& options);
  /// The same over an Io of the caller's: tests use the simulated one. `options.store` is for messages only.
  static Result<std::unique_ptr<EngineImplementation>> open(const Options& options, std::unique_ptr<storage::Io> io,
                                                            const CaptureTuning& tuning = {});
  /// Like a kill: drops what is not committed, seals nothing.
  ~EngineImplementation();

  Status protect(std::string_view name, void* address, std::size_t bytes, const RegionOptions& options);
  Status unprotect(std::string_view name);
  Status exclude(std::string_view name, std::size_t offset, std::size_t bytes);
  Status touch(const void* address, std::size_t bytes);
  Result<Ticket> checkpoint(const CheckpointOptions& options);
  Status wait();
  /// For tests: until nothing is done in the background any more, the cooling behind the last image included.
  void wait_idle() { writer_->wait_idle(); }
  Result<bool> restore_if_any(const RestoreOptions& options = {});
  Result<ImageInfo> restore(std::string_view image, const RestoreOptions& options = {});
  Status wait_restored();
  LazyStatus lazy_status();
  Result<std::vector<ImageInfo>> images();
  void set_hooks(Hooks hooks);
  Choices choices();
  MemoryUse memory_use();
  MaintenanceStatus maintenance();
  Status close();

  /// False in a child that the program forked: nothing may be touched there, not even by the destructor.
  bool in_owner_process() const { return owner_.is_this(); }

 private:
  EngineImplementation(const Options& options, Wanted wanted);

  Status start(std::unique_ptr<storage::Io> io, const CaptureTuning& tuning);
  /// Whether calls make sense: not in a forked child, not after close().
  Status check_process(std::string_view what) const;
  Status check_open(std::string_view what) VARVE_REQUIRES(api_mutex_);

  // cut.cc
  struct Cut;
  Status check_checkpoint(const CheckpointOptions& options, const std::string& what) VARVE_REQUIRES(api_mutex_);
  Status check_new_label(const std::string& label, const std::string& what) VARVE_REQUIRES(api_mutex_);
  Result<Ticket> cut(const CheckpointOptions& options, std::uint64_t begin_ns) VARVE_REQUIRES(api_mutex_);
  /// Empty: behind, and the options say what to do about it.
  Result<std::optional<Ticket>> cut_and_capture(const CheckpointOptions& options, std::uint64_t begin_ns, Cut& cut)
      VARVE_REQUIRES(api_mutex_);
  /// After a failed image: the program may have changed its mappings since protect().
  void look_at_mappings_again() VARVE_REQUIRES(api_mutex_);
  Status list_suspects(ImageJob& job) VARVE_REQUIRES(api_mutex_);
  Result<Ticket> behind(const std::string& cause, const std::string& remedy) VARVE_REQUIRES(api_mutex_);
  /// Empty: go on. A cut needs all of its regions in place.
  Result<std::optional<Ticket>> await_lazy() VARVE_REQUIRES(api_mutex_);
  std::string next_image() const VARVE_REQUIRES(api_mutex_);

  // restore.cc
  Status drain() VARVE_REQUIRES(api_mutex_);
  static Status check_restore(const RestoreOptions& options, const std::string& what);
  Result<ImageInfo> restore_image(const ImageName& image, const RestoreOptions& options) VARVE_REQUIRES(api_mutex_);
  /// `image`, or the newest older one that is good.
  Result<ImageInfo> fall_back(Fallback& fallback, Result<ImageName> image, const RestoreOptions& options)
      VARVE_REQUIRES(api_mutex_);
  Status check_machine(const ResolvedImage& resolved) const;
  Status match_regions(const ResolvedImage& resolved) VARVE_REQUIRES(api_mutex_);
  Status fill_regions(const std::shared_ptr<const ResolvedImage>& resolved, const RestoreOptions& options)
      VARVE_REQUIRES(api_mutex_);
  Result<std::vector<ChunkRange>> chunks_to_fill(Region& region, const storage::RegionRecord& record)
      VARVE_REQUIRES(api_mutex_);
  /// The next image builds on the restored one; what is restored eagerly is adopted at once.
  void adopt_restored(const std::shared_ptr<const ResolvedImage>& resolved) VARVE_REQUIRES(api_mutex_);
  /// The region was given what the record says. `own`: the next image may build on it.
  void adopt_region(Region& region, const storage::RegionRecord& record, bool own, Cooler::Content content);

  // restore_lazily.cc
  /// Null, and the status says why: restore eagerly.
  std::unique_ptr<LazyRestore> open_lazily(const std::shared_ptr<const ResolvedImage>& resolved)
      VARVE_REQUIRES(api_mutex_);
  /// Leaves to it what it takes of the targets' regions, and of the targets what it does not.
  void take_lazily(LazyRestore& lazily, std::vector<FillTarget>& targets) VARVE_REQUIRES(api_mutex_);
  std::shared_ptr<LazyRestore> lazy() VARVE_EXCLUDES(lazy_mutex_);
  void set_lazy(std::unique_ptr<LazyRestore> lazily) VARVE_EXCLUDES(lazy_mutex_);
  /// It is over; the status keeps its figures.
  void retire_lazy() VARVE_EXCLUDES(lazy_mutex_);
  /// Whether regions belong to a lazy restore now.
  bool restoring_lazily() VARVE_EXCLUDES(lazy_mutex_);
  /// Waits until regions are the engine's again; the error of what could not be read.
  Status settle() VARVE_REQUIRES(api_mutex_);
  /// The same where that error is somebody else's to tell.
  void settle_anyhow() VARVE_REQUIRES(api_mutex_) { [[maybe_unused]] const Status settled = settle(); }
  /// Gives up a lazy restore, as its regions are to be restored anew.
  Status abandon_lazy() VARVE_REQUIRES(api_mutex_);
  /// The end of the engine: waits, and makes inaccessible what could not be read.
  Status end_lazy() VARVE_REQUIRES(api_mutex_);
  /// Tracks a region anew, where it has no tracking and should have.
  Status track_again(Region& region) const;

  const Options options_;
  const Wanted wanted_;
  const storage::OwnerProcess owner_;
  const int background_niceness_;
  std::string io_description_;  // these three are set once, by start()
  storage::FileSystemTraits file_system_;
  std::shared_ptr<storage::Pace> pace_;  // of what is written; null: unbounded

  Mutex api_mutex_;
  Mutex lazy_mutex_;  // taken last, for an instant
  Mutex cooling_mutex_;
  std::atomic<std::uint64_t> newest_epoch_{0};

  std::unique_ptr<storage::Store> store_;
  std::unique_ptr<storage::ChainWriter> chain_;
  std::shared_ptr<Capturer> capturer_;
  std::unique_ptr<ImageWriter> image_writer_;
  std::unique_ptr<Maintenance> maintenance_;
  std::unique_ptr<Cooler> cooler_;
  std::unique_ptr<BackgroundWriter> writer_;

  RegionTable regions_ VARVE_GUARDED_BY(api_mutex_);
  Hooks hooks_ VARVE_GUARDED_BY(api_mutex_);
  std::uint64_t last_number_ VARVE_GUARDED_BY(api_mutex_) = 0;
  std::uint64_t failures_seen_ VARVE_GUARDED_BY(api_mutex_) = 0;  // of the writer's failed images
  std::string half_restored_ VARVE_GUARDED_BY(api_mutex_);        // the image whose restore failed half-way; else empty
  std::vector<MemorySpan> spans_ VARVE_GUARDED_BY(api_mutex_);    // kept from cut to cut, so that none allocates
  std::vector<ChunkRange> chunks_ VARVE_GUARDED_BY(api_mutex_);   // likewise
  MaintenanceStatus last_maintenance_ VARVE_GUARDED_BY(api_mutex_);  // as close() left it
  std::shared_ptr<LazyRestore> lazy_ VARVE_GUARDED_BY(lazy_mutex_);  // set under api_mutex_, too
  LazyStatus lazy_status_ VARVE_GUARDED_BY(lazy_mutex_);             // what does not change while it streams
  bool closed_ VARVE_GUARDED_BY(api_mutex_) = false;
};

/// The public form of a summary.
ImageInfo to_image_info(const storage::ImageSummary& summary);

}  // namespace varve
