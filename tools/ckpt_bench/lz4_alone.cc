// SPDX-License-Identifier: Apache-2.0
#include "tools/ckpt_bench/lz4_alone.h"

#include <xxhash.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include <lz4.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/try.h"
#include "tools/ckpt_bench/memory.h"
#include "tools/ckpt_bench/samples.h"

namespace varve::tools {
namespace {

constexpr std::size_t kSampleBytes = std::size_t{256} << 20;
constexpr std::size_t kBlockBytes = std::size_t{64} << 10;
constexpr std::size_t kNamedBytes = 4096;

struct Block {
  std::span<const std::byte> raw;
  std::span<std::byte> room;
  int packed_bytes = 0;  // 0: it does not become smaller
};

// Nanoseconds until all blocks were worked on.
template <class Work>
std::uint64_t on_threads(std::vector<Block>& blocks, unsigned threads, const Work& work) {
  std::atomic<std::size_t> next{0};
  const std::uint64_t begin_ns = monotonic_ns();
  std::vector<std::jthread> workers;
  for (unsigned i = 0; i < std::max(1U, threads); ++i)
    workers.emplace_back([&] {
      std::vector<std::byte> buffer(kBlockBytes);
      for (std::size_t at = next.fetch_add(1); at < blocks.size(); at = next.fetch_add(1)) work(blocks[at], buffer);
    });
  workers.clear();  // joins
  return monotonic_ns() - begin_ns;
}

const char* chars(const std::byte* bytes) { return reinterpret_cast<const char*>(bytes); }
char* chars(std::byte* bytes) { return reinterpret_cast<char*>(bytes); }

void pack(Block& block, std::vector<std::byte>&) {
  const int raw_bytes = static_cast<int>(block.raw.size());
  const int packed = LZ4_compress_default(chars(block.raw.data()), chars(block.room.data()), raw_bytes,
                                          static_cast<int>(block.room.size()));
  block.packed_bytes = packed < raw_bytes ? packed : 0;
}

}  // namespace

Result<Lz4Alone> lz4_alone(std::span<const std::byte> memory, unsigned threads) {
  VARVE_CHECK(!memory.empty());
  const auto sample = memory.first(std::min(memory.size(), kSampleBytes));
  const auto room_bytes = static_cast<std::size_t>(LZ4_compressBound(static_cast<int>(kBlockBytes)));
  std::vector<Block> blocks((sample.size() + kBlockBytes - 1) / kBlockBytes);
  VARVE_TRY_ASSIGN(const Mapping room, Mapping::create({.bytes = blocks.size() * room_bytes}));
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    blocks[i].raw = sample.subspan(i * kBlockBytes, std::min(kBlockBytes, sample.size() - i * kBlockBytes));
    blocks[i].room = room.bytes().subspan(i * room_bytes, room_bytes);
  }
  const std::uint64_t pack_ns = on_threads(blocks, threads, pack);
  std::atomic<std::uint64_t> names{0};  // so that no compiler leaves them out
  std::atomic<bool> wrong{false};
  const auto unpack = [&](const Block& block, std::vector<std::byte>& buffer) {
    const std::byte* content = block.raw.data();
    const auto raw_bytes = static_cast<int>(block.raw.size());
    if (block.packed_bytes != 0) {
      if (LZ4_decompress_safe(chars(block.room.data()), chars(buffer.data()), block.packed_bytes, raw_bytes) !=
          raw_bytes)
        wrong.store(true);
      content = buffer.data();
    }
    for (std::size_t at = 0; at < block.raw.size(); at += kNamedBytes) {
      const XXH128_hash_t name = XXH3_128bits(content + at, std::min(kNamedBytes, block.raw.size() - at));
      names.fetch_xor(name.low64, std::memory_order_relaxed);
    }
  };
  const std::uint64_t unpack_ns = on_threads(blocks, threads, unpack);
  VARVE_CHECK(!wrong.load());
  std::uint64_t packed_bytes = 0;
  for (const Block& block : blocks)
    packed_bytes += block.packed_bytes != 0 ? static_cast<std::uint64_t>(block.packed_bytes) : block.raw.size();
  return Lz4Alone{.pack_bytes_per_second = per_second(sample.size(), pack_ns),
                  .unpack_bytes_per_second = per_second(sample.size(), unpack_ns),
                  .ratio = static_cast<double>(sample.size()) / static_cast<double>(packed_bytes)};
}

}  // namespace varve::tools
