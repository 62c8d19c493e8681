// SPDX-License-Identifier: Apache-2.0
//
// The inventory: sealed segments and newest images, as the last seal knew them (docs/formats/store.md). Values.
#pragma once

#include <compare>
#include <map>
#include <string>
#include <vector>

#include "storage/format.h"

namespace varve::storage {

struct SegmentName {
  std::uint64_t writer = 0;
  std::uint64_t n = 0;
  friend auto operator<=>(const SegmentName&, const SegmentName&) = default;
};
/// "segments/0123456789abcdef-1.seg"
std::string to_string(const SegmentName& name);
/// Of a file name within the folder: "0123456789abcdef-1.seg". False for any other spelling.
bool parse_segment_name(std::string_view file, SegmentName& name);

struct InventorySegment {
  std::uint64_t bytes = 0;            ///< length of the file, or where a note seals it
  std::uint64_t footer_checksum = 0;  ///< checksum field of the footer record's header; 0: sealed by a note
  friend bool operator==(const InventorySegment&, const InventorySegment&) = default;
};

struct InventoryChain {
  std::uint64_t next_number = 1;
  std::uint64_t newest_number = 0;  ///< 0: none
  friend bool operator==(const InventoryChain&, const InventoryChain&) = default;
};

struct Inventory {
  StoreId store{};
  std::uint64_t generation = 1;
  std::uint64_t collections = 0;
  std::map<std::string, InventoryChain> chains;
  std::map<SegmentName, InventorySegment> segments;

  friend bool operator==(const Inventory&, const Inventory&) = default;
};

std::vector<std::byte> encode_inventory(const Inventory& inventory);
Result<Inventory> decode_inventory(std::span<const std::byte> content);

Result<Inventory> read_inventory(Io& io, const StoreId& store);
/// REQUIRES: byte 0 of the lock file is held.
Status write_inventory(Io& io, const Inventory& inventory);

}  // namespace varve::storage
