// SPDX-License-Identifier: Apache-2.0
#include "engine/capture.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "base/bytes.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/fault_point.h"
#include "base/log.h"
#include "base/os_error.h"
#include "base/try.h"
#include "engine/capture_copier.h"
#include "engine/capture_cost.h"
#include "engine/capture_stream.h"
#include "engine/capture_tuning.h"
#include "engine/fork_holder.h"
#include "engine/live_reader.h"
#include "engine/staging.h"
#include "engine/staging_limit.h"

namespace varve {
namespace {

constexpr std::uint64_t kFirstBytes = std::uint64_t{64} << 20;
constexpr std::uint64_t kBoundWhenUnknown = std::uint64_t{256} << 20;
// A fork at the start is for measuring; in a process of more memory than this the first real one has to do.
constexpr std::uint64_t kProbePages = std::uint64_t{32} << 10;
constexpr std::uint32_t kMostCutsWithoutFork = 64;

class StagingCapturer final : public Capturer {
 public:
  StagingCapturer(const CapturerOptions& options, const CaptureTuning& tuning, std::shared_ptr<StagingPool> pool)
      : wanted_(options.wanted),
        chunk_bytes_(options.chunk_bytes),
        pool_(std::move(pool)),
        costs_(std::make_shared<CaptureCostModel>(tuning.costs.value_or(CaptureCosts{}))),
        costs_are_given_(tuning.costs.has_value()),
        holders_(options.chunk_bytes, options.niceness) {}

  Status measure();

  std::shared_ptr<CaptureStream> make_stream() override { return std::make_shared<StagedStream>(pool_, costs_); }
  Result<CaptureOutcome> capture(std::span<const MemorySpan> spans, CaptureStream& stream,
                                 std::unique_ptr<LiveReader> live) override;
  bool fits(std::uint64_t bytes) override { return wanted_ != Capture::fork && bytes <= pool_->warm_room_bytes(); }
  bool would_wait(std::uint64_t bytes) override;
  void expect(std::uint64_t bytes) override {
    if (wanted_ != Capture::fork) pool_->expect(bytes);
  }
  bool warm_up(std::uint64_t budget_ns) override { return pool_->warm_up(budget_ns); }
  std::uint64_t staging_bytes() const override { return pool_->warm_bytes() + holders_.shared_bytes(); }
  CaptureCosts costs() const override { return costs_->costs(); }
  std::string describe() const override;

 private:
  CaptureChoice choose(const CutSize& cut);
  void measure_copy();
  Status measure_fork();
  void copy(std::span<const MemorySpan> spans, bool all, std::uint64_t bytes, StagedStream& stream,
            CaptureOutcome& outcome);
  std::unique_ptr<ForkHolder> fork(std::span<const MemorySpan> spans, LiveReader* live, CaptureOutcome& outcome);

