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
/// A difference may leave at most so many tenths of what the best other choice does.
constexpr std::size_t kDifferenceTenths = 6;
/// Probes that try none, after one that was too slow; they double while that is so.
constexpr std::uint32_t kFewestBarred = 2;
constexpr std::uint32_t kMostBarred = 32;
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

/// All that stands before the content.
std::size_t head_bytes(std::size_t chunks, bool difference) {
  return kFrameFixedBytes + chunks * (kFrameChunkBytes + (difference ? kFrameBaseBytes : 0));
}

std::byte* put_name(const ChunkName& name, std::byte* to) {
  store_le<std::uint64_t>(to, name.low);
  store_le<std::uint64_t>(to + 8, name.high);
  return to + 16;
}

ChunkName get_name(const std::byte* from) { return {load_le<std::uint64_t>(from), load_le<std::uint64_t>(from + 8)}; }

/// Likewise; returns its length.
std::size_t put_head(std::span<const FrameChunk> chunks, const FrameChoice& choice, std::span<const ChunkName> bases,
                     std::size_t raw_bytes, std::size_t stored_bytes, std::byte* to) {
  store_le<std::uint8_t>(to, static_cast<std::uint8_t>(choice.codec));
  store_le<std::uint8_t>(to + 1, static_cast<std::uint8_t>(choice.filter));
  store_le<std::uint16_t>(to + 2, choice.element_bytes);
  store_le<std::uint32_t>(to + 4, static_cast<std::uint32_t>(chunks.size()));
  store_le<std::uint32_t>(to + 8, static_cast<std::uint32_t>(raw_bytes));
  store_le<std::uint32_t>(to + 12, static_cast<std::uint32_t>(stored_bytes));
  to += kFrameFixedBytes;
  for (const FrameChunk& chunk : chunks) {
    store_le<std::uint32_t>(put_name(chunk.name, to), chunk.bytes);
    to += kFrameChunkBytes;
  }
  const bool difference = choice.filter == Filter::difference;
  if (difference)
    for (const ChunkName& base : bases) to = put_name(base, to);
  return head_bytes(chunks.size(), difference);
}

/// What LZ4 may leave of a frame.
std::size_t limit_of(std::size_t raw_bytes, std::size_t chunks, bool difference) {
  const std::size_t limit = worthwhile(raw_bytes);
  const std::size_t bases = difference ? chunks * kFrameBaseBytes : 0;
  return limit > bases ? limit - bases : 0;
}

}  // namespace

FrameScratch::FrameScratch()
    : filtered_(new std::byte[kFrameRawBytes]),
      packed_(new std::byte[kFrameRawBytes]),
      lz4_state_(new std::uint64_t[static_cast<std::size_t>(LZ4_sizeofState()) / sizeof(std::uint64_t) + 1]) {}
FrameScratch::~FrameScratch() = default;
FrameScratch::FrameScratch(FrameScratch&&) noexcept = default;
FrameScratch& FrameScratch::operator=(FrameScratch&&) noexcept = default;

FrameChoice FilterChooser::choose(std::span<const std::byte> raw, std::uint32_t element_bytes, FrameScratch& scratch,
                                  const MakeDifference& make_difference) {
  if (!options_.compress) return {};
  Learned& known = learned(element_bytes, static_cast<bool>(make_difference));
  if (known.frames_to_probe == 0)
    probe(raw, element_bytes, scratch, known, make_difference);
  else
    --known.frames_to_probe;
  const bool lacking = known.choice.filter == Filter::difference && make_difference().empty();
  FrameChoice choice = lacking ? known.plain : known.choice;
  choice.level = known.level;
  return choice;
}

bool FilterChooser::choose_raw(std::uint32_t element_bytes, bool replaces) {
  if (!options_.compress) return true;
  Learned& known = learned(element_bytes, replaces);
  if (known.choice.codec != Codec::none || known.frames_to_probe == 0) return false;
  --known.frames_to_probe;
  return true;
}

FilterChooser::Candidate FilterChooser::best_plain(std::span<const std::byte> sample, std::uint32_t element_bytes,
                                                   FrameScratch& scratch, int acceleration) {
  const std::size_t bytes = sample.size();
  const std::span<std::byte> packed = scratch.packed();
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
  return {choice, choice.codec == Codec::none ? bytes : best};
}

