// SPDX-License-Identifier: Apache-2.0
//
// Frames: up to 64 KiB of chunks, filtered and compressed together (docs/formats/segment.md, frame).
//
// FilterChooser finds out on samples what pays for which data; encode_frame() does it; parse_frame() and unpack_frame()
// trust nothing. A FilterChooser is used by one thread; the functions are pure.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "storage/chunk_name.h"
#include "storage/compression_level.h"
#include "storage/format.h"
#include "storage/shuffle.h"

namespace varve::storage {

enum class Codec : std::uint8_t { none = 0, lz4 = 1 };
enum class Filter : std::uint8_t { none = 0, shuffle = 1, difference = 2 };

struct FrameChunk {
  ChunkName name;
  std::uint32_t bytes = 0;
};

struct FrameChoice {
  Codec codec = Codec::none;
  Filter filter = Filter::none;
  std::uint16_t element_bytes = 0;  ///< of the shuffle; 0: none
  unsigned level = 0;               ///< of LZ4 (compression_level.h); not stored
};

inline constexpr std::size_t kFrameFixedBytes = 16;
inline constexpr std::size_t kFrameChunkBytes = 20;
inline constexpr std::size_t kFrameBaseBytes = 16;  // a difference's table of bases

/// Differences too: their bases are counted in what has to be saved.
constexpr std::size_t max_frame_payload(std::size_t chunks, std::size_t raw_bytes) {
  return kFrameFixedBytes + chunks * kFrameChunkBytes + raw_bytes;
}

/// Memory that compression and unpacking need; one per thread.
class FrameScratch {
 public:
  FrameScratch();
  ~FrameScratch();
  FrameScratch(FrameScratch&&) noexcept;
  FrameScratch& operator=(FrameScratch&&) noexcept;

  std::span<std::byte> filtered() { return {filtered_.get(), kFrameRawBytes}; }
  std::span<std::byte> packed() { return {packed_.get(), kFrameRawBytes}; }
  void* lz4_state() { return lz4_state_.get(); }

 private:
  std::unique_ptr<std::byte[]> filtered_;
  std::unique_ptr<std::byte[]> packed_;
  std::unique_ptr<std::uint64_t[]> lz4_state_;
};

struct ChooserOptions {
  bool compress = true;
  bool favour_size = false;  ///< the smallest result, however slow
  unsigned threads = 1;      ///< that compress
};

/// What became of a choice.
struct FrameOutcome {
  std::size_t raw_bytes = 0;
  std::size_t stored_bytes = 0;  ///< of the content, without names
  bool compressed = false;       ///< LZ4 won enough to be used
  std::uint64_t encode_ns = 0;   ///< 0: not measured
  std::uint64_t base_ns = 0;     ///< of a difference: reading its bases, by one thread however many encode
  bool replaces = false;         ///< it was chosen with a MakeDifference
};

/// The raw bytes of the frame at hand XOR those of its bases; empty where too little of it has one. Reads, and is
/// called only where a difference is in question.
using MakeDifference = std::function<std::span<const std::byte>()>;

/// Decides codec, filter and level of each frame, by the elements' size and whether it replaces earlier chunks: samples
/// a frame now and then, and between the samples repeats what paid. Data that does not compress, or not as fast as the
/// disk takes it, is found out and left alone, probed again ever more rarely. Where the elements' size is not known,
/// samples find it.
///
/// A difference to earlier chunks has to save much of what the best other choice leaves, since it ties images to
/// others, and reading the bases counts in its time. Where it turns out slower than the disk it is not tried for a
/// while.
class FilterChooser {
 public:
  explicit FilterChooser(const ChooserOptions& options) : options_(options) {}

  /// `make_difference`: for what replaces earlier chunks.
  FrameChoice choose(std::span<const std::byte> raw, std::uint32_t element_bytes, FrameScratch& scratch,
                     const MakeDifference& make_difference = {});
  /// True where the next frame is stored raw, whatever it holds: it counts as chosen then.
  bool choose_raw(std::uint32_t element_bytes, bool replaces = false);
  void learn(std::uint32_t element_bytes, const FrameChoice& choice, const FrameOutcome& outcome);
  /// Bytes a second; 0: not known, and all that gets smaller is compressed. `other_ns`: what a thread that compresses
  /// does besides, in nanoseconds for each raw byte.
  void set_disk_speed(double bytes_per_second, double other_ns = 0) {
    disk_speed_ = bytes_per_second;
    other_ns_ = other_ns;
  }

