// SPDX-License-Identifier: Apache-2.0
//
// A large board of Conway's Life, closed on itself, of which only the active part is computed.
//
// One byte is a cell. The board is cut into tiles of 64 × 64 cells, and a tile is one page of 4096 bytes in memory:
//
//     tile 0: rows 0..63 of columns 0..63 | tile 1: rows 0..63 of columns 64..127 | ...
//
// So a glider, which lives in one or two tiles, writes one or two pages. A tile is computed when it or a neighbour's
// edge changed in the last step; it is written only when it changed.
//
// Threads: one.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <vector>

namespace example {

class LifeBoard {
 public:
  static constexpr std::size_t kTileSide = 64;
  static constexpr std::size_t kTileBytes = kTileSide * kTileSide;

  /// REQUIRES: side is a multiple of kTileSide, at least three tiles.
  explicit LifeBoard(std::size_t side);

  /// Still lifes over the whole board, and that many gliders, each in a clearing. The same numbers give the same board.
  void seed(std::uint64_t gliders);
  void advance();
  /// Forgets which tiles were active, and takes all for active: for when the cells were replaced from outside.
  void activate_all();

  std::span<std::uint8_t> cells() { return {cells_.get(), side_ * side_}; }
  std::size_t active_tiles() const { return active_.size(); }
  std::uint64_t living_cells() const;

 private:
  struct Free {
    void operator()(std::uint8_t* memory) const { std::free(memory); }
  };
  // 64 cells and a border of one; rows are padded so that each begins aligned.
  static constexpr std::size_t kPaddedRow = kTileSide + 16;
  using Padded = std::array<std::uint8_t, (kTileSide + 2) * kPaddedRow>;
  struct Change {
    std::size_t tile;
    std::array<std::uint8_t, kTileBytes> cells;
  };

  std::uint8_t* tile(std::size_t index) const { return cells_.get() + index * kTileBytes; }
  std::size_t neighbour(std::size_t index, int down, int right) const;
  void set(std::size_t x, std::size_t y);
  void clear_around(std::size_t x, std::size_t y, std::size_t radius);
  void gather(std::size_t index, Padded& padded) const;
  void activate(std::size_t index);
  void activate_neighbours(std::size_t index, const std::uint8_t* before, const std::uint8_t* after);

  std::size_t side_;
  std::size_t tiles_;  ///< on a side
  std::unique_ptr<std::uint8_t[], Free> cells_;
  std::vector<std::size_t> active_;
  std::vector<std::uint8_t> is_active_;  ///< by tile
  std::vector<Change> changes_;          ///< kept, so that a step allocates nothing
};

}  // namespace example