  const Capture wanted_;
  const std::uint32_t chunk_bytes_;
  const std::shared_ptr<StagingPool> pool_;
  const std::shared_ptr<CaptureCostModel> costs_;
  const bool costs_are_given_;
  ForkHolders holders_;
  // After a fork that failed, so many cuts do without; doubled each time, since failing costs time too.
  std::uint32_t cuts_without_fork_ = 0;
  std::uint32_t next_cuts_without_fork_ = 1;
};

Status StagingCapturer::measure() {
  if (!costs_are_given_) measure_copy();
  if (wanted_ == Capture::copy) return {};
  if (wanted_ == Capture::automatic && (costs_are_given_ || resident_pages() > kProbePages)) return {};
  const Status forked = measure_fork();
  if (forked || wanted_ == Capture::automatic) return {};
  return fail(ErrorCode::unsupported, {"capture by fork was asked for and does not work here", forked.error().cause(),
                                       "choose capture 'copy', or leave the choice to the engine"});
}

/// Copies between the first two extents, which are warm.
void StagingCapturer::measure_copy() {
  StagingStall stall;
  const Extent from = pool_->acquire(stall);
  const Extent to = pool_->acquire(stall);
  for (int round = 0; round < 4; ++round) {
    const std::uint64_t begin = monotonic_ns();
    std::memcpy(to.memory, from.memory, kExtentBytes);
    costs_->copied(kExtentBytes, monotonic_ns() - begin);
  }
  pool_->release(to);
  pool_->release(from);
}

/// One real fork, read by one real reading: shows that it works, what it costs, and what copy-on-write costs after it.
Status StagingCapturer::measure_fork() {
  constexpr std::size_t kPages = 32;
  constexpr std::size_t kPageBytes = 4096;
  void* const mapped = mmap(nullptr, kPages * kPageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return os_error("capture by fork could not be tried", errno);
  auto* const memory = static_cast<volatile std::byte*>(mapped);
  for (std::size_t page = 0; page < kPages; ++page) memory[page * kPageBytes] = std::byte{1};
  const MemorySpan span{0, static_cast<const std::byte*>(mapped), kPages * kPageBytes,
                        reinterpret_cast<std::uintptr_t>(mapped), true};
  const std::uint64_t resident = resident_pages();
  Status status;
  if (auto holder = holders_.start({span})) {
    const std::uint64_t begin = monotonic_ns();
    for (std::size_t page = 0; page < kPages; ++page) memory[page * kPageBytes] = std::byte{2};
    if (!costs_are_given_) {
      costs_->faulted(kPages, monotonic_ns() - begin);
      costs_->forked(resident, holder.value()->clone_ns());
    }
    status = holder.value()->ask({span});
    auto extent = status ? holder.value()->next() : Result<std::optional<Extent>>(status.error());
    if (!extent) {
      status = extent.error();
    } else {
      const Extent& read = extent.value().value();
      VARVE_CHECK(read.memory[read.record(0)->offset] == std::byte{1});
    }
  } else {
    status = holder.error();
  }
  munmap(mapped, kPages * kPageBytes);
  return status;
}

CaptureChoice StagingCapturer::choose(const CutSize& cut) {
  if (wanted_ == Capture::copy) return {false, "copy: asked for"};
  if (wanted_ == Capture::fork) {
    if (cut.forkable_bytes == 0) return {false, "copy: none of the suspects is private memory, which fork could hold"};
    return {true, "fork: asked for"};
  }
  if (!costs_->fork_may_win(cut)) return costs_->copy_because(cut);
  if (cuts_without_fork_ > 0) {
    --cuts_without_fork_;
    return costs_->copy_because(cut, "fork " + holders_.describe());
  }
  return costs_->choose(cut, resident_pages());
}

Result<CaptureOutcome> StagingCapturer::capture(std::span<const MemorySpan> spans, CaptureStream& stream,
                                                std::unique_ptr<LiveReader> live) {
  auto& staged = static_cast<StagedStream&>(stream);  // make_stream() makes no others
  CutSize cut;
  for (const MemorySpan& span : spans) (span.fork_holds_it ? cut.forkable_bytes : cut.other_bytes) += span.bytes;
  cut.room_bytes = pool_->room_bytes();
  CaptureOutcome outcome;
  CaptureChoice choice = choose(cut);
  outcome.why = std::move(choice.why);
  std::unique_ptr<ForkHolder> holder;
  if (choice.fork) {
    if (cut.other_bytes > 0) copy(spans, false, cut.other_bytes, staged, outcome);
    holder = fork(spans, live.get(), outcome);
    VARVE_FAULT_POINT(capture_half);
  }
  if (choice.fork && holder == nullptr) {
    // Regions that had to be copied anyway are in the stream already; the others follow.
    std::vector<MemorySpan> rest;
    std::copy_if(spans.begin(), spans.end(), std::back_inserter(rest),
                 [](const auto& span) { return span.fork_holds_it; });
    copy(rest, true, cut.forkable_bytes, staged, outcome);
  } else if (!choice.fork) {
    copy(spans, true, cut.total_bytes(), staged, outcome);
  }
  staged.finish(std::move(holder), std::move(live));
  return outcome;
}

void StagingCapturer::copy(std::span<const MemorySpan> spans, bool all, std::uint64_t bytes, StagedStream& stream,
                           CaptureOutcome& outcome) {
  pool_->begin_cut(bytes);
  const std::uint64_t begin = monotonic_ns();
  Copier copier(*pool_, stream, chunk_bytes_, bytes);
  for (const MemorySpan& span : spans)
    if (all || !span.fork_holds_it) copier.copy(span);
  const StagingStall stall = copier.finish();
  const std::uint64_t ns = monotonic_ns() - begin;
  const std::uint64_t copy_ns = ns - std::min(ns, stall.waited_ns + stall.grown_ns);
  costs_->copied(bytes, copy_ns);
  outcome.copied_bytes += bytes;
  outcome.copy_ns += copy_ns;
  outcome.waited_ns += stall.waited_ns;
  if (stall.grown_ns > 0)
    outcome.why += fmt::format("; staging grew for {:.1f} ms", static_cast<double>(stall.grown_ns) / 1e6);
}

std::unique_ptr<ForkHolder> StagingCapturer::fork(std::span<const MemorySpan> spans, LiveReader* live,
                                                  CaptureOutcome& outcome) {
  std::vector<MemorySpan> held;
  held.reserve(spans.size());
  std::uint64_t bytes = 0;
  for (const MemorySpan& span : spans) {
    if (!span.fork_holds_it) continue;
    held.push_back(span);
    bytes += span.bytes;
  }
  const std::uint64_t resident = resident_pages();
  const std::uint64_t begin = monotonic_ns();
  if (live != nullptr) live->expect_fork(held);
  const std::uint64_t expected_ns = monotonic_ns() - begin;
  auto holder = holders_.start(std::move(held));
  if (!holder) {
    cuts_without_fork_ = next_cuts_without_fork_;
    next_cuts_without_fork_ = std::min(next_cuts_without_fork_ * 2, kMostCutsWithoutFork);
    outcome.why = "copy: " + holder.error().message();
    log::warn_once("engine", "capturing by copy: " + holder.error().message());
    return nullptr;
  }
  next_cuts_without_fork_ = 1;
  if (!costs_are_given_) costs_->forked(resident, expected_ns + holder.value()->clone_ns());
  outcome.forked_bytes += bytes;
  return std::move(holder).value();
}

/// Nothing in flight: the writer is not behind, and a cut larger than the bound would wait however long one waited.
bool StagingCapturer::would_wait(std::uint64_t bytes) {
  CutSize cut;
  cut.forkable_bytes = bytes;
  cut.room_bytes = pool_->room_bytes();
  if (bytes <= cut.room_bytes || !pool_->in_use() || wanted_ == Capture::fork) return false;
  if (wanted_ == Capture::copy || cuts_without_fork_ > 0) return true;
  return !costs_->fork_may_win(cut) || !costs_->choose(cut, resident_pages()).fork;
}

std::string StagingCapturer::describe() const {
  const double rate = costs_->costs().copy_bytes_per_ns;
  switch (wanted_) {
    case Capture::copy: return fmt::format("copy ({:.1f} GB/s)", rate);
    case Capture::fork: return fmt::format("fork ({})", holders_.describe());
    case Capture::automatic: break;
  }
  return fmt::format("auto (copy {:.1f} GB/s, fork {})", rate, holders_.describe());
}

}  // namespace

Result<std::unique_ptr<Capturer>> create_capturer(const CapturerOptions& options, const CaptureTuning& tuning) {
  if (!is_power_of_two(options.chunk_bytes) || options.chunk_bytes < 4096 || options.chunk_bytes > 65536)
    return fail(ErrorCode::invalid_argument,
                {"capture was not set up", fmt::format("a chunk of {} bytes", options.chunk_bytes),
                 "give a power of two from 4 KiB to 64 KiB"});
  std::uint64_t bound = options.staging_bytes;
  if (bound == 0) bound = usable_memory_bytes() / 8;
  if (bound == 0) bound = kBoundWhenUnknown;
  VARVE_TRY_ASSIGN(auto pool, StagingPool::create(bound, std::min(bound, tuning.first_bytes.value_or(kFirstBytes))));
  auto capturer = std::make_unique<StagingCapturer>(options, tuning, std::move(pool));
  VARVE_TRY(capturer->measure());
  return std::unique_ptr<Capturer>(std::move(capturer));
}

Result<CaptureOutcome> Capturer::capture(std::span<const MemorySpan> spans, CaptureStream& stream) {
  return capture(spans, stream, nullptr);
}

Result<std::unique_ptr<Capturer>> Capturer::create(const CapturerOptions& options) {
  return create_capturer(options, {});
}

}  // namespace varve
