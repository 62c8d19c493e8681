// SPDX-License-Identifier: Apache-2.0
#include "tools/ckpt_bench/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "base/bytes.h"
#include "base/os_error.h"
#include "tools/units.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23  // include/uapi/asm-generic/mman-common.h, since 5.14
#endif

namespace varve::tools {
namespace {

constexpr std::size_t kHugePageBytes = std::size_t{2} << 20;
constexpr std::array<std::pair<DataKind, std::string_view>, 5> kKinds = {{{DataKind::random, "random"},
                                                                          {DataKind::particles, "particles"},
                                                                          {DataKind::field, "field"},
                                                                          {DataKind::heap, "heap"},
                                                                          {DataKind::zeros, "zeros"}}};

// SplitMix64 (Steele, Lea, Flood 2014): a full-period mix, one multiply chain a word.
std::uint64_t mix(std::uint64_t value) {
  value += 0x9e3779b97f4a7c15u;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
  return value ^ (value >> 31);
}

double unit_interval(std::uint64_t bits) { return static_cast<double>(bits >> 11) * 0x1p-53; }

template <class Make>
void fill_words(std::span<std::byte> memory, const Make& make) {
  const std::size_t words = memory.size() / 8;
  for (std::size_t i = 0; i < words; ++i) {
    const auto word = make(i);
    static_assert(sizeof word == 8);
    std::memcpy(memory.data() + i * 8, &word, 8);
  }
  std::memset(memory.data() + words * 8, 0x5a, memory.size() % 8);
}

// Position and velocity of particles on a lattice, a little off it: x y z vx vy vz, 48 bytes each.
double particle_word(std::size_t i, std::uint64_t salt) {
  const std::size_t particle = i / 6, axis = i % 6;
  const double noise = unit_interval(mix(salt ^ (particle * 8 + axis)));
  if (axis >= 3) return (noise - 0.5) * 1e-3;
  const std::size_t cell = axis == 0 ? particle % 128 : axis == 1 ? particle / 128 % 128 : particle / 16384;
  return static_cast<double>(cell) + noise * 0.1;
}

double field_word(std::size_t i, std::uint64_t salt) {
  const double phase = unit_interval(mix(salt)) * 6.28;
  return 1.0 + 0.5 * std::sin(static_cast<double>(i) * 1e-4 + phase);
}

// Of eight words: two pointers, three small numbers, a flag word, sixteen bytes of text.
std::uint64_t heap_word(std::size_t i, std::uint64_t salt) {
  static constexpr std::string_view kText = "status=ok;user=guest;retry=0;path=/var/lib/cache/objects/;type=text/html;";
  const std::uint64_t noise = mix(salt ^ i);
  switch (i % 8) {
    case 0:
    case 1: return 0x00007f3a00000000u + (noise & 0x0ffffff0u);
    case 2:
    case 3:
    case 4: return noise & 0xff;
    case 5: return std::uint64_t{1} << (noise & 7);
    default: {
      std::uint64_t word = 0;
      std::memcpy(&word, kText.data() + noise % (kText.size() - 8), 8);
      return word;
    }
  }
}

}  // namespace

std::string_view to_string(DataKind kind) {
  for (const auto& [value, name] : kKinds)
    if (value == kind) return name;
  return "unknown";
}

std::optional<DataKind> parse_data(std::string_view name) {
  for (const auto& [value, known] : kKinds)
    if (known == name) return value;
  return std::nullopt;
}

std::uint32_t element_bytes(DataKind kind) {
  return kind == DataKind::particles || kind == DataKind::field ? sizeof(double) : 0;
}

Result<Mapping> Mapping::create(const Options& options) {
  Mapping mapping;
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  mapping.size_ = options.bytes;
  // Aligned to huge pages, so that two mappings of one benchmark get the same share of them.
  mapping.mapped_ = round_up(options.offset % page + options.bytes, page) + kHugePageBytes;
  void* base =
      mmap(nullptr, mapping.mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED)
    return os_error(fmt::format("mapping of {} for the benchmark failed", format_bytes(options.bytes)), errno,
                    "choose a smaller --size");
  mapping.base_ = static_cast<std::byte*>(base);
  const auto address = reinterpret_cast<std::uintptr_t>(base);
  mapping.offset_ = round_up(address, kHugePageBytes) - address + options.offset % page;
  if (options.huge_pages != HugePages::system)  // only a wish: kernels without huge pages refuse it
    madvise(base, mapping.mapped_, options.huge_pages == HugePages::always ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  if (options.populate) tools::populate(mapping.bytes());
  return mapping;
}

Mapping::Mapping(Mapping&& other) noexcept
    : base_(std::exchange(other.base_, nullptr)), mapped_(other.mapped_), offset_(other.offset_), size_(other.size_) {}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  std::swap(base_, other.base_);
  std::swap(mapped_, other.mapped_);
  std::swap(offset_, other.offset_);
  std::swap(size_, other.size_);
  return *this;
}

Mapping::~Mapping() {
  if (base_ != nullptr) munmap(base_, mapped_);
}

void populate(std::span<std::byte> memory) {
  const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = round_down(reinterpret_cast<std::uintptr_t>(memory.data()), page);
  const auto end = round_up(reinterpret_cast<std::uintptr_t>(memory.data()) + memory.size(), page);
  if (madvise(reinterpret_cast<void*>(begin), end - begin, MADV_POPULATE_WRITE) == 0) return;
  for (auto at = begin; at < end; at += page) {  // older kernels
    auto* byte = reinterpret_cast<volatile std::byte*>(at);
    *byte = *byte;
  }
}

void fill(std::span<std::byte> memory, DataKind kind, std::uint64_t salt) {
  switch (kind) {
    case DataKind::random: return fill_words(memory, [salt](std::size_t i) { return mix(salt * 0x10001u + i); });
    case DataKind::particles: return fill_words(memory, [salt](std::size_t i) { return particle_word(i, salt); });
    case DataKind::field: return fill_words(memory, [salt](std::size_t i) { return field_word(i, salt); });
    case DataKind::heap: return fill_words(memory, [salt](std::size_t i) { return heap_word(i, salt); });
    case DataKind::zeros: std::memset(memory.data(), 0, memory.size()); return;
  }
}

void change(std::span<std::byte> piece, DataKind kind, std::uint64_t salt) {
  const std::size_t words = piece.size() / 8;
  const bool doubles = element_bytes(kind) == sizeof(double);
  const double factor = 1.0 + 1e-7 * static_cast<double>(salt % 64 + 1);
  const std::uint64_t bits = kind == DataKind::random ? mix(salt) | 1 : salt;
  for (std::size_t i = 0; i < words; ++i) {
    std::byte* at = piece.data() + i * 8;
    if (doubles) {
      double value = 0;
      std::memcpy(&value, at, 8);
      value *= factor;
      std::memcpy(at, &value, 8);
    } else {
      std::uint64_t value = 0;
      std::memcpy(&value, at, 8);
      value = kind == DataKind::random ? value ^ bits : value + bits;
      std::memcpy(at, &value, 8);
    }
  }
}

}  // namespace varve::tools