 private:
  struct Learned {
    FrameChoice choice;
    FrameChoice plain;              ///< the best that is no difference: for frames that lack bases
    std::uint32_t barred = 0;       ///< probes that try no difference
    std::uint32_t last_barred = 0;  ///< how many it were the last time
    unsigned level = 0;
    std::uint32_t frames_to_probe = 0;
    std::uint32_t interval = 0;  ///< frames between probes; doubles up to a bound while nothing changes
    std::uint32_t misses = 0;
    double stored_share = 0;           ///< of the raw bytes, about; 0: not known
    std::uint64_t measured_bytes = 0;  ///< at this level
    std::uint64_t measured_ns = 0;
    std::uint64_t measured_base_ns = 0;  ///< of that, without regard to how many threads there are
  };
  /// A way to store a sample, and the bytes that it leaves.
  struct Candidate {
    FrameChoice choice;
    std::size_t bytes = 0;
  };
  void probe(std::span<const std::byte> raw, std::uint32_t element_bytes, FrameScratch& scratch, Learned& learned,
             const MakeDifference& make_difference);
  static Candidate best_plain(std::span<const std::byte> sample, std::uint32_t element_bytes, FrameScratch& scratch,
                              int acceleration);
  /// The difference, where it is better than `plain` by enough and fast enough. `at`: of the sample in the frame.
  FrameChoice best_difference(std::size_t at, std::size_t bytes, std::uint32_t element_bytes, const Candidate& plain,
                              FrameScratch& scratch, Learned& learned, const MakeDifference& make_difference) const;
  void settle(Learned& learned, FrameChoice choice) const;
  static void bar_difference(Learned& learned);
  /// Raw bytes a second, all threads together.
  double speed(std::uint64_t raw_bytes, std::uint64_t ns) const;
  bool keeps_up(std::span<const std::byte> sample, const FrameChoice& choice, FrameScratch& scratch) const;
  void adapt(Learned& learned);

  ChooserOptions options_;
  double disk_speed_ = 0;
  double other_ns_ = 0;
  Learned& learned(std::uint32_t element_bytes, bool replaces) {
    return learned_[replaces ? 1 : 0][element_bytes <= kMaxElementBytes ? element_bytes : 0];
  }
  // What replaces nothing, and what does; by element size; 0: unknown or larger.
  std::array<std::array<Learned, kMaxElementBytes + 1>, 2> learned_;
};

/// A base that is none.
inline constexpr ChunkName kNoBase{};

/// What Filter::difference stores.
struct FrameDifference {
  std::span<const std::byte> content;  ///< the raw bytes XOR those of the bases
  std::span<const ChunkName> bases;    ///< of each chunk; kNoBase
};

/// into = a XOR b. REQUIRES: all as long; `into` may be one of the others.
void xor_bytes(std::span<const std::byte> a, std::span<const std::byte> b, std::span<std::byte> into);

/// Writes the payload; returns its length. `compressed` tells whether the codec of the choice was kept.
/// REQUIRES: raw is the chunks one behind the other; `into` has max_frame_payload() bytes; for Filter::difference there
/// is one, and not all of its bases are none.
std::size_t encode_frame(std::span<const std::byte> raw, std::span<const FrameChunk> chunks, FrameChoice choice,
                         FrameScratch& scratch, std::span<std::byte> into, bool& compressed,
                         const FrameDifference& difference = {});

/// Writes all of a payload but its content, which is stored raw, behind the table; returns the payload's length.
std::size_t encode_raw_frame(std::span<const FrameChunk> chunks, std::size_t raw_bytes, std::span<std::byte> into);

/// A frame's payload, checked for form; points into it.
struct FrameView {
  FrameChoice choice;
  std::uint32_t chunks = 0;
  std::uint32_t raw_bytes = 0;
  std::span<const std::byte> table;
  std::span<const std::byte> bases;  ///< of a difference
  std::span<const std::byte> stored;

  FrameChunk chunk(std::uint32_t index) const;
  bool is_difference() const { return choice.filter == Filter::difference; }
  /// kNoBase where there is none.
  ChunkName base(std::uint32_t index) const;
};

/// `chunk_bytes`: of the store. Unknown codecs and filters are `unsupported`, by name.
Result<FrameView> parse_frame(std::span<const std::byte> payload, std::uint32_t chunk_bytes, const StoredAt& at);
/// The raw bytes, of a difference those before they are XORed with the bases; they lie in the payload or in the
/// scratch, until its next use.
Result<std::span<const std::byte>> unpack_frame(const FrameView& frame, FrameScratch& scratch, const StoredAt& at);

}  // namespace varve::storage
