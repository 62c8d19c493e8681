// SPDX-License-Identifier: Apache-2.0
#include "engine/capture.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <functional>
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
        growing_ns_(tuning.growing_ns),
        holders_(options.chunk_bytes, options.niceness) {}

  Status measure();

  std::shared_ptr<CaptureStream> make_stream() override { return std::make_shared<StagedStream>(pool_, costs_); }
  Result<CaptureOutcome> capture(std::span<const MemorySpan> spans, CaptureStream& stream,
                                 std::shared_ptr<LiveReader> live) override;
  bool fits(std::uint64_t bytes) override { return wanted_ != Capture::fork && bytes <= pool_->warm_room_bytes(); }
  bool would_wait(std::uint64_t bytes) override;
  void expect(std::uint64_t bytes) override;
  bool warm_up(std::uint64_t budget_ns) override { return pool_->warm_up(budget_ns); }
  std::uint64_t staging_bytes() const override { return pool_->warm_bytes() + holders_.shared_bytes(); }
  CaptureCosts costs() const override { return costs_->costs(); }
  std::string describe() const override;

 private:
  CaptureChoice choose(const CutSize& cut);
  void measure_copy();
  Status measure_fork();
  CutSize size_of(std::span<const MemorySpan> spans) const;
  std::uint64_t growing_ns(std::uint64_t bytes) const {
    return growing_ns_ ? growing_ns_(bytes) : pool_->growing_ns(bytes);
  }
  /// What is left from where it was told to stop: mostly nothing.
  std::vector<MemorySpan> copy(std::span<const MemorySpan> spans, const Copier::Stop& stop, StagedStream& stream,
                               CaptureOutcome& outcome);
  /// The same, until faulting in staging turns out to cost more than a fork of what is left.
  std::vector<MemorySpan> copy_while_cheaper(std::span<const MemorySpan> spans, StagedStream& stream,
                                             CaptureOutcome& outcome);
  std::unique_ptr<ForkHolder> fork(std::vector<MemorySpan> held, CaptureOutcome& outcome);
  /// Hands over what a fork holds, and ends the stall, in the order that `live` wants.
  void hand_over(std::unique_ptr<ForkHolder> holder, std::shared_ptr<LiveReader> live, StagedStream& stream);

  const Capture wanted_;
  const std::uint32_t chunk_bytes_;
  const std::shared_ptr<StagingPool> pool_;
  const std::shared_ptr<CaptureCostModel> costs_;
  const bool costs_are_given_;
  const std::function<std::uint64_t(std::uint64_t)> growing_ns_;
  ForkHolders holders_;
  std::uint64_t forked_pages_ = 0;  // resident at the last fork
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

