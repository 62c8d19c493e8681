// SPDX-License-Identifier: Apache-2.0
//
// What the memory of the benchmarks holds, by kind of program, and how such a program changes a page of it.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "tools/ckpt_bench/memory.h"

namespace varve::tools {
namespace {

constexpr std::array<std::pair<DataKind, std::string_view>, 8> kKinds = {{{DataKind::random, "random"},
                                                                          {DataKind::particles, "particles"},
                                                                          {DataKind::field, "field"},
                                                                          {DataKind::heap, "heap"},
                                                                          {DataKind::graph, "graph"},
                                                                          {DataKind::key_value, "key-value"},
                                                                          {DataKind::text, "text"},
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

// Vertices of 32 bytes: rank, degree and first edge, label, epoch of the last visit. Degrees follow a power law.
std::uint64_t graph_word(std::size_t i, std::uint64_t salt) {
  const std::size_t vertex = i / 4;
  const std::uint64_t noise = mix(salt ^ vertex);
  const auto degree = static_cast<std::uint64_t>(1 / std::max(unit_interval(noise), 1e-4));
  switch (i % 4) {
    case 0: {
      const double rank = 0.15 + 0.85 * static_cast<double>(degree) * 1e-3;
      std::uint64_t word = 0;
      std::memcpy(&word, &rank, 8);
      return word;
    }
    case 1: return degree << 32 | (vertex * 4 & 0xffffffffu);
    case 2: return noise & 0x3f;
    default: return 0;
  }
}

// Entries of 128 bytes: hash of the key, version and length, time of expiry, value. What a shorter value leaves of the
// longer one before it stays there, as in a heap.
constexpr std::size_t kEntryWords = 16, kValueWord = 3;

std::uint64_t entry_word(std::size_t i, std::uint64_t salt) {
  const std::size_t entry = i / kEntryWords, at = i % kEntryWords;
  const std::uint64_t noise = mix(salt * 0x10001u ^ entry);
  if (at == 0) return noise;
  if (at == 1) return (salt & 0xffff) << 32 | (8 + noise % 96);
  if (at == 2) return 1'700'000'000 + (noise & 0xfffff);
  return heap_word(6 + 8 * (i % 1024), noise >> 40);  // text
}

constexpr std::array<std::string_view, 32> kWords = {
    "the ",    "of ",     "and ",     "in ",       "to ",        "a ",       "is ",     "that ",
    "for ",    "it ",     "was ",     "with ",     "as ",        "on ",      "be ",     "at ",
    "by ",     "this ",   "from ",    "water ",    "layer ",     "lake ",    "stone ",  "river ",
    "winter ", "summer ", "measure ", "sediment ", "thickness ", "between ", "year.\n", "ice "};

// Words, the common ones more often; four pointers in each half KiB, as in a rope or a tree of nodes.
void fill_text(std::span<std::byte> memory, std::uint64_t salt) {
  std::uint64_t noise = salt;
  std::size_t at = 0;
  while (at < memory.size()) {
    noise = mix(noise);
    const bool pointers = at % 512 + 32 > 512 && at + 8 <= memory.size();
    if (pointers) {
      const std::uint64_t pointer = 0x00005581'00000000u + (noise & 0x00fffff0u);
      std::memcpy(memory.data() + at, &pointer, 8);
      at += 8;
      continue;
    }
    const auto& word = kWords[std::min(noise & 31, noise >> 5 & 31)];
    const std::size_t bytes = std::min(word.size(), memory.size() - at);
    std::memcpy(memory.data() + at, word.data(), bytes);
    at += bytes;
  }
}

// Applies `next(value, index)` to each word; the index is counted from the begin of the memory.
template <class T, class Next>
void change_words(std::span<std::byte> piece, std::uint64_t offset, const Next& next) {
  static_assert(sizeof(T) == 8);
  for (std::size_t i = 0; i < piece.size() / 8; ++i) {
    T value;
    std::memcpy(&value, piece.data() + i * 8, 8);
    value = next(value, static_cast<std::size_t>(offset / 8 + i));
    std::memcpy(piece.data() + i * 8, &value, 8);
  }
}

// A step of time: each particle moves by its velocity and is pushed a little.
void move_particles(std::span<std::byte> piece, std::uint64_t offset, std::uint64_t salt) {
  const std::size_t words = piece.size() / 8;
  change_words<double>(piece, offset, [&](double value, std::size_t i) {
    const std::size_t axis = i % 6, here = i - static_cast<std::size_t>(offset / 8);
    if (axis >= 3) return value + (unit_interval(mix(salt ^ i)) - 0.5) * 1e-5;
    double velocity = 1e-3;  // of a particle whose other half lies in the next page
    if (here + 3 < words) std::memcpy(&velocity, piece.data() + (here + 3) * 8, 8);
    return value + velocity + 1e-9;
  });
}

// A step of diffusion along the row, with a source, in place.
void step_field(std::span<std::byte> piece, std::uint64_t offset, std::uint64_t salt) {
  const std::size_t words = piece.size() / 8;
  const double source = 1e-6 * static_cast<double>(salt % 64 + 1);
  double left = 0;
  bool first = true;
  change_words<double>(piece, offset, [&](double value, std::size_t i) {
    const std::size_t here = i - static_cast<std::size_t>(offset / 8);
    double right = value;
    if (here + 1 < words) std::memcpy(&right, piece.data() + (here + 1) * 8, 8);
    const double next = value + 0.1 * ((first ? value : left) - 2 * value + right) + source;
    left = value;
    first = false;
    return next;
  });
}

// One vertex in sixteen is visited: its rank changes, and the epoch is noted. The others stay.
void visit_vertices(std::span<std::byte> piece, std::uint64_t offset, std::uint64_t salt) {
  const std::size_t words = piece.size() / 8, begin = static_cast<std::size_t>(offset / 8);
  const std::size_t turn = mix(salt) % 16;
  for (std::size_t here = (4 - begin % 4) % 4; here + 4 <= words; here += 4) {
    if ((begin + here) / 4 % 16 != turn) continue;
    double rank = 0;
    std::memcpy(&rank, piece.data() + here * 8, 8);
    rank = 0.15 + 0.85 * rank * (1 + 1e-3 * unit_interval(mix(salt ^ here)));
    std::memcpy(piece.data() + here * 8, &rank, 8);
    std::memcpy(piece.data() + (here + 3) * 8, &salt, 8);
  }
}

// One entry in four makes room for another: another key, a value of another length.
void churn_entries(std::span<std::byte> piece, std::uint64_t offset, std::uint64_t salt) {
  const std::size_t words = piece.size() / 8, begin = static_cast<std::size_t>(offset / 8);
  const std::size_t turn = mix(salt) % 4;
  const std::uint64_t fresh = mix(~salt);  // not what fill() put there with the same salt
  for (std::size_t here = (kEntryWords - begin % kEntryWords) % kEntryWords; here + kEntryWords <= words;
       here += kEntryWords) {
    if ((begin + here) / kEntryWords % 4 != turn) continue;
    const std::size_t length = entry_word(begin + here + 1, fresh) & 0xff;
    const std::size_t used = kValueWord + (length + 7) / 8;
    for (std::size_t i = 0; i < std::min(used, kEntryWords); ++i) {
      const std::uint64_t word = entry_word(begin + here + i, fresh);
      std::memcpy(piece.data() + (here + i) * 8, &word, 8);
    }
  }
}

// A word is put in somewhere, and what follows it moves.
void edit_text(std::span<std::byte> piece, std::uint64_t offset, std::uint64_t salt) {
  std::array<char, 9> word = {};
  for (std::size_t i = 0; i < 8; ++i) word[i] = static_cast<char>('a' + (salt >> (4 * i) & 15));
  word[8] = ' ';
  const std::size_t bytes = std::min(word.size(), piece.size());
  const std::size_t at = mix(salt ^ offset) % (piece.size() - bytes + 1);
  std::memmove(piece.data() + at + bytes, piece.data() + at, piece.size() - at - bytes);
  std::memcpy(piece.data() + at, word.data(), bytes);
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

std::vector<std::string> data_names() {
  std::vector<std::string> names;
  for (const auto& [value, name] : kKinds) names.emplace_back(name);
  return names;
}

std::uint32_t element_bytes(DataKind kind) {
  return kind == DataKind::particles || kind == DataKind::field ? sizeof(double) : 0;
}

void fill(std::span<std::byte> memory, DataKind kind, std::uint64_t salt) {
  switch (kind) {
    case DataKind::random: return fill_words(memory, [salt](std::size_t i) { return mix(salt * 0x10001u + i); });
    case DataKind::particles: return fill_words(memory, [salt](std::size_t i) { return particle_word(i, salt); });
    case DataKind::field: return fill_words(memory, [salt](std::size_t i) { return field_word(i, salt); });
    case DataKind::heap: return fill_words(memory, [salt](std::size_t i) { return heap_word(i, salt); });
    case DataKind::graph: return fill_words(memory, [salt](std::size_t i) { return graph_word(i, salt); });
    case DataKind::key_value: return fill_words(memory, [salt](std::size_t i) { return entry_word(i, salt); });
    case DataKind::text: return fill_text(memory, salt);
    case DataKind::zeros: std::memset(memory.data(), 0, memory.size()); return;
  }
}

void change(std::span<std::byte> piece, DataKind kind, std::uint64_t salt, std::uint64_t offset) {
  switch (kind) {
    case DataKind::particles: return move_particles(piece, offset, salt);
    case DataKind::field: return step_field(piece, offset, salt);
    case DataKind::graph: return visit_vertices(piece, offset, salt);
    case DataKind::key_value: return churn_entries(piece, offset, salt);
    case DataKind::text: return edit_text(piece, offset, salt);
    case DataKind::random: {
      // Multiplied, so that the difference to what was there does not compress either.
      constexpr std::uint64_t kOdd = 0x9e3779b97f4a7c15u;
      const std::uint64_t bits = mix(salt);
      return change_words<std::uint64_t>(piece, offset,
                                         [bits](std::uint64_t value, std::size_t) { return value * kOdd + bits; });
    }
    case DataKind::heap:
    case DataKind::zeros:
      return change_words<std::uint64_t>(piece, offset,
                                         [salt](std::uint64_t value, std::size_t) { return value + salt; });
  }
}

}  // namespace varve::tools
