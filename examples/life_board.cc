// SPDX-License-Identifier: Apache-2.0
#include "life_board.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

namespace example {
namespace {

using Shape = std::vector<std::pair<std::size_t, std::size_t>>;  // x, y

const std::array<Shape, 4>& still_lifes() {
  static const std::array<Shape, 4> shapes = {{
      {{1, 1}, {2, 1}, {1, 2}, {2, 2}},                          // block
      {{2, 1}, {3, 1}, {1, 2}, {4, 2}, {2, 3}, {3, 3}},          // beehive
      {{1, 1}, {2, 1}, {1, 2}, {3, 2}, {2, 3}},                  // boat
      {{2, 1}, {3, 1}, {1, 2}, {4, 2}, {2, 3}, {4, 3}, {3, 4}},  // loaf
  }};
  return shapes;
}

class Recurrence {
 public:
  std::size_t below(std::size_t bound) {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<std::size_t>(state_ >> 33) % bound;
  }

 private:
  std::uint64_t state_ = 0x9e3779b97f4a7c15;
};

}  // namespace

LifeBoard::LifeBoard(std::size_t side) : side_(side), tiles_(side / kTileSide) {
  auto* memory = static_cast<std::uint8_t*>(std::aligned_alloc(kTileBytes, side * side));
  if (memory == nullptr) throw std::bad_alloc();
  std::memset(memory, 0, side * side);
  cells_.reset(memory);
  is_active_.resize(tiles_ * tiles_);
}

std::size_t LifeBoard::neighbour(std::size_t index, int down, int right) const {
  const auto move = [this](std::size_t place, int by) {
    return (place + tiles_ + static_cast<std::size_t>(by + 1) - 1) % tiles_;
  };
  return move(index / tiles_, down) * tiles_ + move(index % tiles_, right);
}

void LifeBoard::set(std::size_t x, std::size_t y) {
  x %= side_;
  y %= side_;
  const std::size_t index = (y / kTileSide) * tiles_ + x / kTileSide;
  tile(index)[(y % kTileSide) * kTileSide + x % kTileSide] = 1;
}

void LifeBoard::clear_around(std::size_t x, std::size_t y, std::size_t radius) {
  for (std::size_t down = 0; down <= 2 * radius; ++down)
    for (std::size_t right = 0; right <= 2 * radius; ++right) {
      const std::size_t column = (x + side_ + right - radius) % side_, row = (y + side_ + down - radius) % side_;
      const std::size_t index = (row / kTileSide) * tiles_ + column / kTileSide;
      tile(index)[(row % kTileSide) * kTileSide + column % kTileSide] = 0;
    }
}

void LifeBoard::seed(std::uint64_t gliders) {
  // Squares of 8 × 8, one in three with a still life that keeps clear of the square's edge: no two ever touch.
  constexpr std::size_t kSquare = 8;
  Recurrence random;
  for (std::size_t y = 0; y < side_; y += kSquare)
    for (std::size_t x = 0; x < side_; x += kSquare) {
      const std::size_t choice = random.below(12);
      if (choice >= still_lifes().size()) continue;
      const std::size_t right = random.below(3), down = random.below(3);
      for (const auto& [column, row] : still_lifes()[choice]) set(x + column + right, y + row + down);
    }
  static const Shape kGlider = {{1, 0}, {2, 1}, {0, 2}, {1, 2}, {2, 2}};
  for (std::uint64_t i = 0; i < gliders; ++i) {
    const std::size_t x = random.below(side_), y = random.below(side_);
    clear_around(x + 1, y + 1, 12);
    const bool mirror = random.below(2) == 1, flip = random.below(2) == 1;
    for (const auto& [column, row] : kGlider) set(x + (mirror ? 2 - column : column), y + (flip ? 2 - row : row));
  }
  activate_all();
}

void LifeBoard::activate(std::size_t index) {
  if (std::exchange(is_active_[index], std::uint8_t{1}) == 0) active_.push_back(index);
}

void LifeBoard::activate_all() {
  for (std::size_t index = 0; index < tiles_ * tiles_; ++index) activate(index);
}

// The tile with the cells around it. Neighbours give their edge rows, columns and corners.
void LifeBoard::gather(std::size_t index, Padded& padded) const {
  constexpr std::size_t kLast = kTileSide - 1;
  const std::uint8_t* here = tile(index);
  const std::uint8_t* west = tile(neighbour(index, 0, -1));
  const std::uint8_t* east = tile(neighbour(index, 0, 1));
  for (std::size_t row = 0; row < kTileSide; ++row) {
    std::uint8_t* into = padded.data() + (row + 1) * kPaddedRow;
    into[0] = west[row * kTileSide + kLast];
    std::memcpy(into + 1, here + row * kTileSide, kTileSide);
    into[kTileSide + 1] = east[row * kTileSide];
  }
  const auto border = [&](int down, std::size_t from_row, std::uint8_t* into) {
    into[0] = tile(neighbour(index, down, -1))[from_row * kTileSide + kLast];
    std::memcpy(into + 1, tile(neighbour(index, down, 0)) + from_row * kTileSide, kTileSide);
    into[kTileSide + 1] = tile(neighbour(index, down, 1))[from_row * kTileSide];
  };
  border(-1, kLast, padded.data());
  border(1, 0, padded.data() + (kTileSide + 1) * kPaddedRow);
}

void LifeBoard::activate_neighbours(std::size_t index, const std::uint8_t* before, const std::uint8_t* after) {
  constexpr std::size_t kLast = kTileSide - 1;
  bool west = false, east = false;
  for (std::size_t row = 0; row < kTileSide; ++row) {
    west = west || before[row * kTileSide] != after[row * kTileSide];
    east = east || before[row * kTileSide + kLast] != after[row * kTileSide + kLast];
  }
  const bool north = std::memcmp(before, after, kTileSide) != 0;
  const bool south = std::memcmp(before + kLast * kTileSide, after + kLast * kTileSide, kTileSide) != 0;
  activate(index);
  for (int down = -1; down <= 1; ++down)
    for (int right = -1; right <= 1; ++right) {
      const bool vertical = down == 0 || (down < 0 ? north : south);
      const bool horizontal = right == 0 || (right < 0 ? west : east);
      if (vertical && horizontal) activate(neighbour(index, down, right));
    }
}

void LifeBoard::advance() {
  std::size_t changed = 0;
  Padded padded{};
  for (const std::size_t index : active_) {
    gather(index, padded);
    if (changed == changes_.size()) changes_.emplace_back();
    Change& change = changes_[changed];
    for (std::size_t row = 0; row < kTileSide; ++row) {
      const std::uint8_t* above = padded.data() + row * kPaddedRow;
      const std::uint8_t* here = above + kPaddedRow;
      const std::uint8_t* below = here + kPaddedRow;
      std::uint8_t* into = change.cells.data() + row * kTileSide;
      for (std::size_t x = 0; x < kTileSide; ++x) {
        const auto sum = static_cast<std::uint8_t>(above[x] + above[x + 1] + above[x + 2] + here[x] + here[x + 1] +
                                                   here[x + 2] + below[x] + below[x + 1] + below[x + 2]);
        // Three in the square of nine: born or alive. Four: stays as it is.
        into[x] = static_cast<std::uint8_t>((sum == 3) | ((sum == 4) & here[x + 1]));
      }
    }
    if (std::memcmp(change.cells.data(), tile(index), kTileBytes) == 0) continue;
    change.tile = index;
    ++changed;
  }

  for (const std::size_t index : active_) is_active_[index] = 0;
  active_.clear();
  for (std::size_t i = 0; i < changed; ++i) {
    const Change& change = changes_[i];
    activate_neighbours(change.tile, tile(change.tile), change.cells.data());
    std::memcpy(tile(change.tile), change.cells.data(), kTileBytes);
  }
  std::sort(active_.begin(), active_.end());  // in the order of memory
}

std::uint64_t LifeBoard::living_cells() const {
  const std::uint8_t* begin = cells_.get();
  return static_cast<std::uint64_t>(std::count(begin, begin + side_ * side_, std::uint8_t{1}));
}

}  // namespace example