void FilterChooser::probe(std::span<const std::byte> raw, std::uint32_t element_bytes, FrameScratch& scratch,
                          Learned& learned, const MakeDifference& make_difference) {
  const std::size_t bytes = std::min(raw.size(), kSampleBytes);
  // From the middle, at a multiple of any element size up to 16 that is a power of two.
  const std::size_t at = round_down((raw.size() - bytes) / 2, 16);
  const std::span<const std::byte> sample = raw.subspan(at, bytes);
  Candidate plain = best_plain(sample, element_bytes, scratch, acceleration_of(learned.level));
  const bool untimed = learned.plain.codec == Codec::none || learned.choice.filter == Filter::difference;
  if (plain.choice.codec != Codec::none && untimed && !keeps_up(sample, plain.choice, scratch)) plain = {{}, bytes};
  learned.plain = plain.choice;
  FrameChoice choice = plain.choice;
  if (make_difference && learned.barred != 0)
    --learned.barred;
  else if (make_difference)
    choice = best_difference(at, bytes, element_bytes, plain, scratch, learned, make_difference);
  settle(learned, choice);
}

FrameChoice FilterChooser::best_difference(std::size_t at, std::size_t bytes, std::uint32_t element_bytes,
                                           const Candidate& plain, FrameScratch& scratch, Learned& learned,
                                           const MakeDifference& make_difference) const {
  const std::span<const std::byte> whole = make_difference();
  if (whole.empty()) return plain.choice;
  const std::span<const std::byte> sample = whole.subspan(at, bytes);
  const std::size_t bases = bytes / kMinChunkBytes * kFrameBaseBytes;
  std::size_t limit = options_.favour_size ? worthwhile(plain.bytes) : plain.bytes / 10 * kDifferenceTenths;
  limit -= std::min(limit, bases);
  if (plain.choice.element_bytes != 0) element_bytes = plain.choice.element_bytes;
  FrameChoice choice = plain.choice;
  std::uint64_t encode_ns = 0;
  const std::array<std::uint32_t, 2> candidates{0, element_bytes};
  const bool sized =
      element_bytes >= kMinElementBytes && element_bytes <= kMaxElementBytes && bytes >= 16 * element_bytes;
  for (const std::uint32_t element : std::span(candidates).first(sized ? 2 : 1)) {
    if (limit == 0) break;
    const std::uint64_t encode_begin_ns = monotonic_ns();
    std::span<const std::byte> from = sample;
    if (element != 0) {
      shuffle_bytes(sample, element, scratch.filtered().first(bytes));
      from = scratch.filtered().first(bytes);
    }
    const auto left =
        compress_lz4(from, scratch.packed().first(limit), scratch.lz4_state(), acceleration_of(learned.level));
    if (left == 0) continue;
    encode_ns = monotonic_ns() - encode_begin_ns;
    choice = {Codec::lz4, Filter::difference, static_cast<std::uint16_t>(element)};
    limit = worthwhile(left);
  }
  // One base, read alone and maybe from the disk, says nothing of many in order, of which the next is read ahead or in
  // the page cache: whether they keep up is found out by a run of frames, in adapt().
  if (choice.filter != Filter::difference || options_.favour_size || disk_speed_ == 0 ||
      speed(bytes, encode_ns) >= disk_speed_)
    return choice;
  bar_difference(learned);
  return plain.choice;
}

void FilterChooser::bar_difference(Learned& learned) {
  learned.barred = learned.last_barred = std::clamp(2 * learned.last_barred, kFewestBarred, kMostBarred);
}

