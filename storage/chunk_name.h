// SPDX-License-Identifier: Apache-2.0
//
// ChunkName: the XXH3-128 of a chunk's content, keyed with the store's secret (docs/formats/store.md). The fastest
// implementation that the processor has is chosen once at run time. Values; any thread.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace varve::storage {

struct ChunkName {
  std::uint64_t low = 0;
  std::uint64_t high = 0;
  friend bool operator==(const ChunkName&, const ChunkName&) = default;
  friend auto operator<=>(const ChunkName&, const ChunkName&) = default;
};
static_assert(sizeof(ChunkName) == 16);

inline constexpr std::size_t kHashSecretBytes = 192;
using HashSecret = std::array<std::byte, kHashSecretBytes>;

ChunkName name_chunk(std::span<const std::byte> content, const HashSecret& secret);
/// Checksum of stored records: XXH3-64 with a seed.
std::uint64_t checksum(std::span<const std::byte> bytes, std::uint64_t seed);
/// Bytes in several places that stand for those one behind the other.
using Parts = std::span<const std::span<const std::byte>>;
std::uint64_t checksum(Parts parts, std::uint64_t seed);
/// The same of bytes that are there one part after another.
class Checksum {
 public:
  explicit Checksum(std::uint64_t seed);
  void add(std::span<const std::byte> bytes);
  std::uint64_t value() const;

 private:
  alignas(64) std::array<std::byte, 576> state_;  // XXH3_state_t
};
/// Whether every byte is zero.
bool is_zero(std::span<const std::byte> content);
/// "avx512", "avx2", "sse2".
std::string_view hash_implementation();
/// 32 hexadecimal digits.
std::string to_string(const ChunkName& name);

}  // namespace varve::storage
