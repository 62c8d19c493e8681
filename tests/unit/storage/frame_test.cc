// SPDX-License-Identifier: Apache-2.0
#include "storage/frame.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include <gtest/gtest.h>

#include "base/bytes.h"
#include "storage/shuffle_kernels.h"
#include "tests/support/store_shadow.h"

namespace varve::storage {
namespace {

constexpr std::uint32_t kChunk = 4096;

std::vector<FrameChunk> split(std::size_t bytes) {
  std::vector<FrameChunk> chunks;
  for (std::size_t at = 0; at < bytes; at += kChunk)
    chunks.push_back({{at, at + 1}, static_cast<std::uint32_t>(std::min<std::size_t>(kChunk, bytes - at))});
  return chunks;
}

std::vector<std::byte> text(std::size_t bytes) {
  constexpr std::string_view kWords = "a varve is one year's layer of sediment on a lake bed; ";
  std::vector<std::byte> content(bytes);
  for (std::size_t i = 0; i < bytes; ++i) content[i] = static_cast<std::byte>(kWords[i % kWords.size()]);
  return content;
}

std::vector<std::byte> smooth_doubles(std::size_t count) {
  std::vector<std::byte> content(8 * count);
  for (std::size_t i = 0; i < count; ++i) {
    const double value = 300.0 + std::sin(static_cast<double>(i) * 0.001);
    std::memcpy(content.data() + 8 * i, &value, 8);
  }
  return content;
}

std::vector<std::byte> encode(std::span<const std::byte> raw, FrameChoice choice, bool& compressed) {
  FrameScratch scratch;
  const auto chunks = split(raw.size());
  std::vector<std::byte> payload(max_frame_payload(chunks.size(), raw.size()));
  payload.resize(encode_frame(raw, chunks, choice, scratch, payload, compressed));
  return payload;
}

std::vector<std::byte> decode(std::span<const std::byte> payload) {
  FrameScratch scratch;
  auto frame = parse_frame(payload, kChunk, {"f", 0});
  EXPECT_TRUE(frame.has_value()) << frame.error().message();
  if (!frame) return {};
  auto raw = unpack_frame(*frame, scratch, {"f", 0});
  EXPECT_TRUE(raw.has_value()) << raw.error().message();
  if (!raw) return {};
  return {raw->begin(), raw->end()};
}

TEST(Shuffle, IsUndoneForEveryElementSizeAndLength) {
  for (std::size_t element = kMinElementBytes; element <= kMaxElementBytes; ++element) {
    for (const std::size_t bytes :
         {std::size_t{1}, element, std::size_t{127}, std::size_t{128}, std::size_t{4096}, std::size_t{4096 + 77}}) {
      const auto from = test::random_bytes(bytes, bytes);
      std::vector<std::byte> shuffled(bytes);
      std::vector<std::byte> back(bytes);
      shuffle_bytes(from, element, shuffled);
      unshuffle_bytes(shuffled, element, back);
      ASSERT_EQ(back, from) << element << " " << bytes;
      // Byte b of element i goes to b * n + i, as the format says.
      const std::size_t n = bytes / element;
      for (std::size_t i = 0; i < n; ++i)
        for (std::size_t b = 0; b < element; ++b)
          ASSERT_EQ(shuffled[b * n + i], from[i * element + b]) << element << " " << bytes;
    }
  }
}

TEST(Shuffle, IsTheSameInEveryInstructionSet) {
  std::size_t count = 0;
  const ShuffleKernels* const* all = shuffle_kernels(&count);
  for (std::size_t k = 0; k < count; ++k) {
    const ShuffleKernels& kernels = *all[k];
    for (std::size_t element = kMinElementBytes; element <= kMaxElementBytes; ++element) {
      for (const std::size_t n :
           {std::size_t{0}, std::size_t{15}, std::size_t{16}, std::size_t{79}, std::size_t{1000}}) {
        // Exactly as long as they may be, so that a sanitizer sees what is read or written beyond.
        const auto from = test::random_bytes(n * element, n);
        std::vector<std::byte> shuffled(n * element);
        std::vector<std::byte> back(n * element);
        const std::size_t done = kernels.shuffle(from.data(), n, element, shuffled.data());
        ASSERT_LE(done, n);
        ASSERT_TRUE(n < 1000 || done >= 900) << kernels.name << " " << element << " " << done;
        for (std::size_t i = 0; i < done; ++i)
          for (std::size_t b = 0; b < element; ++b)
            ASSERT_EQ(shuffled[b * n + i], from[i * element + b]) << kernels.name << " " << element << " " << n;
        for (std::size_t i = done; i < n; ++i)
          for (std::size_t b = 0; b < element; ++b) shuffled[b * n + i] = from[i * element + b];
        const std::size_t undone = kernels.unshuffle(shuffled.data(), n, element, back.data());
        ASSERT_EQ(undone, done) << kernels.name << " " << element;
        ASSERT_TRUE(
            std::equal(back.begin(), back.begin() + static_cast<std::ptrdiff_t>(undone * element), from.begin()))
            << kernels.name << " " << element << " " << n;
      }
    }
  }
}

TEST(Frame, ComesBackUnderEveryCodecAndFilter) {
  for (const auto& raw : {text(65536), smooth_doubles(8192), test::random_bytes(65536, 1), text(5),
                          test::random_bytes(1, 2), text(4097)}) {
    for (const FrameChoice choice :
         {FrameChoice{}, FrameChoice{Codec::lz4, Filter::none, 0}, FrameChoice{Codec::lz4, Filter::shuffle, 8},
          FrameChoice{Codec::lz4, Filter::shuffle, 3}}) {
      bool compressed = false;
      const auto payload = encode(raw, choice, compressed);
      EXPECT_EQ(decode(payload), raw);
      EXPECT_LE(payload.size(), max_frame_payload(split(raw.size()).size(), raw.size()));
    }
  }
}

TEST(Frame, IsRawWhereCompressionDoesNotPay) {
  bool compressed = true;
  const auto payload = encode(test::random_bytes(65536, 1), {Codec::lz4, Filter::none, 0}, compressed);
  EXPECT_FALSE(compressed);
  auto frame = parse_frame(payload, kChunk, {"f", 0});
  ASSERT_TRUE(frame.has_value());
  EXPECT_EQ(frame->choice.codec, Codec::none);
}

TEST(Frame, KnowsNamesAndLengthsOfItsChunks) {
  const auto raw = text(2 * kChunk + 100);
  bool compressed = false;
  const auto payload = encode(raw, {Codec::lz4, Filter::none, 0}, compressed);
  auto frame = parse_frame(payload, kChunk, {"f", 0});
  ASSERT_TRUE(frame.has_value());
  ASSERT_EQ(frame->chunks, 3U);
  EXPECT_EQ(frame->chunk(2).name, (ChunkName{2 * kChunk, 2 * kChunk + 1}));
  EXPECT_EQ(frame->chunk(2).bytes, 100U);
}

ErrorCode refusal(std::vector<std::byte> payload, std::string& message) {
  auto frame = parse_frame(payload, kChunk, {"segments/a-1.seg", 4096});
  if (frame) {
    FrameScratch scratch;
    auto raw = unpack_frame(*frame, scratch, {"segments/a-1.seg", 4096});
    EXPECT_FALSE(raw.has_value());
    if (raw) return ErrorCode::busy;
    message = raw.error().message();
    return raw.error().code();
  }
  message = frame.error().message();
  return frame.error().code();
}

TEST(Frame, RefusesUnknownCodecsAndFiltersByName) {
  bool compressed = false;
  const auto payload = encode(text(1000), {}, compressed);
  std::string message;
  auto changed = payload;
  changed[0] = std::byte{7};
  EXPECT_EQ(refusal(changed, message), ErrorCode::unsupported);
  EXPECT_NE(message.find("codec is 7"), std::string::npos) << message;
  changed = payload;
  changed[1] = std::byte{3};
  EXPECT_EQ(refusal(changed, message), ErrorCode::unsupported);
  EXPECT_NE(message.find("filter is 3"), std::string::npos) << message;
}

/// Bases of all chunks but the first.
std::vector<ChunkName> some_bases(std::size_t bytes) {
  std::vector<ChunkName> bases;
  for (std::size_t i = 0; i < split(bytes).size(); ++i) bases.push_back(i == 0 ? kNoBase : ChunkName{7 * i, 3});
  return bases;
}

/// Random bytes, of which one in 512 differs from what was there before.
std::vector<std::byte> differing(std::span<const std::byte> before) {
  std::vector<std::byte> after(before.begin(), before.end());
  for (std::size_t i = 100; i < after.size(); i += 512) after[i] ^= std::byte{0x5a};
  return after;
}

std::vector<std::byte> difference_of(std::span<const std::byte> a, std::span<const std::byte> b) {
  std::vector<std::byte> bytes(a.size());
  xor_bytes(a, b, bytes);
  return bytes;
}

std::vector<std::byte> encode_difference(std::span<const std::byte> raw, std::span<const std::byte> difference,
                                         std::uint16_t element, bool& compressed) {
  FrameScratch scratch;
  const auto chunks = split(raw.size());
  const auto bases = some_bases(raw.size());
  std::vector<std::byte> payload(max_frame_payload(chunks.size(), raw.size()));
  payload.resize(encode_frame(raw, chunks, {Codec::lz4, Filter::difference, element}, scratch, payload, compressed,
                              {difference, bases}));
  return payload;
}

TEST(Frame, ADifferenceComesBackWithTheNamesOfItsBases) {
  for (const std::size_t bytes : {std::size_t{65536}, std::size_t{3 * kChunk + 1001}}) {
    const auto before = test::random_bytes(bytes, 5);
    const auto raw = differing(before);
    const auto difference = difference_of(raw, before);
    ASSERT_EQ(difference_of(difference, before), raw);
    for (const std::uint16_t element : {std::uint16_t{0}, std::uint16_t{8}, std::uint16_t{3}}) {
      bool compressed = false;
      const auto payload = encode_difference(raw, difference, element, compressed);
      EXPECT_TRUE(compressed);
      EXPECT_LT(payload.size(), raw.size() / 8);
      auto frame = parse_frame(payload, kChunk, {"f", 0});
      ASSERT_TRUE(frame.has_value()) << frame.error().message();
      EXPECT_TRUE(frame->is_difference());
      EXPECT_EQ(frame->choice.element_bytes, element);
      EXPECT_EQ(frame->base(0), kNoBase);
      EXPECT_EQ(frame->base(2), (ChunkName{14, 3}));
      EXPECT_EQ(decode(payload), difference);
    }
  }
}

TEST(Frame, ADifferenceThatDoesNotCompressIsStoredAsItIs) {
  const auto raw = test::random_bytes(65536, 1);
  bool compressed = true;
  const auto payload = encode_difference(raw, test::random_bytes(65536, 2), 0, compressed);
  EXPECT_FALSE(compressed);
  EXPECT_EQ(decode(payload), raw);
}

TEST(Frame, RefusesDifferencesThatCannotBe) {
  const auto before = test::random_bytes(4 * kChunk, 5);
  const auto raw = differing(before);
  bool compressed = false;
  const auto payload = encode_difference(raw, difference_of(raw, before), 8, compressed);
  ASSERT_TRUE(compressed);
  std::string message;
  for (std::size_t length = 0; length < payload.size(); ++length)
    EXPECT_EQ(refusal({payload.begin(), payload.begin() + static_cast<std::ptrdiff_t>(length)}, message),
              ErrorCode::corruption);
  const auto with_byte = [&](std::size_t at, unsigned value) {
    auto changed = payload;
    changed[at] = static_cast<std::byte>(value);
    return changed;
  };
  EXPECT_EQ(refusal(with_byte(0, 0), message), ErrorCode::corruption) << "not compressed";
  for (const unsigned element : {1U, 17U}) {
    EXPECT_EQ(refusal(with_byte(2, element), message), ErrorCode::corruption);
    EXPECT_NE(message.find("elements of"), std::string::npos) << message;
  }
  // The table of bases lies behind that of the chunks.
  const std::size_t bases = kFrameFixedBytes + 4 * kFrameChunkBytes;
  auto own = payload;
  std::copy_n(payload.begin() + kFrameFixedBytes + kFrameChunkBytes, kFrameBaseBytes,
              own.begin() + static_cast<std::ptrdiff_t>(bases + kFrameBaseBytes));
  EXPECT_EQ(refusal(own, message), ErrorCode::corruption);
  EXPECT_NE(message.find("chunk 1 of it is its own base"), std::string::npos) << message;
  auto none = payload;
  std::fill_n(none.begin() + static_cast<std::ptrdiff_t>(bases), 4 * kFrameBaseBytes, std::byte{0});
  EXPECT_EQ(refusal(none, message), ErrorCode::corruption);
  EXPECT_NE(message.find("no chunk of it has a base"), std::string::npos) << message;
  // A table that is short by one base, and as long as it was.
  auto fewer = payload;
  store_le<std::uint32_t>(fewer.data() + 12, load_le<std::uint32_t>(payload.data() + 12) + kFrameBaseBytes);
  EXPECT_EQ(refusal(fewer, message), ErrorCode::corruption);
  auto plain = payload;
  plain[1] = std::byte{1};
  EXPECT_EQ(refusal(plain, message), ErrorCode::corruption) << "a shuffle has no bases";
}

TEST(Frame, RefusesWhatDoesNotFitTogether) {
  bool compressed = false;
  const auto payload = encode(text(5000), {Codec::lz4, Filter::none, 0}, compressed);
  ASSERT_TRUE(compressed);
  std::string message;
  for (std::size_t length = 0; length < payload.size(); ++length)
    EXPECT_EQ(refusal({payload.begin(), payload.begin() + static_cast<std::ptrdiff_t>(length)}, message),
              ErrorCode::corruption);
  const auto with_u32 = [&](std::size_t at, std::uint32_t value) {
    auto changed = payload;
    store_le<std::uint32_t>(changed.data() + at, value);
    return changed;
  };
  for (const std::uint32_t value : {0U, 257U, 0xFFFFFFFFU})
    EXPECT_EQ(refusal(with_u32(4, value), message), ErrorCode::corruption);
  for (const std::uint32_t value : {0U, 4999U, 65537U, 0xFFFFFFFFU})
    EXPECT_EQ(refusal(with_u32(8, value), message), ErrorCode::corruption);
  for (const std::uint32_t value : {0U, 0xFFFFFFFFU})
    EXPECT_EQ(refusal(with_u32(12, value), message), ErrorCode::corruption);
  for (const std::uint32_t value : {0U, 4097U, 0xFFFFF000U})
    EXPECT_EQ(refusal(with_u32(16 + 16, value), message), ErrorCode::corruption);
  EXPECT_NE(message.find("segments/a-1.seg at offset 4096"), std::string::npos) << message;
}

/// Frames through chooser and encoder; how many were compressed, and the payloads' sum.
struct Outcome {
  std::size_t compressed = 0;
  std::size_t tried = 0;
  std::size_t bytes = 0;
};
Outcome run(FilterChooser& chooser, std::span<const std::byte> raw, std::uint32_t element, std::size_t frames) {
  FrameScratch scratch;
  const auto chunks = split(raw.size());
  std::vector<std::byte> payload(max_frame_payload(chunks.size(), raw.size()));
  Outcome outcome;
  for (std::size_t i = 0; i < frames; ++i) {
    const FrameChoice choice = chooser.choose(raw, element, scratch);
    bool compressed = false;
    const std::size_t stored = encode_frame(raw, chunks, choice, scratch, payload, compressed);
    outcome.bytes += stored;
    chooser.learn(element, choice, {.raw_bytes = raw.size(), .stored_bytes = stored, .compressed = compressed});
    outcome.compressed += compressed ? 1 : 0;
    outcome.tried += choice.codec == Codec::none ? 0 : 1;
  }
  return outcome;
}

TEST(FilterChooser, ShufflesDoublesAndNotText) {
  FilterChooser chooser({});
  const auto field = smooth_doubles(8192);
  const Outcome doubles = run(chooser, field, 8, 50);
  EXPECT_EQ(doubles.compressed, 50U);
  EXPECT_LT(doubles.bytes, 50 * field.size() * 8 / 10);  // LZ4 alone leaves it as it is
  FrameScratch scratch;
  EXPECT_EQ(chooser.choose(field, 8, scratch).filter, Filter::shuffle);
  EXPECT_EQ(FilterChooser({}).choose(field, 0, scratch).filter, Filter::shuffle) << "found on samples when nobody says";
  EXPECT_EQ(FilterChooser({}).choose(text(65536), 8, scratch).filter, Filter::none);
}

TEST(FilterChooser, LeavesRandomBytesAloneAndLooksAgainNowAndThen) {
  FilterChooser chooser({});
  const auto noise = test::random_bytes(65536, 3);
  EXPECT_EQ(run(chooser, noise, 0, 300).tried, 0U);
  const Outcome later = run(chooser, text(65536), 0, 100);
  EXPECT_GT(later.compressed, 30U);  // found out within 64 frames
}

TEST(FilterChooser, NoticesWhenCompressionStopsPaying) {
  FilterChooser chooser({});
  EXPECT_EQ(run(chooser, text(65536), 0, 10).compressed, 10U);
  EXPECT_LE(run(chooser, test::random_bytes(65536, 3), 0, 100).tried, 4U);
}

TEST(FilterChooser, NeverCompressesWhenToldNotTo) {
  FilterChooser chooser({.compress = false});
  EXPECT_EQ(run(chooser, text(65536), 0, 40).tried, 0U);
}

TEST(FilterChooser, SaysBeforehandWhatItWillStoreRaw) {
  FrameScratch scratch;
  FilterChooser never({.compress = false});
  EXPECT_TRUE(never.choose_raw(8));

  FilterChooser chooser({});
  const auto noise = test::random_bytes(kFrameRawBytes, 1);
  EXPECT_FALSE(chooser.choose_raw(8)) << "nothing is known yet";
  EXPECT_EQ(chooser.choose(noise, 8, scratch).codec, Codec::none);
  unsigned raw = 0;
  while (raw < 1000 && chooser.choose_raw(8)) ++raw;
  EXPECT_GT(raw, 0U);
  EXPECT_LT(raw, 1000U) << "it is probed again";
  EXPECT_FALSE(chooser.choose_raw(4)) << "other elements are other data";
  EXPECT_EQ(chooser.choose(text(kFrameRawBytes), 8, scratch).codec, Codec::lz4);
  EXPECT_FALSE(chooser.choose_raw(8));
}

TEST(Frame, RawInPlaceIsTheSamePayload) {
  for (const std::size_t bytes : {std::size_t{1}, std::size_t{5000}, std::size_t{kFrameRawBytes}}) {
    const auto raw = test::random_bytes(bytes, 7);
    bool compressed = true;
    const auto copied = encode(raw, {}, compressed);
    const auto chunks = split(bytes);
    std::vector<std::byte> in_place(max_frame_payload(chunks.size(), bytes));
    std::ranges::copy(raw, in_place.end() - static_cast<std::ptrdiff_t>(bytes));
    EXPECT_EQ(encode_raw_frame(chunks, bytes, in_place), in_place.size());
    EXPECT_EQ(in_place, copied);
  }
}

TEST(FilterChooser, FindsTheSizeOfElementsWhenNobodySays) {
  FrameScratch scratch;
  for (const std::uint16_t element : {std::uint16_t{8}, std::uint16_t{12}, std::uint16_t{16}}) {
    // Each element has `element - 2` bytes that repeat, no two of them alike, and two that don't.
    auto raw = test::random_bytes(kFrameRawBytes, element);
    for (std::size_t i = 0; i < raw.size(); ++i)
      if (i % element >= 2) raw[i] = static_cast<std::byte>(i % element * 37);
    const FrameChoice choice = FilterChooser({}).choose(raw, 0, scratch);
    EXPECT_EQ(choice.filter, Filter::shuffle) << element;
    EXPECT_EQ(choice.element_bytes, element);
  }
  std::vector<std::byte> floats(kFrameRawBytes);
  for (std::size_t i = 0; i < floats.size() / 4; ++i) {
    const float value = 1 + 0.5F * static_cast<float>(std::sin(static_cast<double>(i) * 1e-4));
    std::memcpy(floats.data() + 4 * i, &value, 4);
  }
  EXPECT_EQ(FilterChooser({}).choose(floats, 0, scratch).element_bytes, 4U);
}

TEST(NextLevel, IsTheSmallestThatKeepsUpWithTheDisk) {
  const auto next = [](unsigned level, double compress, double disk) {
    return next_level(level, {.compress = compress, .disk = disk});
  };
  constexpr unsigned kFastest = kCompressionLevels - 1;
  EXPECT_EQ(next(2, 0, 1e9), (LevelChoice{2, false})) << "nothing measured yet";
  EXPECT_EQ(next(2, 1e9, 0), (LevelChoice{2, false})) << "nothing written yet";
  EXPECT_EQ(next(2, 1.1e9, 1e9), (LevelChoice{2, false}));
  EXPECT_EQ(next(2, 0.9e9, 1e9), (LevelChoice{3, false}));
  EXPECT_EQ(next(1, 0.4e9, 1e9), (LevelChoice{kFastest, false})) << "far behind";
  EXPECT_EQ(next(2, 2e9, 1e9), (LevelChoice{1, false})) << "far ahead";
  EXPECT_EQ(next(0, 9e9, 1e9), (LevelChoice{0, false}));
  EXPECT_EQ(next(kFastest, 0.9e9, 1e9), (LevelChoice{kFastest, true})) << "nothing is fast enough";
}

TEST(DiskSpeed, IsOfLongWritesAndFollowsThem) {
  DiskSpeed speed;
  speed.add(4096, 500'000);  // a tiny image: a latency
  EXPECT_EQ(speed.bytes_per_second(), 0);
  speed.add(8 << 20, 8'000'000);
  EXPECT_DOUBLE_EQ(speed.bytes_per_second(), static_cast<double>(1 << 20) * 1000);
  for (int i = 0; i < 10; ++i) speed.add(8 << 20, 80'000'000);
  EXPECT_NEAR(speed.bytes_per_second(), static_cast<double>(1 << 20) * 100, 1e6);
}

/// Frames of smooth doubles, on a processor that compresses so fast at the slowest level, and 1.4 times as fast at each
/// one above it.
FrameChoice settle(FilterChooser& chooser, double bytes_per_second, double disk, std::size_t frames,
                   double other_ns = 0) {
  static const auto raw = smooth_doubles(kFrameRawBytes / 8);
  FrameScratch scratch;
  chooser.set_disk_speed(disk, other_ns);
  FrameChoice choice;
  for (std::size_t i = 0; i < frames; ++i) {
    choice = chooser.choose(raw, 8, scratch);
    const double speed = bytes_per_second * std::pow(1.4, choice.level);
    chooser.learn(8, choice,
                  {.raw_bytes = raw.size(),
                   .stored_bytes = raw.size() * 7 / 10,
                   .compressed = true,
                   .encode_ns = static_cast<std::uint64_t>(static_cast<double>(raw.size()) * 1e9 / speed)});
  }
  return choice;
}

TEST(FilterChooser, CompressesNoMoreSlowlyThanTheDiskTakesTheRawBytes) {
  FilterChooser chooser({});
  EXPECT_EQ(settle(chooser, 0.6e9, 0, 200).level, 0U) << "nobody knows the disk yet";
  EXPECT_EQ(settle(chooser, 0.6e9, 1e9, 500).level, 2U);  // 0.6, 0.84, 1.18
  EXPECT_EQ(settle(chooser, 0.6e9, 0.2e9, 500).level, 0U);
  EXPECT_EQ(settle(chooser, 0.6e9, 1e9, 500).level, 2U);
  EXPECT_EQ(settle(chooser, 0.6e9, 1e12, 500).codec, Codec::none) << "raw where nothing is fast enough";
  // A disk of 1 MB/s: it is probed now and then, and this processor is surely faster than that.
  EXPECT_EQ(settle(chooser, 0.6e9, 1e6, 500).codec, Codec::lz4);
  EXPECT_EQ(settle(chooser, 0.6e9, 1e6, 500).level, 0U);
}

TEST(FilterChooser, CountsWhatTheThreadDoesBesides) {
  FilterChooser chooser({});
  settle(chooser, 0.6e9, 0, 200);  // as long as nobody knows the disk, no sample is timed on this processor
  // 5 GB/s for that; together 0.54, 0.72, 0.95, 1.24.
  EXPECT_EQ(settle(chooser, 0.6e9, 1e9, 500, 0.2).level, 3U);
}

TEST(FilterChooser, CountsTheThreadsThatCompress) {
  FilterChooser chooser({.threads = 2});
  settle(chooser, 0.6e9, 0, 200);
  const FrameChoice choice = settle(chooser, 0.6e9, 1e9, 500);
  EXPECT_EQ(choice.codec, Codec::lz4);
  EXPECT_EQ(choice.level, 0U);
}

MakeDifference given(const std::vector<std::byte>& difference) {
  return [&difference] { return std::span<const std::byte>(difference); };
}

TEST(FilterChooser, StoresADifferenceWhereFewBytesChange) {
  FrameScratch scratch;
  const auto before = test::random_bytes(kFrameRawBytes, 9);
  const auto raw = differing(before);
  const auto difference = difference_of(raw, before);
  FilterChooser chooser({});
  EXPECT_EQ(chooser.choose(raw, 8, scratch, given(difference)).filter, Filter::difference);
  EXPECT_EQ(FilterChooser({}).choose(raw, 0, scratch, given(difference)).filter, Filter::difference);
  EXPECT_EQ(FilterChooser({}).choose(raw, 8, scratch).codec, Codec::none) << "it replaces nothing";
  const std::vector<std::byte> none;
  EXPECT_EQ(chooser.choose(raw, 8, scratch, given(none)).codec, Codec::none) << "a frame that lacks bases";
  EXPECT_EQ(chooser.choose(raw, 8, scratch, given(difference)).filter, Filter::difference);
  EXPECT_EQ(FilterChooser({.compress = false}).choose(raw, 8, scratch, given(difference)).codec, Codec::none);
  EXPECT_EQ(FilterChooser({}).choose(raw, 8, scratch, given(test::random_bytes(kFrameRawBytes, 10))).codec,
            Codec::none);
}

TEST(FilterChooser, StoresADifferenceOfSmoothFieldsOnlyToSaveSpace) {
  FrameScratch scratch;
  // A step later the low bytes of every value are others: less is left, but not by much.
  const auto field = smooth_doubles(kFrameRawBytes / 8);
  auto before = field;
  const auto noise = test::random_bytes(kFrameRawBytes, 4);
  for (std::size_t i = 0; i < before.size(); i += 8)
    for (std::size_t b = 0; b < 4; ++b) before[i + b] ^= noise[i + b];
  const auto difference = difference_of(field, before);
  EXPECT_EQ(FilterChooser({}).choose(field, 8, scratch, given(difference)).filter, Filter::shuffle);
  const FrameChoice smallest = FilterChooser({.favour_size = true}).choose(field, 8, scratch, given(difference));
  EXPECT_EQ(smallest.filter, Filter::difference);
  EXPECT_EQ(smallest.element_bytes, 8U);
}

TEST(FilterChooser, LooksForNoBasesBetweenTheSamplesOfWhatStaysRaw) {
  FrameScratch scratch;
  FilterChooser chooser({});
  const auto noise = test::random_bytes(kFrameRawBytes, 1);
  unsigned asked = 0;
  const MakeDifference ask = [&] {
    ++asked;
    return std::span<const std::byte>(noise);
  };
  EXPECT_EQ(chooser.choose(noise, 8, scratch, ask).codec, Codec::none);
  EXPECT_EQ(asked, 1U);
  unsigned raw = 0;
  while (raw < 1000 && chooser.choose_raw(8, true)) ++raw;
  EXPECT_GT(raw, 0U);
  EXPECT_LT(raw, 1000U);
  EXPECT_EQ(asked, 1U);
}

TEST(FilterChooser, DropsADifferenceThatIsSlowerThanTheDisk) {
  FrameScratch scratch;
  const auto before = test::random_bytes(kFrameRawBytes, 9);
  const auto raw = differing(before);
  const auto difference = difference_of(raw, before);
  const auto settle_difference = [&](FilterChooser& chooser, std::uint64_t base_ns, std::size_t frames) {
    std::size_t differences = 0;
    for (std::size_t i = 0; i < frames; ++i) {
      const FrameChoice choice = chooser.choose(raw, 8, scratch, given(difference));
      const bool chosen = choice.filter == Filter::difference;
      differences += chosen ? 1 : 0;
      chooser.learn(8, choice,
                    {.raw_bytes = raw.size(),
                     .stored_bytes = raw.size() / 20,
                     .compressed = choice.codec == Codec::lz4,
                     .encode_ns = 1000,
                     .base_ns = chosen ? base_ns : 0,
                     .replaces = true});
    }
    return differences;
  };
  constexpr double kDisk = 1e6;  // this processor is surely faster: what is slow here is what learn() is told
  constexpr std::uint64_t kSlow = 1'000'000'000;
  FilterChooser fast({});
  fast.set_disk_speed(kDisk);
  EXPECT_EQ(settle_difference(fast, 1000, 400), 400U);
  FilterChooser slow({});
  slow.set_disk_speed(kDisk);
  EXPECT_LT(settle_difference(slow, kSlow, 400), 200U);
  EXPECT_GT(settle_difference(slow, 1000, 3000), 1000U) << "it is tried again";
  FilterChooser small({.favour_size = true});
  small.set_disk_speed(kDisk);
  EXPECT_EQ(settle_difference(small, kSlow, 400), 400U);
}

TEST(FilterChooser, LeavesADifferenceThatHasDriftedAway) {
  FrameScratch scratch;
  FilterChooser chooser({});
  const auto before = test::random_bytes(kFrameRawBytes, 9);
  auto raw = differing(before);
  auto difference = difference_of(raw, before);
  EXPECT_EQ(chooser.choose(raw, 8, scratch, given(difference)).filter, Filter::difference);
  difference = test::random_bytes(kFrameRawBytes, 10);
  FrameChoice choice;
  for (int i = 0; i < 4; ++i) {
    choice = chooser.choose(raw, 8, scratch, given(difference));
    chooser.learn(8, choice, {.raw_bytes = raw.size(), .stored_bytes = raw.size(), .replaces = true});
  }
  EXPECT_EQ(choice.codec, Codec::none);
}

TEST(FilterChooser, FavoursSizeWhenAsked) {
  FilterChooser chooser({.favour_size = true});
  const FrameChoice choice = settle(chooser, 0.6e9, 1e12, 500);
  EXPECT_EQ(choice.codec, Codec::lz4);
  EXPECT_EQ(choice.level, 0U);
}

}  // namespace
}  // namespace varve::storage
