// SPDX-License-Identifier: Apache-2.0
#include "storage/chunk_name.h"

#include <cstring>

#include "storage/hash_kernels.h"

namespace varve::storage {
namespace {

struct Choice {
  const HashKernels* kernels[3] = {};
  std::size_t count = 0;
};

Choice choose() {
  Choice choice;
#if defined(__x86_64__)
  // __builtin_cpu_supports also asks whether the kernel saves these registers.
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
    choice.kernels[choice.count++] = &kHashAvx512;
  if (__builtin_cpu_supports("avx2")) choice.kernels[choice.count++] = &kHashAvx2;
#endif
  choice.kernels[choice.count++] = &kHashBaseline;
  return choice;
}

const Choice& choice() {
  static const Choice the_choice = choose();
  return the_choice;
}

const HashKernels& best() { return *choice().kernels[0]; }

}  // namespace

const HashKernels* const* hash_kernels(std::size_t* count) {
  *count = choice().count;
  return choice().kernels;
}

ChunkName name_chunk(std::span<const std::byte> content, const HashSecret& secret) {
  std::uint64_t halves[2];
  best().hash_128(content.data(), content.size(), secret.data(), secret.size(), halves);
  return {.low = halves[0], .high = halves[1]};
}

std::uint64_t checksum(std::span<const std::byte> bytes, std::uint64_t seed) {
  return best().hash_64(bytes.data(), bytes.size(), seed);
}

std::uint64_t checksum(Parts parts, std::uint64_t seed) {
  Checksum sum(seed);
  for (const auto& part : parts) sum.add(part);
  return sum.value();
}

Checksum::Checksum(std::uint64_t seed) {
  static_assert(sizeof state_ >= kHashStateBytes);
  best().hash_64_begin(state_.data(), seed);
}

void Checksum::add(std::span<const std::byte> bytes) { best().hash_64_add(state_.data(), bytes.data(), bytes.size()); }

std::uint64_t Checksum::value() const { return best().hash_64_end(state_.data()); }

bool is_zero(std::span<const std::byte> content) {
  // In blocks of eight vectors: few branches over zeros (two to four times as fast as words, gcc 12), and content that
  // is not zero mostly shows in the first block.
  using Vector = std::uint64_t __attribute__((vector_size(16)));
  Vector block[8];
  const std::byte* at = content.data();
  std::size_t left = content.size();
  for (; left >= sizeof block; at += sizeof block, left -= sizeof block) {
    std::memcpy(block, at, sizeof block);
    const Vector any =
        ((block[0] | block[1]) | (block[2] | block[3])) | ((block[4] | block[5]) | (block[6] | block[7]));
    if ((any[0] | any[1]) != 0) return false;
  }
  for (; left > 0; ++at, --left)
    if (*at != std::byte{0}) return false;
  return true;
}

std::string_view hash_implementation() { return best().name; }

std::string to_string(const ChunkName& name) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text(32, '0');
  for (std::size_t i = 0; i < 16; ++i) {
    const auto shift = 60 - 4 * i;
    text[i] = kDigits[(name.high >> shift) & 15];
    text[16 + i] = kDigits[(name.low >> shift) & 15];
  }
  return text;
}

}  // namespace varve::storage