void FilterChooser::settle(Learned& learned, FrameChoice choice) const {
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
  learned.measured_bytes = learned.measured_ns = learned.measured_base_ns = 0;
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
  Learned& known = learned(element_bytes, outcome.replaces);
  const FrameChoice& now = known.choice;
  const bool current = choice.codec == now.codec && choice.filter == now.filter &&
                       choice.element_bytes == now.element_bytes && choice.level == now.level;
  if (!current || choice.codec == Codec::none) return;  // chosen before something was learned since
  // Other data than was sampled compresses otherwise, or not at all.
  const double share = static_cast<double>(outcome.stored_bytes) / static_cast<double>(outcome.raw_bytes);
  const bool surprising =
      !outcome.compressed || (known.stored_share != 0 && std::abs(share - known.stored_share) > kSurprise);
  if (!surprising) {
    known.misses = 0;
    known.stored_share = known.stored_share == 0 ? share : (7 * known.stored_share + share) / 8;
  } else if (++known.misses >= 2) {
    known.frames_to_probe = known.interval = 0;
    known.stored_share = 0;
  }
  if (outcome.encode_ns == 0) return;
  known.measured_bytes += outcome.raw_bytes;
  known.measured_ns += outcome.encode_ns + options_.threads * outcome.base_ns;
  known.measured_base_ns += outcome.base_ns;
  if (known.measured_bytes >= kMeasuredBytes) adapt(known);
}

void FilterChooser::adapt(Learned& learned) {
  const double compress = speed(learned.measured_bytes, learned.measured_ns);
  const std::uint64_t bytes = learned.measured_bytes;
  const std::uint64_t base_ns = learned.measured_base_ns;
  learned.measured_bytes = learned.measured_ns = learned.measured_base_ns = 0;
  if (options_.favour_size) return;
  const LevelChoice next = next_level(learned.level, {compress, disk_speed_});
  learned.level = learned.choice.level = next.level;
  const bool bases_too_slow =
      base_ns != 0 && static_cast<double>(bytes) * 1e9 / static_cast<double>(base_ns) < disk_speed_;
  if (learned.choice.filter == Filter::difference && (next.raw || bases_too_slow)) {
    // The other choices are looked at anew.
    bar_difference(learned);
    learned.interval = learned.frames_to_probe = 0;
    return;
  }
  if (learned.choice.filter == Filter::difference) learned.last_barred = 0;
  if (!next.raw) return;
  learned.choice = learned.plain = {};
  learned.choice.level = next.level;
  learned.interval = learned.frames_to_probe = kFirstRawInterval;
}

void xor_bytes(std::span<const std::byte> a, std::span<const std::byte> b, std::span<std::byte> into) {
  VARVE_CHECK(a.size() == b.size() && a.size() == into.size());
  std::size_t at = 0;
  for (; at + 32 <= a.size(); at += 32) {
    std::array<std::uint64_t, 4> one;
    std::array<std::uint64_t, 4> other;
    std::memcpy(one.data(), a.data() + at, 32);
    std::memcpy(other.data(), b.data() + at, 32);
    for (std::size_t i = 0; i < 4; ++i) one[i] ^= other[i];
    std::memcpy(into.data() + at, one.data(), 32);
  }
  for (; at < a.size(); ++at) into[at] = a[at] ^ b[at];
}

std::size_t encode_frame(std::span<const std::byte> raw, std::span<const FrameChunk> chunks, FrameChoice choice,
                         FrameScratch& scratch, std::span<std::byte> into, bool& compressed,
                         const FrameDifference& difference) {
  VARVE_CHECK(!raw.empty() && raw.size() <= kFrameRawBytes && !chunks.empty() && chunks.size() <= kFrameChunks);
  VARVE_CHECK(into.size() >= max_frame_payload(chunks.size(), raw.size()));
  const bool differs = choice.filter == Filter::difference;
  VARVE_CHECK(!differs || (difference.content.size() == raw.size() && difference.bases.size() == chunks.size()));
  std::size_t stored_bytes = 0;
  if (choice.codec == Codec::lz4) {
    std::span<const std::byte> from = differs ? difference.content : raw;
    if (choice.element_bytes != 0) {
      shuffle_bytes(from, choice.element_bytes, scratch.filtered().first(raw.size()));
      from = scratch.filtered().first(raw.size());
    }
    const std::span<std::byte> stored =
        into.subspan(head_bytes(chunks.size(), differs), limit_of(raw.size(), chunks.size(), differs));
    if (!stored.empty()) stored_bytes = compress_lz4(from, stored, scratch.lz4_state(), acceleration_of(choice.level));
  }
  compressed = stored_bytes != 0;
  if (!compressed) {
    std::memcpy(into.data() + head_bytes(chunks.size(), false), raw.data(), raw.size());
    stored_bytes = raw.size();
    choice = {};
  }
  return put_head(chunks, choice, difference.bases, raw.size(), stored_bytes, into.data()) + stored_bytes;
}

