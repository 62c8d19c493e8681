// SPDX-License-Identifier: Apache-2.0
//
// Deltas stored with and without differences to what they replace, in turns, on the same data: two stores side by side,
// both on the disk. Counters: `bytes` and `ms` to durable of a delta, `plain_bytes` and `plain_ms` of the same without,
// medians of ms; the arguments are kind of data, favour_size, and how many MB/s a slower disk takes (0: this one).
#include <algorithm>
#include <array>
#include <memory>
#include <vector>

#include "base/clock.h"
#include "bench/bench_support.h"
#include "bench/data_kinds.h"
#include "bench/slow_io.h"
#include "storage/store.h"

namespace varve::bench {
namespace {

constexpr std::size_t kSteps = 12;
constexpr std::size_t kCopies = 4;  // of each kind, told apart by a word in each page: some 32 MiB of memory
constexpr std::size_t kChunk = 4096;

class Side {
 public:
  Status open(const std::string& directory, bool differences, bool favour_size, std::uint64_t bytes_per_second) {
    auto io = storage::open_io(directory, {});
    if (!io) return io.error();
    std::unique_ptr<storage::Io> disk = std::move(*io);
    if (bytes_per_second != 0) disk = std::make_unique<SlowIo>(std::move(disk), bytes_per_second);
    storage::StoreOptions options;
    options.differences = differences;
    options.favour_size = favour_size;
    auto store = storage::Store::open(std::move(disk), options);
    if (!store) return store.error();
    store_ = std::move(*store);
    auto writer = store_->open_chain("main");
    if (!writer) return writer.error();
    writer_ = std::move(*writer);
    return {};
  }

  /// Writes what differs from the image before; counts all but the first.
  Status image(std::span<const std::byte> memory, std::uint64_t number) {
    names_.resize(memory.size() / kChunk);
    storage::Manifest manifest;
    manifest.chain = "main";
    manifest.number = number;
    manifest.parent = number - 1;
    manifest.kind = number == 1 ? storage::ImageKind::full : storage::ImageKind::delta;
    manifest.architecture = "bench";
    manifest.page_bytes = manifest.chunk_bytes = kChunk;
    storage::RegionRecord& region = manifest.regions.emplace_back();
    region.name = "memory";
    region.bytes = memory.size();
    region.protection = 3;
    region.complete = number == 1;
    const std::uint64_t begin_ns = monotonic_ns();
    if (auto begun = writer_->begin(); !begun) return begun;
    for (std::size_t i = 0; i < names_.size(); ++i) {
      const auto content = memory.subspan(i * kChunk, kChunk);
      const storage::ChunkName name = store_->name_of(content);
      if (name == names_[i]) continue;
      if (auto added = writer_->add(name, content, 0, names_[i]); !added) return added;
      names_[i] = name;
      region.names.push_back(name);
      if (!region.runs.empty() && region.runs.back().first + region.runs.back().count == i)
        ++region.runs.back().count;
      else
        region.runs.push_back({i, 1, storage::RunKind::named});
    }
    const auto committed = writer_->commit(manifest);
    if (!committed) return committed.error();
    if (number == 1) return {};
    written_ += committed->written_bytes;
    ms_.push_back(static_cast<double>(monotonic_ns() - begin_ns) / 1e6);
    return {};
  }
  double bytes() const { return static_cast<double>(written_) / static_cast<double>(ms_.size()); }
  double ms() {
    std::ranges::sort(ms_);
    return ms_[ms_.size() / 2];
  }

 private:
  std::unique_ptr<storage::Store> store_;
  std::unique_ptr<storage::ChainWriter> writer_;
  std::vector<storage::ChunkName> names_;
  std::uint64_t written_ = 0;
  std::vector<double> ms_;
};

std::vector<std::byte> memory_at(const Kind& kind, std::size_t step) {
  const std::vector<std::byte> one = kind.make(step);
  std::vector<std::byte> all;
  for (std::uint64_t copy = 0; copy < kCopies; ++copy) {
    all.insert(all.end(), one.begin(), one.end());
    for (std::size_t at = all.size() - one.size(); at < all.size(); at += kChunk)
      std::memcpy(all.data() + at, &copy, sizeof copy);
  }
  return all;
}

void BM_Delta(benchmark::State& state) {
  const Kind& kind = kKinds[state.range(0)];
  const bool favour_size = state.range(1) != 0;
  const auto bytes_per_second = static_cast<std::uint64_t>(state.range(2)) * 1'000'000;
  for (auto _ : state) {
    DiskDirectory directory;
    std::array<Side, 2> sides;  // without and with
    for (std::size_t i = 0; i < 2; ++i)
      if (!good(state,
                sides[i].open(directory / (i == 0 ? "plain" : "differing"), i == 1, favour_size, bytes_per_second)))
        return;
    for (std::size_t step = 0; step < kSteps; ++step) {
      const std::vector<std::byte> memory = memory_at(kind, step);
      for (std::size_t turn = 0; turn < 2; ++turn)
        if (!good(state, sides[(step + turn) % 2].image(memory, step + 1))) return;
    }
    state.counters["plain_bytes"] = sides[0].bytes();
    state.counters["plain_ms"] = sides[0].ms();
    state.counters["bytes"] = sides[1].bytes();
    state.counters["ms"] = sides[1].ms();
  }
  state.SetLabel(std::string(kind.name) + (favour_size ? ", favour_size" : "") +
                 (bytes_per_second == 0 ? "" : ", " + std::to_string(state.range(2)) + " MB/s"));
}

void all_deltas(benchmark::internal::Benchmark* benchmark) {
  for (std::int64_t kind = 0; kind < static_cast<std::int64_t>(std::size(kKinds)); ++kind) {
    benchmark->Args({kind, 0, 0});
    benchmark->Args({kind, 0, 200});
    benchmark->Args({kind, 1, 0});
  }
}
BENCHMARK(BM_Delta)->Apply(all_deltas)->Iterations(1)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace varve::bench
