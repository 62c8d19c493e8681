// SPDX-License-Identifier: Apache-2.0
//
// Little-endian loads and stores at any alignment, and rounding. Formats are little-endian (docs/formats/).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace varve {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "stores are read and written on little-endian machines only");

template <class T>
T load_le(const std::byte* from) {
  static_assert(std::is_integral_v<T>);
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <class T>
void store_le(std::byte* to, T value) {
  static_assert(std::is_integral_v<T>);
  std::memcpy(to, &value, sizeof value);
}

/// REQUIRES: unit is a power of two.
template <class T>
constexpr T round_down(T value, std::type_identity_t<T> unit) {
  return value & ~(unit - 1);
}
template <class T>
constexpr T round_up(T value, std::type_identity_t<T> unit) {
  return round_down(static_cast<T>(value + unit - 1), unit);
}
constexpr bool is_power_of_two(std::uint64_t value) { return value != 0 && (value & (value - 1)) == 0; }

}  // namespace varve
