// SPDX-License-Identifier: Apache-2.0
//
// What capturing costs within the stall: a part of 1 GiB in one run or in scattered pages, into warm staging, beside
// the floor (one memcpy of the same pages into memory that is warm as well), and the fork of a process of that size.
//
// Arguments: per mille of the pages; 1: scattered.
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include <benchmark/benchmark.h>

#include "base/clock.h"
#include "base/huge_memory.h"
#include "engine/capture_tuning.h"
#include "engine/staging.h"

namespace varve {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kPages = 262'144;

/// 1 GiB of small pages, as most programs have them.
std::byte* memory() {
  static std::byte* const the_memory = [] {
    void* const mapped = mmap(nullptr, kPages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(mapped, kPages * kPage, MADV_NOHUGEPAGE);
    std::memset(mapped, 1, kPages * kPage);
    return static_cast<std::byte*>(mapped);
  }();
  return the_memory;
}

std::vector<MemorySpan> spans_of(const benchmark::State& state) {
  const auto pages = kPages * static_cast<std::size_t>(state.range(0)) / 1000;
  const auto grid = reinterpret_cast<std::uintptr_t>(memory());
  if (state.range(1) == 0) return {{0, memory(), pages * kPage, grid, true}};
  std::vector<std::size_t> all(kPages);
  for (std::size_t i = 0; i < kPages; ++i) all[i] = i;
  std::shuffle(all.begin(), all.end(), std::mt19937_64(1));
  all.resize(pages);
  std::sort(all.begin(), all.end());
  std::vector<MemorySpan> spans;
  for (const std::size_t page : all) {
    const std::byte* const begin = memory() + page * kPage;
    if (!spans.empty() && spans.back().begin + spans.back().bytes == begin) {
      spans.back().bytes += kPage;
    } else {
      spans.push_back({0, begin, kPage, grid, true});
    }
  }
  return spans;
}

std::size_t bytes_of(const std::vector<MemorySpan>& spans) {
  std::size_t bytes = 0;
  for (const auto& span : spans) bytes += span.bytes;
  return bytes;
}

/// The program between two cuts: writes something in each suspect page.
void write_suspects(const std::vector<MemorySpan>& spans) {
  for (const auto& span : spans)
    for (std::size_t at = 0; at < span.bytes; at += 64) const_cast<std::byte*>(span.begin)[at] ^= std::byte{1};
}

void finish(benchmark::State& state, std::size_t bytes) {
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations()) * static_cast<std::int64_t>(bytes));
}

std::unique_ptr<Capturer> make(Capture wanted, std::size_t staging_bytes) {
  CapturerOptions options;
  options.wanted = wanted;
  options.staging_bytes = staging_bytes;
  CaptureTuning tuning;
  tuning.first_bytes = staging_bytes;
  auto made = create_capturer(options, tuning);
  return made ? std::move(made).value() : nullptr;
}

/// As the background does: reads every line once, from another processor than the one that copied, as a rule.
double read_all(CaptureStream& stream) {
  const std::uint64_t begin = monotonic_ns();
  std::uint64_t sum = 0;
  for (auto piece = stream.next(); piece && piece->has_value(); piece = stream.next()) {
    const auto content = (*piece)->content;
    for (std::size_t at = 0; at + 64 <= content.size(); at += 64) sum += static_cast<std::uint64_t>(content[at]);
  }
  benchmark::DoNotOptimize(sum);
  return static_cast<double>(monotonic_ns() - begin);
}

void floor_memcpy(benchmark::State& state) {
  const auto spans = spans_of(state);
  const std::size_t bytes = bytes_of(spans);
  const std::size_t mapped = (bytes + kExtentBytes) / kExtentBytes * kExtentBytes;
  std::byte* const to = map_huge(mapped, PROT_READ | PROT_WRITE);
  if (to == nullptr || !populate(to, mapped)) return state.SkipWithError("no memory");
  for (auto _ : state) {
    write_suspects(spans);
    const std::uint64_t begin = monotonic_ns();
    std::size_t at = 0;
    for (const auto& span : spans) {
      std::memcpy(to + at, span.begin, span.bytes);
      at += span.bytes;
    }
    state.SetIterationTime(static_cast<double>(monotonic_ns() - begin) / 1e9);
  }
  munmap(to, mapped);
  finish(state, bytes);
}

