// SPDX-License-Identifier: Apache-2.0
#include "storage/chunk_name.h"

#include <xxhash.h>

#include <initializer_list>
#include <random>
#include <set>
#include <vector>

#include <gtest/gtest.h>

#include "storage/hash_kernels.h"

namespace varve::storage {
namespace {

std::vector<std::byte> random_bytes(std::size_t size, unsigned seed) {
  std::mt19937 generator(seed);
  std::vector<std::byte> bytes(size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(generator() & 0xff);
  return bytes;
}

HashSecret secret_of(unsigned seed) {
  HashSecret secret;
  const auto bytes = random_bytes(secret.size(), seed);
  std::copy(bytes.begin(), bytes.end(), secret.begin());
  return secret;
}

/// Every branch of XXH3 by length: 0, 1-3, 4-8, 9-16, 17-128, 129-240, and the long loop around its blocks.
std::vector<std::size_t> lengths() {
  std::vector<std::size_t> all;
  for (std::size_t length = 0; length <= 300; ++length) all.push_back(length);
  for (const std::size_t length :
       std::initializer_list<std::size_t>{1023, 1024, 1025, 4095, 4096, 4097, 8192, 65535, 65536, 100001})
    all.push_back(length);
  return all;
}

TEST(ChunkName, EveryImplementationAgreesWithTheLibrary) {
  const HashSecret secret = secret_of(1);
  const auto content = random_bytes(100002, 2);
  std::size_t count = 0;
  const HashKernels* const* kernels = hash_kernels(&count);
  ASSERT_GE(count, 1U);
  for (std::size_t i = 0; i < count; ++i) {
    for (const std::size_t length : lengths()) {
      const std::byte* at = content.data() + length % 2;  // also at odd addresses
      std::uint64_t halves[2];
      kernels[i]->hash_128(at, length, secret.data(), secret.size(), halves);
      const XXH128_hash_t expected = XXH3_128bits_withSecret(at, length, secret.data(), secret.size());
      ASSERT_EQ(halves[0], expected.low64) << kernels[i]->name << " " << length;
      ASSERT_EQ(halves[1], expected.high64) << kernels[i]->name << " " << length;
      for (const std::uint64_t seed : {std::uint64_t{0}, std::uint64_t{0x123456789abcdef0}})
        ASSERT_EQ(kernels[i]->hash_64(at, length, seed), XXH3_64bits_withSeed(at, length, seed))
            << kernels[i]->name << " " << length;
      for (const std::size_t cut : {std::size_t{0}, length / 3, length}) {
        alignas(64) std::byte state[kHashStateBytes];
        kernels[i]->hash_64_begin(state, 7);
        kernels[i]->hash_64_add(state, at, cut);
        kernels[i]->hash_64_add(state, at + cut, 0);
        kernels[i]->hash_64_add(state, at + cut, length - cut);
        ASSERT_EQ(kernels[i]->hash_64_end(state), XXH3_64bits_withSeed(at, length, 7))
            << kernels[i]->name << " " << length << " " << cut;
      }
    }
  }
  EXPECT_EQ(hash_implementation(), kernels[0]->name);
}

TEST(ChunkName, ProcessorsWithAvx2DoNotUseTheBaseline) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) {
    EXPECT_NE(hash_implementation(), "sse2");
  }
#endif
}

TEST(ChunkName, DependsOnContentLengthAndSecret) {
  const auto content = random_bytes(4096, 3);
  const std::span<const std::byte> all(content);
  std::set<ChunkName> names;
  for (unsigned seed = 0; seed < 10; ++seed) names.insert(name_chunk(all, secret_of(seed)));
  for (std::size_t length = 4000; length < 4090; ++length) names.insert(name_chunk(all.first(length), secret_of(0)));
  for (std::size_t i = 0; i < 4096; i += 41) {
    auto changed = content;
    changed[i] ^= std::byte{1};
    names.insert(name_chunk(changed, secret_of(0)));
  }
  EXPECT_EQ(names.size(), 10U + 90U + 100U);
}

TEST(ChunkName, NeverChangesBetweenVersions) {
  // Stores of every version depend on these values.
  HashSecret secret;
  for (std::size_t i = 0; i < secret.size(); ++i) secret[i] = static_cast<std::byte>(i);
  std::vector<std::byte> content(4096);
  for (std::size_t i = 0; i < content.size(); ++i) content[i] = static_cast<std::byte>(i * 7);
  EXPECT_EQ(to_string(name_chunk(content, secret)), "a017ddf8f8867a1b62e27028def5985b");
  EXPECT_EQ(checksum(content, 42), 0xc7e448f55101b62cU);
}

TEST(ChunkName, PrintsHighHalfFirst) {
  EXPECT_EQ(to_string(ChunkName{.low = 0x0123456789abcdef, .high = 0xfedcba9876543210}),
            "fedcba98765432100123456789abcdef");
  EXPECT_EQ(to_string(ChunkName{.low = 1, .high = 0}), "00000000000000000000000000000001");
}

TEST(IsZero, FindsASingleBitAnywhere) {
  for (const std::size_t length : std::initializer_list<std::size_t>{0, 1, 7, 8, 63, 64, 65, 127, 200, 4096, 4099}) {
    std::vector<std::byte> memory(length + 2);
    memory.front() = memory.back() = std::byte{0xff};  // must not look beyond the ends
    const std::span<std::byte> content = std::span(memory).subspan(1, length);
    EXPECT_TRUE(is_zero(content)) << length;
    for (std::size_t i = 0; i < length; ++i) {
      content[i] = std::byte{0x80};
      EXPECT_FALSE(is_zero(content)) << length << " " << i;
      content[i] = std::byte{0};
    }
  }
}

}  // namespace
}  // namespace varve::storage
