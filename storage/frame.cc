// SPDX-License-Identifier: Apache-2.0
#include "storage/frame.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include <fmt/format.h>
#include <lz4.h>

#include "base/bytes.h"
#include "base/check.h"
#include "base/clock.h"

namespace varve::storage {
namespace {

constexpr std::size_t kSampleBytes = 16384;
// Frames between samples: while something pays, and while nothing does (up to 4 MiB). They double while nothing
// changes.
constexpr std::uint32_t kFirstInterval = 32;
constexpr std::uint32_t kMostInterval = 256;
constexpr std::uint32_t kFirstRawInterval = 4;
constexpr std::uint32_t kMostRawInterval = 64;
/// Tried where the caller does not say, the likeliest first: doubles, floats, and structures of some of them.
constexpr std::uint32_t kLikelyElements[] = {8, 4, 16, 12};
/// By so much of its raw bytes a frame may differ from those before it.
constexpr double kSurprise = 0.125;
/// Frames are timed for so many raw bytes before the level is looked at.
constexpr std::uint64_t kMeasuredBytes = std::uint64_t{1} << 20;

/// What LZ4 may leave at most to be worth unpacking: 3 % saved, and always less than the raw bytes.
/// REQUIRES: raw_bytes > 0.
constexpr std::size_t worthwhile(std::size_t raw_bytes) { return raw_bytes - raw_bytes / 32 - 1; }

/// Compressed length, or 0 when it would be more than `limit`.
std::size_t compress_lz4(std::span<const std::byte> from, std::span<std::byte> into, void* state, int acceleration) {
  const int bytes = LZ4_compress_fast_extState(state, reinterpret_cast<const char*>(from.data()),
                                               reinterpret_cast<char*>(into.data()), static_cast<int>(from.size()),
                                               static_cast<int>(into.size()), acceleration);
  return bytes > 0 ? static_cast<std::size_t>(bytes) : 0;
}

std::size_t class_of(std::uint32_t element_bytes) { return element_bytes <= kMaxElementBytes ? element_bytes : 0; }

/// All that stands before the content; returns its length.
std::size_t put_head(std::span<const FrameChunk> chunks, const FrameChoice& choice, std::size_t raw_bytes,
                     std::size_t stored_bytes, std::byte* to) {
  store_le<std::uint8_t>(to, static_cast<std::uint8_t>(choice.codec));
  store_le<std::uint8_t>(to + 1, static_cast<std::uint8_t>(choice.filter));
  store_le<std::uint16_t>(to + 2, choice.element_bytes);
  store_le<std::uint32_t>(to + 4, static_cast<std::uint32_t>(chunks.size()));
  store_le<std::uint32_t>(to + 8, static_cast<std::uint32_t>(raw_bytes));
  store_le<std::uint32_t>(to + 12, static_cast<std::uint32_t>(stored_bytes));
  to += kFrameFixedBytes;
  for (const FrameChunk& chunk : chunks) {
    store_le<std::uint64_t>(to, chunk.name.low);
    store_le<std::uint64_t>(to + 8, chunk.name.high);
    store_le<std::uint32_t>(to + 16, chunk.bytes);
    to += kFrameChunkBytes;
  }
  return kFrameFixedBytes + chunks.size() * kFrameChunkBytes;
}

}  // namespace

FrameScratch::FrameScratch()
    : filtered_(new std::byte[kFrameRawBytes]),
      packed_(new std::byte[kFrameRawBytes]),
      lz4_state_(new std::uint64_t[static_cast<std::size_t>(LZ4_sizeofState()) / sizeof(std::uint64_t) + 1]) {}
FrameScratch::~FrameScratch() = default;
FrameScratch::FrameScratch(FrameScratch&&) noexcept = default;
FrameScratch& FrameScratch::operator=(FrameScratch&&) noexcept = default;

FrameChoice FilterChooser::choose(std::span<const std::byte> raw, std::uint32_t element_bytes, FrameScratch& scratch) {
  if (!options_.compress) return {};
  Learned& learned = learned_[class_of(element_bytes)];
  if (learned.frames_to_probe == 0)
    probe(raw, element_bytes, scratch, learned);
  else
    --learned.frames_to_probe;
  return learned.choice;
}

bool FilterChooser::choose_raw(std::uint32_t element_bytes) {
  if (!options_.compress) return true;
  Learned& learned = learned_[class_of(element_bytes)];
  if (learned.choice.codec != Codec::none || learned.frames_to_probe == 0) return false;
  --learned.frames_to_probe;
  return true;
}

void FilterChooser::probe(std::span<const std::byte> raw, std::uint32_t element_bytes, FrameScratch& scratch,
                          Learned& learned) {
  const std::size_t bytes = std::min(raw.size(), kSampleBytes);
  // From the middle, at a multiple of any element size up to 16 that is a power of two.
  const std::span<const std::byte> sample = raw.subspan(round_down((raw.size() - bytes) / 2, 16), bytes);
  const std::span<std::byte> packed = scratch.packed();
  const int acceleration = acceleration_of(learned.level);
  std::size_t best = worthwhile(bytes);
  FrameChoice choice;
  if (const auto plain = compress_lz4(sample, packed.first(best), scratch.lz4_state(), acceleration); plain != 0) {
    best = plain;
    choice = {Codec::lz4, Filter::none, 0};
  }
  using Candidates = std::span<const std::uint32_t>;
  for (const std::uint32_t candidate :
       element_bytes == 0 ? Candidates(kLikelyElements) : Candidates(&element_bytes, 1)) {
    if (candidate < kMinElementBytes || candidate > kMaxElementBytes || bytes < 16 * candidate) continue;
    const std::span<std::byte> shuffled = scratch.filtered().first(bytes);
    shuffle_bytes(sample, candidate, shuffled);
    const std::size_t limit = worthwhile(best);  // the filter's own cost is to pay too
    if (limit == 0) break;
    const auto filtered = compress_lz4(shuffled, packed.first(limit), scratch.lz4_state(), acceleration);
    if (filtered == 0) continue;
    best = filtered;
    choice = {Codec::lz4, Filter::shuffle, static_cast<std::uint16_t>(candidate)};
  }
  if (choice.codec != Codec::none && learned.choice.codec == Codec::none && !keeps_up(sample, choice, scratch))
    choice = {};
  choice.level = learned.level;
  const bool same = choice.codec == learned.choice.codec && choice.filter == learned.choice.filter &&
                    choice.element_bytes == learned.choice.element_bytes;
  const std::uint32_t first = choice.codec == Codec::none ? kFirstRawInterval : kFirstInterval;
  const std::uint32_t most = choice.codec == Codec::none ? kMostRawInterval : kMostInterval;
  learned.interval = same && learned.interval != 0 ? std::min(2 * learned.interval, most) : first;
  learned.frames_to_probe = learned.interval;
  learned.misses = 0;
  if (same) return;
  learned.choice = choice;
  learned.stored_share = 0;
  learned.measured_bytes = learned.measured_ns = 0;
}

/// After raw frames: whether compressing a sample is as fast as the disk, at the level that would be used.
bool FilterChooser::keeps_up(std::span<const std::byte> sample, const FrameChoice& choice,
                             FrameScratch& scratch) const {
  if (disk_speed_ == 0 || options_.favour_size) return true;
  const std::uint64_t begin_ns = monotonic_ns();
  std::span<const std::byte> from = sample;
  if (choice.filter == Filter::shuffle) {
    shuffle_bytes(sample, choice.element_bytes, scratch.filtered().first(sample.size()));
    from = scratch.filtered().first(sample.size());
  }
  compress_lz4(from, scratch.packed().first(sample.size()), scratch.lz4_state(),
               acceleration_of(kCompressionLevels - 1));
  return speed(sample.size(), monotonic_ns() - begin_ns) >= disk_speed_;
}

double FilterChooser::speed(std::uint64_t raw_bytes, std::uint64_t ns) const {
  const auto bytes = static_cast<double>(raw_bytes);
  return options_.threads * bytes * 1e9 / (static_cast<double>(ns) + bytes * other_ns_ + 1);
}

void FilterChooser::learn(std::uint32_t element_bytes, const FrameChoice& choice, const FrameOutcome& outcome) {
  Learned& learned = learned_[class_of(element_bytes)];
  const FrameChoice& now = learned.choice;
  const bool current = choice.codec == now.codec && choice.filter == now.filter &&
                       choice.element_bytes == now.element_bytes && choice.level == now.level;
  if (!current || choice.codec == Codec::none) return;  // chosen before something was learned since
  // Other data than was sampled compresses otherwise, or not at all.
  const double share = static_cast<double>(outcome.stored_bytes) / static_cast<double>(outcome.raw_bytes);
  const bool surprising =
      !outcome.compressed || (learned.stored_share != 0 && std::abs(share - learned.stored_share) > kSurprise);
  if (!surprising) {
    learned.misses = 0;
    learned.stored_share = learned.stored_share == 0 ? share : (7 * learned.stored_share + share) / 8;
  } else if (++learned.misses >= 2) {
    learned.frames_to_probe = learned.interval = 0;
    learned.stored_share = 0;
  }
  if (outcome.encode_ns == 0) return;
  learned.measured_bytes += outcome.raw_bytes;
  learned.measured_ns += outcome.encode_ns;
  if (learned.measured_bytes >= kMeasuredBytes) adapt(learned);
}

void FilterChooser::adapt(Learned& learned) {
  const double compress = speed(learned.measured_bytes, learned.measured_ns);
  learned.measured_bytes = learned.measured_ns = 0;
  if (options_.favour_size) return;
  const LevelChoice next = next_level(learned.level, {compress, disk_speed_});
  learned.level = learned.choice.level = next.level;
  if (!next.raw) return;
  learned.choice = {};
  learned.choice.level = next.level;
  learned.interval = learned.frames_to_probe = kFirstRawInterval;
}

std::size_t encode_frame(std::span<const std::byte> raw, std::span<const FrameChunk> chunks, FrameChoice choice,
                         FrameScratch& scratch, std::span<std::byte> into, bool& compressed) {
  VARVE_CHECK(!raw.empty() && raw.size() <= kFrameRawBytes && !chunks.empty() && chunks.size() <= kFrameChunks);
  VARVE_CHECK(into.size() >= max_frame_payload(chunks.size(), raw.size()));
  std::byte* const stored = into.data() + kFrameFixedBytes + chunks.size() * kFrameChunkBytes;
  std::size_t stored_bytes = 0;
  if (choice.codec == Codec::lz4) {
    std::span<const std::byte> from = raw;
    if (choice.filter == Filter::shuffle) {
      shuffle_bytes(raw, choice.element_bytes, scratch.filtered().first(raw.size()));
      from = scratch.filtered().first(raw.size());
    }
    stored_bytes =
        compress_lz4(from, {stored, worthwhile(raw.size())}, scratch.lz4_state(), acceleration_of(choice.level));
  }
  compressed = stored_bytes != 0;
  if (!compressed) {
    std::memcpy(stored, raw.data(), raw.size());
    stored_bytes = raw.size();
    choice = {};
  }
  return put_head(chunks, choice, raw.size(), stored_bytes, into.data()) + stored_bytes;
}

std::size_t encode_raw_frame(std::span<const FrameChunk> chunks, std::size_t raw_bytes, std::span<std::byte> into) {
  VARVE_CHECK(raw_bytes != 0 && raw_bytes <= kFrameRawBytes && !chunks.empty() && chunks.size() <= kFrameChunks);
  VARVE_CHECK(into.size() >= max_frame_payload(chunks.size(), raw_bytes));
  return put_head(chunks, {}, raw_bytes, raw_bytes, into.data()) + raw_bytes;
}

FrameChunk FrameView::chunk(std::uint32_t index) const {
  const std::byte* from = table.data() + index * kFrameChunkBytes;
  return {{load_le<std::uint64_t>(from), load_le<std::uint64_t>(from + 8)}, load_le<std::uint32_t>(from + 16)};
}

Result<FrameView> parse_frame(std::span<const std::byte> payload, std::uint32_t chunk_bytes, const StoredAt& at) {
  constexpr std::string_view kObject = "the frame";
  if (payload.size() < kFrameFixedBytes) return damaged(kObject, at, "it is too short");
  const auto codec = load_le<std::uint8_t>(payload.data());
  const auto filter = load_le<std::uint8_t>(payload.data() + 1);
  FrameView frame;
  frame.choice.element_bytes = load_le<std::uint16_t>(payload.data() + 2);
  frame.chunks = load_le<std::uint32_t>(payload.data() + 4);
  frame.raw_bytes = load_le<std::uint32_t>(payload.data() + 8);
  const auto stored_bytes = load_le<std::uint32_t>(payload.data() + 12);
  if (codec > static_cast<std::uint8_t>(Codec::lz4))
    return unknown_to_us(kObject, at, fmt::format("its codec is {}, which this version does not know", codec));
  if (filter == static_cast<std::uint8_t>(Filter::difference))
    return unknown_to_us(kObject, at, "its filter is 'difference', which this version can't undo");
  if (filter > static_cast<std::uint8_t>(Filter::shuffle))
    return unknown_to_us(kObject, at, fmt::format("its filter is {}, which this version does not know", filter));
  frame.choice.codec = static_cast<Codec>(codec);
  frame.choice.filter = static_cast<Filter>(filter);
  const bool shuffled = frame.choice.filter == Filter::shuffle;
  const std::uint16_t element = frame.choice.element_bytes;
  if (shuffled ? element < kMinElementBytes || element > kMaxElementBytes : element != 0)
    return damaged(kObject, at, fmt::format("elements of {} bytes are not possible there", element));
  if (frame.chunks == 0 || frame.chunks > kFrameChunks || frame.raw_bytes > kFrameRawBytes ||
      payload.size() != kFrameFixedBytes + frame.chunks * kFrameChunkBytes + std::uint64_t{stored_bytes} ||
      (frame.choice.codec == Codec::none ? stored_bytes != frame.raw_bytes : stored_bytes >= frame.raw_bytes))
    return damaged(kObject, at,
                   fmt::format("{} chunks, {} raw and {} stored bytes do not fit its length", frame.chunks,
                               frame.raw_bytes, stored_bytes));
  frame.table = payload.subspan(kFrameFixedBytes, frame.chunks * kFrameChunkBytes);
  frame.stored = payload.subspan(kFrameFixedBytes + frame.table.size());
  std::uint64_t sum = 0;
  for (std::uint32_t i = 0; i < frame.chunks; ++i) {
    const std::uint32_t bytes = frame.chunk(i).bytes;
    if (bytes == 0 || bytes > chunk_bytes)
      return damaged(kObject, at, fmt::format("chunk {} of it has {} bytes", i, bytes));
    sum += bytes;
  }
  if (sum != frame.raw_bytes)
    return damaged(kObject, at, fmt::format("its chunks have {} bytes and it has {}", sum, frame.raw_bytes));
  return frame;
}

Result<std::span<const std::byte>> unpack_frame(const FrameView& frame, FrameScratch& scratch, const StoredAt& at) {
  std::span<const std::byte> raw = frame.stored;
  if (frame.choice.codec == Codec::lz4) {
    const std::span<std::byte> packed = scratch.packed().first(frame.raw_bytes);
    const int bytes =
        LZ4_decompress_safe(reinterpret_cast<const char*>(frame.stored.data()), reinterpret_cast<char*>(packed.data()),
                            static_cast<int>(frame.stored.size()), static_cast<int>(packed.size()));
    if (bytes < 0 || static_cast<std::size_t>(bytes) != packed.size())
      return damaged("the frame", at, "its compressed bytes do not unpack");
    raw = packed;
  }
  if (frame.choice.filter == Filter::shuffle) {
    const std::span<std::byte> plain = scratch.filtered().first(raw.size());
    unshuffle_bytes(raw, frame.choice.element_bytes, plain);
    raw = plain;
  }
  return raw;
}

}  // namespace varve::storage