std::size_t encode_raw_frame(std::span<const FrameChunk> chunks, std::size_t raw_bytes, std::span<std::byte> into) {
  VARVE_CHECK(raw_bytes != 0 && raw_bytes <= kFrameRawBytes && !chunks.empty() && chunks.size() <= kFrameChunks);
  VARVE_CHECK(into.size() >= max_frame_payload(chunks.size(), raw_bytes));
  return put_head(chunks, {}, {}, raw_bytes, raw_bytes, into.data()) + raw_bytes;
}

FrameChunk FrameView::chunk(std::uint32_t index) const {
  const std::byte* from = table.data() + index * kFrameChunkBytes;
  return {get_name(from), load_le<std::uint32_t>(from + 16)};
}

ChunkName FrameView::base(std::uint32_t index) const {
  return is_difference() ? get_name(bases.data() + index * kFrameBaseBytes) : kNoBase;
}

namespace {

/// Why the bases of a difference are not possible; empty: they are.
std::string wrong_bases(const FrameView& frame) {
  bool any = false;
  for (std::uint32_t i = 0; i < frame.chunks; ++i) {
    const ChunkName base = frame.base(i);
    if (base == frame.chunk(i).name) return fmt::format("chunk {} of it is its own base", i);
    any = any || base != kNoBase;
  }
  return any ? "" : "it is a difference, and no chunk of it has a base";
}

}  // namespace

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
  if (filter > static_cast<std::uint8_t>(Filter::difference))
    return unknown_to_us(kObject, at, fmt::format("its filter is {}, which this version does not know", filter));
  frame.choice.codec = static_cast<Codec>(codec);
  frame.choice.filter = static_cast<Filter>(filter);
  const bool difference = frame.is_difference();
  const bool may_shuffle = frame.choice.filter != Filter::none;
  const std::uint16_t element = frame.choice.element_bytes;
  const bool shuffled = may_shuffle && element >= kMinElementBytes && element <= kMaxElementBytes;
  if (!shuffled && (element != 0 || frame.choice.filter == Filter::shuffle))
    return damaged(kObject, at, fmt::format("elements of {} bytes are not possible there", element));
  if (difference && frame.choice.codec != Codec::lz4)
    return damaged(kObject, at, "it is a difference that is not compressed");
  const std::uint64_t bases_bytes = difference ? std::uint64_t{frame.chunks} * kFrameBaseBytes : 0;
  if (frame.chunks == 0 || frame.chunks > kFrameChunks || frame.raw_bytes > kFrameRawBytes ||
      payload.size() != head_bytes(frame.chunks, difference) + std::uint64_t{stored_bytes} ||
      (frame.choice.codec == Codec::none ? stored_bytes != frame.raw_bytes
                                         : stored_bytes + bases_bytes >= frame.raw_bytes))
    return damaged(kObject, at,
                   fmt::format("{} chunks, {} raw and {} stored bytes do not fit its length", frame.chunks,
                               frame.raw_bytes, stored_bytes));
  frame.table = payload.subspan(kFrameFixedBytes, frame.chunks * kFrameChunkBytes);
  frame.bases = payload.subspan(kFrameFixedBytes + frame.table.size(), static_cast<std::size_t>(bases_bytes));
  frame.stored = payload.subspan(head_bytes(frame.chunks, difference));
  std::uint64_t sum = 0;
  for (std::uint32_t i = 0; i < frame.chunks; ++i) {
    const std::uint32_t bytes = frame.chunk(i).bytes;
    if (bytes == 0 || bytes > chunk_bytes)
      return damaged(kObject, at, fmt::format("chunk {} of it has {} bytes", i, bytes));
    sum += bytes;
  }
  if (sum != frame.raw_bytes)
    return damaged(kObject, at, fmt::format("its chunks have {} bytes and it has {}", sum, frame.raw_bytes));
  if (difference)
    if (std::string wrong = wrong_bases(frame); !wrong.empty()) return damaged(kObject, at, std::move(wrong));
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
  if (frame.choice.element_bytes != 0) {
    const std::span<std::byte> plain = scratch.filtered().first(raw.size());
    unshuffle_bytes(raw, frame.choice.element_bytes, plain);
    raw = plain;
  }
  return raw;
}

}  // namespace varve::storage
