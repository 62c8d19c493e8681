// SPDX-License-Identifier: Apache-2.0
//
// Sequential writing as a store does it: 512 KiB a piece by O_DIRECT into a preallocated file, several in flight, then
// one sync; both back ends, by queue depth. And random reads of 64 KiB, by several threads. The files lie
// in $TMPDIR or /var/tmp.
#include <stdlib.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include <benchmark/benchmark.h>

#include "storage/aligned_buffer.h"
#include "storage/io.h"

namespace varve::storage {
namespace {

constexpr std::size_t kPiece = std::size_t{512} << 10;
constexpr std::size_t kFileBytes = std::size_t{512} << 20;
constexpr std::size_t kReadBytes = std::size_t{64} << 10;

class BenchDirectory {
 public:
  BenchDirectory() {
    const char* parent = std::getenv("TMPDIR");
    path_ = std::string(parent != nullptr ? parent : "/var/tmp") + "/varve-io-bench-XXXXXX";
    if (mkdtemp(path_.data()) == nullptr) std::abort();
  }
  ~BenchDirectory() {
    std::error_code ignored;  // left for the user to look at, then
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

/// Empty when this back end does not work here.
std::unique_ptr<Io> open_bench(benchmark::State& state, const std::string& directory) {
  IoOptions options;
  options.kind = state.range(0) == 0 ? IoKind::uring : IoKind::posix;
  options.queue_depth = static_cast<unsigned>(state.range(1));
  Result<std::unique_ptr<Io>> io = open_io(directory, options);
  if (!io) {
    state.SkipWithError(io.error().message().c_str());
    return nullptr;
  }
  state.SetLabel(std::string(to_string((*io)->kind())) + " on " + (*io)->file_system().value().type);
  return std::move(io).value();
}

Status write_file(File& file, const AlignedBuffer& buffer) {
  for (std::size_t at = 0; at < kFileBytes; at += kPiece)
    if (Status submitted = file.submit_write(at, buffer.span().first(kPiece)); !submitted) return submitted;
  return file.sync();
}

AlignedBuffer noise(std::size_t bytes) {
  AlignedBuffer buffer(bytes);
  std::uint64_t value = 88172645463325252U;
  for (std::size_t at = 0; at < bytes; at += sizeof value) {
    value ^= value << 13;
    value ^= value >> 7;
    value ^= value << 17;
    std::memcpy(buffer.data() + at, &value, sizeof value);
  }
  return buffer;
}

void BM_WriteAndSync(benchmark::State& state) {
  const BenchDirectory directory;
  const auto io = open_bench(state, directory.path());
  if (io == nullptr) return;
  const AlignedBuffer buffer = noise(kPiece);
  for (auto _ : state) {
    state.PauseTiming();
    auto file = io->open("data", OpenMode::create_direct);
    const Status reserved = (*file)->allocate(0, kFileBytes);
    const Status flushed = (*file)->sync();
    state.ResumeTiming();
    if (const Status written = write_file(**file, buffer); !written || !reserved || !flushed)
      return state.SkipWithError("write failed");
    state.PauseTiming();
    file->reset();
    if (!io->remove("data")) return state.SkipWithError("remove failed");
    state.ResumeTiming();
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(kFileBytes));
}

/// Scattered reads by as many threads as the argument says.
void BM_ReadByThreads(benchmark::State& state) {
  const BenchDirectory directory;
  const auto io = open_bench(state, directory.path());
  if (io == nullptr) return;
  auto file = io->open("data", OpenMode::create_direct).value();
  if (!write_file(*file, noise(kPiece))) return state.SkipWithError("write failed");
  constexpr std::size_t kReads = 256;
  const auto threads_count = static_cast<std::size_t>(state.range(1));
  AlignedBuffer memory(threads_count * kReadBytes);
  std::memset(memory.data(), 0, memory.size());
  std::atomic<bool> failed{false};
  for (auto _ : state) {
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < threads_count; ++i)
      threads.emplace_back([&, i] {
        std::uint64_t place = i + 1;
        for (std::size_t k = 0; k < kReads / threads_count; ++k) {
          place = place * 6364136223846793005U + 1442695040888963407U;
          const std::uint64_t offset = (place >> 33) % (kFileBytes / kReadBytes) * kReadBytes;
          if (!file->read(offset, memory.span().subspan(i * kReadBytes, kReadBytes))) failed = true;
        }
      });
  }
  if (failed) return state.SkipWithError("read failed");
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(kReads * kReadBytes));
}

/// Latency of the smallest commit: one block, one sync.
void BM_BlockAndSync(benchmark::State& state) {
  const BenchDirectory directory;
  const auto io = open_bench(state, directory.path());
  if (io == nullptr) return;
  auto file = io->open("data", OpenMode::create_direct).value();
  if (!file->allocate(0, kFileBytes) || !file->sync()) return state.SkipWithError("allocate failed");
  const AlignedBuffer buffer = noise(kIoAlignment);
  std::uint64_t at = 0;
  for (auto _ : state) {
    const bool good = file->submit_write(at, buffer.span()) && file->sync();
    if (!good) return state.SkipWithError("write failed");
    at = (at + kIoAlignment) % kFileBytes;
  }
}

BENCHMARK(BM_WriteAndSync)
    ->ArgNames({"posix", "depth"})
    ->ArgsProduct({{0, 1}, {1, 4, 16, 32}})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime()
    ->MinTime(2);
BENCHMARK(BM_ReadByThreads)
    ->ArgNames({"posix", "threads"})
    ->ArgsProduct({{1}, {1, 4, 8, 16}})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK(BM_BlockAndSync)
    ->ArgNames({"posix", "depth"})
    ->ArgsProduct({{0, 1}, {16}})
    ->Unit(benchmark::kMicrosecond)
    ->UseRealTime();

}  // namespace
}  // namespace varve::storage
