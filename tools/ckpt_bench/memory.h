// SPDX-License-Identifier: Apache-2.0
//
// Memory of the benchmarks: mapped, faulted in beforehand, filled with data that is like the world's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "varve/result.h"

namespace varve::tools {

enum class DataKind : std::uint8_t {
  random,     ///< does not compress
  particles,  ///< structures of doubles that drift: position, velocity
  field,      ///< smooth doubles
  heap,       ///< pointers, small numbers, text
  graph,      ///< vertices: rank, degree, label; a change visits one in sixteen
  key_value,  ///< entries of a key-value heap; a change replaces one in four
  text,       ///< words, and pointers between them; a change puts a word in, and what follows moves
  zeros,
};
std::string_view to_string(DataKind kind);
std::optional<DataKind> parse_data(std::string_view name);
std::vector<std::string> data_names();
/// For RegionOptions.
std::uint32_t element_bytes(DataKind kind);

enum class HugePages : std::uint8_t { system, always, never };

/// An anonymous private mapping. Move-only.
class Mapping {
 public:
  struct Options {
    std::size_t bytes = 0;
    std::size_t offset = 0;  ///< of the usable range within its first page
    HugePages huge_pages = HugePages::system;
    bool populate = true;  ///< fault everything in now
  };
  static Result<Mapping> create(const Options& options);
  Mapping(Mapping&& other) noexcept;
  Mapping& operator=(Mapping&& other) noexcept;
  ~Mapping();

  std::span<std::byte> bytes() const { return {base_ + offset_, size_}; }

 private:
  Mapping() = default;
  std::byte* base_ = nullptr;
  std::size_t mapped_ = 0;
  std::size_t offset_ = 0;
  std::size_t size_ = 0;
};

/// Faults pages in for writing, many at once where the kernel can (MADV_POPULATE_WRITE, 5.14).
void populate(std::span<std::byte> memory);

/// Fills memory; another salt gives other content of the same kind.
void fill(std::span<std::byte> memory, DataKind kind, std::uint64_t salt);
/// Changes a piece as a program with such data does, which keeps its kind; another salt gives another change. Something
/// differs afterwards in every page that lies in the piece. `offset`: of the piece in the memory, a multiple of 8.
/// REQUIRES: salt is not 0.
void change(std::span<std::byte> piece, DataKind kind, std::uint64_t salt, std::uint64_t offset = 0);

}  // namespace varve::tools