void capture_copy(benchmark::State& state) {
  const auto spans = spans_of(state);
  const std::size_t bytes = bytes_of(spans);
  const auto capturer = make(Capture::copy, bytes + bytes / 16 + 8 * kExtentBytes);
  if (capturer == nullptr) return state.SkipWithError("no capturer");
  double read_ns = 0;
  for (auto _ : state) {
    write_suspects(spans);
    const auto stream = capturer->make_stream();
    const std::uint64_t begin = monotonic_ns();
    const auto outcome = capturer->capture(spans, *stream);
    state.SetIterationTime(static_cast<double>(monotonic_ns() - begin) / 1e9);
    if (!outcome || outcome->waited_ns > 0) return state.SkipWithError("it waited");
    std::thread([&] { read_ns += read_all(*stream); }).join();
  }
  state.counters["read_ms"] = read_ns / 1e6 / static_cast<double>(state.iterations());
  finish(state, bytes);
}

void capture_fork(benchmark::State& state) {
  const auto spans = spans_of(state);
  const auto capturer = make(Capture::fork, 4 * kExtentBytes);
  if (capturer == nullptr) return state.SkipWithError("fork does not work here");
  double faults_ns = 0;
  for (auto _ : state) {
    const auto stream = capturer->make_stream();
    const std::uint64_t begin = monotonic_ns();
    const auto outcome = capturer->capture(spans, *stream);
    const std::uint64_t end = monotonic_ns();
    state.SetIterationTime(static_cast<double>(end - begin) / 1e9);
    if (!outcome) return state.SkipWithError("capture failed");
    write_suspects(spans);  // while the holder lives
    faults_ns += static_cast<double>(monotonic_ns() - end);
  }
  const double pages = static_cast<double>(bytes_of(spans)) / kPage * static_cast<double>(state.iterations());
  state.counters["rewrite_ns_per_page"] = faults_ns / pages;
}

void read_holder(benchmark::State& state) {
  const auto spans = spans_of(state);
  const auto capturer = make(Capture::fork, 4 * kExtentBytes);
  if (capturer == nullptr) return state.SkipWithError("fork does not work here");
  for (auto _ : state) {
    const auto stream = capturer->make_stream();
    if (!capturer->capture(spans, *stream)) return state.SkipWithError("capture failed");
    const std::uint64_t begin = monotonic_ns();
    while (true) {
      const auto piece = stream->next();
      if (!piece) return state.SkipWithError("reading failed");
      if (!piece->has_value()) break;
    }
    state.SetIterationTime(static_cast<double>(monotonic_ns() - begin) / 1e9);
  }
  finish(state, bytes_of(spans));
}

void parts(benchmark::internal::Benchmark* bench) {
  for (const int per_mille : {1, 10, 30, 100, 1000})
    for (const int scattered : {0, 1})
      if (per_mille < 1000 || scattered == 0) bench->Args({per_mille, scattered});
  bench->UseManualTime()->Unit(benchmark::kMillisecond)->MinTime(0.3);
}

BENCHMARK(floor_memcpy)->Apply(parts);
BENCHMARK(capture_copy)->Apply(parts);
BENCHMARK(read_holder)->Args({100, 0})->Args({100, 1})->UseManualTime()->Unit(benchmark::kMillisecond)->Iterations(5);
BENCHMARK(capture_fork)->Args({10, 1})->UseManualTime()->Unit(benchmark::kMillisecond)->Iterations(5);

}  // namespace
}  // namespace varve
