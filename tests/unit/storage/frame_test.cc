// SPDX-License-Identifier: Apache-2.0
#include "storage/frame.h"

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
  changed[1] = std::byte{2};
  EXPECT_EQ(refusal(changed, message), ErrorCode::unsupported);
  EXPECT_NE(message.find("'difference'"), std::string::npos) << message;
  changed[1] = std::byte{3};
  EXPECT_EQ(refusal(changed, message), ErrorCode::unsupported);
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
    outcome.bytes += encode_frame(raw, chunks, choice, scratch, payload, compressed);
    chooser.learn(element, choice, compressed);
    outcome.compressed += compressed ? 1 : 0;
    outcome.tried += choice.codec == Codec::none ? 0 : 1;
  }
  return outcome;
}

TEST(FilterChooser, ShufflesDoublesAndNotText) {
  FilterChooser chooser(true);
  const auto field = smooth_doubles(8192);
  const Outcome doubles = run(chooser, field, 8, 50);
  EXPECT_EQ(doubles.compressed, 50U);
  EXPECT_LT(doubles.bytes, 50 * field.size() * 8 / 10);  // LZ4 alone leaves it as it is
  FrameScratch scratch;
  EXPECT_EQ(chooser.choose(field, 8, scratch).filter, Filter::shuffle);
  EXPECT_EQ(FilterChooser(true).choose(field, 0, scratch).filter, Filter::shuffle)
      << "found on samples when nobody says";
  EXPECT_EQ(FilterChooser(true).choose(text(65536), 8, scratch).filter, Filter::none);
}

TEST(FilterChooser, LeavesRandomBytesAloneAndLooksAgainNowAndThen) {
  FilterChooser chooser(true);
  const auto noise = test::random_bytes(65536, 3);
  EXPECT_EQ(run(chooser, noise, 0, 300).tried, 0U);
  const Outcome later = run(chooser, text(65536), 0, 100);
  EXPECT_GT(later.compressed, 30U);  // found out within 64 frames
}

TEST(FilterChooser, NoticesWhenCompressionStopsPaying) {
  FilterChooser chooser(true);
  EXPECT_EQ(run(chooser, text(65536), 0, 10).compressed, 10U);
  EXPECT_LE(run(chooser, test::random_bytes(65536, 3), 0, 100).tried, 4U);
}

TEST(FilterChooser, NeverCompressesWhenToldNotTo) {
  FilterChooser chooser(false);
  EXPECT_EQ(run(chooser, text(65536), 0, 40).tried, 0U);
}

}  // namespace
}  // namespace varve::storage