/// Copies between warm extents: of some, since what was copied before is in a cache.
void StagingCapturer::measure_copy() {
  constexpr std::size_t kMostPairs = 8;
  std::vector<Extent> extents;
  while (extents.size() < 2 * kMostPairs) {
    const auto extent = pool_->try_acquire();
    if (!extent) break;
    extents.push_back(*extent);
  }
  const std::size_t pairs = extents.size() / 2;
  for (std::size_t i = 0; i < pairs; ++i) {
    const std::uint64_t begin = monotonic_ns();
    std::memcpy(extents[pairs + i].memory, extents[i].memory, kExtentBytes);
    costs_->copied(kExtentBytes, monotonic_ns() - begin);
  }
  for (const Extent& extent : extents) pool_->release(extent);
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

/// Staging is made ready for it, unless a fork would be the cheaper one even then.
void StagingCapturer::expect(std::uint64_t bytes) {
  if (wanted_ == Capture::fork) return;
  const CutSize cut{.forkable_bytes = bytes, .room_bytes = pool_->bound_bytes()};
  if (wanted_ == Capture::automatic && costs_->choose(cut, resident_pages()).fork) return;
  pool_->expect(bytes);
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
                                                std::shared_ptr<LiveReader> live) {
  auto& staged = static_cast<StagedStream&>(stream);  // make_stream() makes no others
  CaptureOutcome outcome;
  CaptureChoice choice = choose(size_of(spans));
  outcome.why = std::move(choice.why);
  std::vector<MemorySpan> left;
  if (!choice.fork) {
    left = copy_while_cheaper(spans, staged, outcome);
    spans = left;
  }
  std::unique_ptr<ForkHolder> holder;
  if (!spans.empty()) {
    const auto only = [spans](bool held) {
      std::vector<MemorySpan> some;
      std::copy_if(spans.begin(), spans.end(), std::back_inserter(some),
                   [held](const MemorySpan& span) { return span.fork_holds_it == held; });
      return some;
    };
    // What must be copied anyway goes into the stream first.
    if (const auto others = only(false); !others.empty()) copy(others, {}, staged, outcome);
    if (auto held = only(true); !held.empty()) holder = fork(std::move(held), outcome);
    VARVE_FAULT_POINT(capture_half);
    if (holder == nullptr) copy(only(true), {}, staged, outcome);
  }
  if (holder == nullptr)
    staged.finish(nullptr, nullptr);
  else
    hand_over(std::move(holder), std::move(live), staged);
  return outcome;
}

void StagingCapturer::hand_over(std::unique_ptr<ForkHolder> holder, std::shared_ptr<LiveReader> live,
                                StagedStream& stream) {
  const std::uint64_t clone_ns = holder->clone_ns();
  const std::uint64_t begin = monotonic_ns();
  if (live != nullptr) live->watch(holder->spans());
  const bool reads_beside = live != nullptr && live->beside() == LiveReader::Beside::reader;
  if (live != nullptr && !reads_beside) live->end_stall();
  stream.finish(std::move(holder), live);
  if (reads_beside) live->end_stall();
  if (!costs_are_given_) costs_->forked(forked_pages_, clone_ns + (monotonic_ns() - begin));
}

CutSize StagingCapturer::size_of(std::span<const MemorySpan> spans) const {
  CutSize cut;
  for (const MemorySpan& span : spans) (span.fork_holds_it ? cut.forkable_bytes : cut.other_bytes) += span.bytes;
  cut.room_bytes = pool_->room_bytes();
  cut.growing_ns = growing_ns(cut.total_bytes());
  return cut;
}

std::vector<MemorySpan> StagingCapturer::copy_while_cheaper(std::span<const MemorySpan> spans, StagedStream& stream,
                                                            CaptureOutcome& outcome) {
  if (wanted_ == Capture::copy || cuts_without_fork_ > 0) return copy(spans, {}, stream, outcome);
  struct Asked {
    std::uint64_t forkable_bytes;
    std::optional<std::uint64_t> resident_pages;  // looked up once
    CaptureChoice choice;
  } asked{size_of(spans).forkable_bytes, {}, {}};
  auto left = copy(
      spans,
      [this, &asked](std::uint64_t left_bytes) {
        CutSize cut;
        cut.forkable_bytes = std::min(left_bytes, asked.forkable_bytes);
        cut.other_bytes = left_bytes - cut.forkable_bytes;
        cut.room_bytes = pool_->room_bytes();
        cut.growing_ns = growing_ns(left_bytes);
        if (!costs_->fork_may_win(cut)) return false;
        if (!asked.resident_pages) asked.resident_pages = resident_pages();
        asked.choice = costs_->choose(cut, *asked.resident_pages);
        return asked.choice.fork;
      },
      stream, outcome);
  if (!left.empty()) outcome.why += "; then " + asked.choice.why;
  return left;
}

std::vector<MemorySpan> StagingCapturer::copy(std::span<const MemorySpan> spans, const Copier::Stop& stop,
                                              StagedStream& stream, CaptureOutcome& outcome) {
  std::uint64_t bytes = 0;
  for (const MemorySpan& span : spans) bytes += span.bytes;
  pool_->begin_cut(bytes);
  const std::uint64_t begin = monotonic_ns();
  Copier copier(*pool_, stream, chunk_bytes_, bytes, stop);
  std::vector<MemorySpan> left;
  for (std::size_t i = 0; i < spans.size() && left.empty(); ++i) {
    const std::size_t done = copier.copy(spans[i]);
    if (done == spans[i].bytes) continue;
    left.assign(spans.begin() + static_cast<std::ptrdiff_t>(i), spans.end());
    left.front().begin += done;
    left.front().bytes -= done;
  }
  const StagingStall stall = copier.finish();
  const std::uint64_t ns = monotonic_ns() - begin;
  const std::uint64_t copy_ns = ns - std::min(ns, stall.waited_ns + stall.grown_ns);
  costs_->copied(copier.copied_bytes(), copy_ns);
  outcome.copied_bytes += copier.copied_bytes();
  outcome.copy_ns += copy_ns;
  outcome.waited_ns += stall.waited_ns;
  if (stall.grown_ns > 0)
    outcome.why += fmt::format("; staging grew for {:.1f} ms", static_cast<double>(stall.grown_ns) / 1e6);
  return left;
}

std::unique_ptr<ForkHolder> StagingCapturer::fork(std::vector<MemorySpan> held, CaptureOutcome& outcome) {
  std::uint64_t bytes = 0;
  for (const MemorySpan& span : held) bytes += span.bytes;
  forked_pages_ = resident_pages();
  auto holder = holders_.start(std::move(held));
  if (!holder) {
    cuts_without_fork_ = next_cuts_without_fork_;
    next_cuts_without_fork_ = std::min(next_cuts_without_fork_ * 2, kMostCutsWithoutFork);
    outcome.why = "copy: " + holder.error().message();
    log::warn_once("engine", "capturing by copy: " + holder.error().message());
    return nullptr;
  }
  next_cuts_without_fork_ = 1;
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
