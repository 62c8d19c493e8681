// SPDX-License-Identifier: Apache-2.0
//
// The whole engine on small things: how long the smallest delta takes to become durable, next to the least that a disk
// could take; and restoring in place.
#include <fcntl.h>
#include <unistd.h>

#include <cstring>

#include "base/unique_fd.h"
#include "bench/bench_support.h"
#include "varve/varve.h"

namespace varve::bench {
namespace {

Options options_for(const std::string& store) {
  Options options;
  options.store = store;
  options.staging_bytes = std::size_t{64} << 20;
  return options;
}

// One page of 16 MiB is changed, checkpoint({.sync}).
void BM_TinyDelta(benchmark::State& state) {
  DiskDirectory directory;
  const Memory memory(std::size_t{16} << 20, Data::random);
  auto engine = Engine::open(options_for(directory / "store"));
  if (!good(state, engine)) return;
  if (!good(state, engine->protect("memory", memory.bytes().data(), memory.bytes().size()))) return;
  CheckpointOptions sync;
  sync.sync = true;
  if (!good(state, engine->checkpoint(sync))) return;
  std::uint64_t round = 0, written = 0;
  for (auto _ : state) {
    ++round;
    std::memcpy(memory.page(2).data(), &round, sizeof round);
    const auto ticket = engine->checkpoint(sync);
    if (!good(state, ticket)) break;
    const auto image = ticket->wait();
    if (!good(state, image)) break;
    written += image->written_bytes;
  }
  state.counters["written_bytes"] =
      benchmark::Counter(static_cast<double>(written), benchmark::Counter::kAvgIterations);
  state.SetLabel(engine->choices().io + ", " + engine->choices().file_system);
  good(state, engine->close());
}
BENCHMARK(BM_TinyDelta)->Unit(benchmark::kMicrosecond)->UseRealTime();

// The floor of the above: one 4 KiB write past the page cache and fdatasync(2), into a preallocated file.
void BM_DirectWriteAndFlush(benchmark::State& state) {
  DiskDirectory directory;
  const std::string path = directory / "file";
  constexpr off_t kLength = off_t{1} << 30;  // not written twice: the first write of an extent costs more
  int flags = O_WRONLY | O_CREAT | O_CLOEXEC | O_DIRECT;
  UniqueFd fd(open(path.c_str(), flags, 0600));
  if (!fd.valid()) fd.reset(open(path.c_str(), flags & ~O_DIRECT, 0600));
  if (!fd.valid() || fallocate(fd.get(), 0, 0, kLength) != 0 || fdatasync(fd.get()) != 0) {
    state.SkipWithError("no file that can be preallocated there");
    return;
  }
  const Memory memory(4096, Data::random);
  off_t at = 0;
  for (auto _ : state) {
    if (pwrite(fd.get(), memory.bytes().data(), 4096, at) != 4096 || fdatasync(fd.get()) != 0) {
      state.SkipWithError("write failed");
      break;
    }
    at = (at + 4096) % kLength;
  }
}
BENCHMARK(BM_DirectWriteAndFlush)->Unit(benchmark::kMicrosecond)->UseRealTime();

void BM_RestoreInPlace(benchmark::State& state) {
  DiskDirectory directory;
  const auto data = static_cast<Data>(state.range(0));
  const Memory memory(std::size_t{64} << 20, data);
  auto engine = Engine::open(options_for(directory / "store"));
  if (!good(state, engine)) return;
  RegionOptions region;
  region.element_bytes = element_bytes(data);
  if (!good(state, engine->protect("memory", memory.bytes().data(), memory.bytes().size(), region))) return;
  CheckpointOptions sync;
  sync.sync = true;
  if (!good(state, engine->checkpoint(sync))) return;
  for (auto _ : state)
    if (!good(state, engine->restore("latest"))) break;
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(memory.bytes().size()));
  state.SetLabel(name_of(data));
  good(state, engine->close());
}
BENCHMARK(BM_RestoreInPlace)
    ->Arg(static_cast<int>(Data::random))
    ->Arg(static_cast<int>(Data::particles))
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

}  // namespace
}  // namespace varve::bench
