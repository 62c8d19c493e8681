// SPDX-License-Identifier: Apache-2.0
#include "storage/inventory.h"

#include <algorithm>
#include <charconv>

#include <fmt/format.h>

#include "base/try.h"
#include "storage/byte_codec.h"
#include "storage/store_file.h"

namespace varve::storage {
namespace {

constexpr std::string_view kMagic = "varvinvt";
constexpr std::uint64_t kSeed = 0x7661727665696e76;
constexpr std::size_t kFixedBytes = 64;
constexpr std::size_t kLengthAt = 56;
constexpr std::size_t kChainMinBytes = 2 + 1 + 16;
constexpr std::size_t kSegmentBytes = 32;
// A million segments and some ten thousand chains; what is longer was not written by us.
constexpr std::uint64_t kLimitBytes = std::uint64_t{64} << 20;
constexpr std::string_view kObject = "the inventory";
constexpr StoredAt kAt{kInventoryFile, 0};
constexpr std::string_view kSuffix = ".seg";
constexpr std::size_t kWriterDigits = 16;

template <class T>
bool parse_number(std::string_view text, T& value, int base) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  return error == std::errc() && end == text.data() + text.size();
}

bool decode_lists(ByteReader& in, std::uint32_t chains, std::uint32_t segments, Inventory& inventory) {
  if (!in.holds(chains, kChainMinBytes)) return false;
  for (std::uint32_t i = 0; i < chains; ++i) {
    std::string name = in.string();
    InventoryChain chain;
    chain.next_number = in.get<std::uint64_t>();
    chain.newest_number = in.get<std::uint64_t>();
    const bool ascending = inventory.chains.empty() || inventory.chains.rbegin()->first < name;
    if (!in.ok() || name.empty() || name.size() > kMaxNameBytes || !ascending ||
        chain.next_number <= chain.newest_number || chain.next_number > kMaxImageNumber + 1)
      return false;
    inventory.chains.emplace_hint(inventory.chains.end(), std::move(name), chain);
  }
  if (!in.holds(segments, kSegmentBytes)) return false;
  for (std::uint32_t i = 0; i < segments; ++i) {
    SegmentName name;
    name.writer = in.get<std::uint64_t>();
    name.n = in.get<std::uint64_t>();
    InventorySegment segment;
    segment.bytes = in.get<std::uint64_t>();
    segment.footer_checksum = in.get<std::uint64_t>();
    if (!inventory.segments.empty() && inventory.segments.rbegin()->first >= name) return false;
    inventory.segments.emplace_hint(inventory.segments.end(), name, segment);
  }
  return in.ok();
}

}  // namespace

std::string to_string(const SegmentName& name) {
  return fmt::format("{}/{:016x}-{}{}", kSegmentFolder, name.writer, name.n, kSuffix);
}

bool parse_segment_name(std::string_view file, SegmentName& name) {
  if (!file.ends_with(kSuffix) || file.size() < kWriterDigits + 2 + kSuffix.size()) return false;
  file.remove_suffix(kSuffix.size());
  if (file[kWriterDigits] != '-') return false;
  SegmentName parsed;
  if (!parse_number(file.substr(0, kWriterDigits), parsed.writer, 16)) return false;
  if (!parse_number(file.substr(kWriterDigits + 1), parsed.n, 10)) return false;
  // One spelling only: no capitals, no leading zeros.
  if (fmt::format("{:016x}-{}", parsed.writer, parsed.n) != file) return false;
  name = parsed;
  return true;
}

std::vector<std::byte> encode_inventory(const Inventory& inventory) {
  std::vector<std::byte> content;
  ByteWriter out(content);
  out.text(kMagic);
  out.put<std::uint32_t>(kFormatVersion);
  out.put<std::uint32_t>(0);
  out.bytes(inventory.store);
  out.put<std::uint64_t>(inventory.generation);
  out.put<std::uint64_t>(inventory.collections);
  out.put<std::uint32_t>(static_cast<std::uint32_t>(inventory.chains.size()));
  out.put<std::uint32_t>(static_cast<std::uint32_t>(inventory.segments.size()));
  out.put<std::uint64_t>(0);  // the length, below
  for (const auto& [name, chain] : inventory.chains) {
    out.string(name);
    out.put<std::uint64_t>(chain.next_number);
    out.put<std::uint64_t>(chain.newest_number);
  }
  for (const auto& [name, segment] : inventory.segments) {
    out.put<std::uint64_t>(name.writer);
    out.put<std::uint64_t>(name.n);
    out.put<std::uint64_t>(segment.bytes);
    out.put<std::uint64_t>(segment.footer_checksum);
  }
  store_le<std::uint64_t>(content.data() + kLengthAt, content.size() + 8);
  out.put<std::uint64_t>(checksum(content, kSeed));
  return content;
}

Result<Inventory> decode_inventory(std::span<const std::byte> content) {
  if (content.size() < kFixedBytes + 8)
    return damaged(kObject, kAt, fmt::format("it has only {} bytes", content.size()));
  const std::span<const std::byte> covered = content.first(content.size() - 8);
  if (load_le<std::uint64_t>(content.data() + covered.size()) != checksum(covered, kSeed))
    return damaged(kObject, kAt, "its checksum is wrong");
  ByteReader in(covered);
  if (in.text(kMagic.size()) != kMagic) return damaged(kObject, kAt, "it does not begin as an inventory does");
  const auto version = in.get<std::uint32_t>();
  if (version > kFormatVersion)
    return unknown_to_us(
        kObject, kAt,
        fmt::format("written by a newer Varve, format {}; this one reads up to {}", version, kFormatVersion));
  Inventory inventory;
  const auto reserved = in.get<std::uint32_t>();
  std::ranges::copy(in.take(inventory.store.size()), inventory.store.begin());
  inventory.generation = in.get<std::uint64_t>();
  inventory.collections = in.get<std::uint64_t>();
  const auto chains = in.get<std::uint32_t>();
  const auto segments = in.get<std::uint32_t>();
  const auto bytes = in.get<std::uint64_t>();
  if (version == 0 || reserved != 0 || bytes != content.size())
    return damaged(kObject, kAt, fmt::format("it says that it has {} bytes, and has {}", bytes, content.size()));
  if (!decode_lists(in, chains, segments, inventory) || !in.at_end())
    return damaged(kObject, kAt, "its lists are not well-formed");
  return inventory;
}

Result<Inventory> read_inventory(Io& io, const StoreId& store) {
  VARVE_TRY_ASSIGN(const std::vector<std::byte> content, read_file(io, kInventoryFile, kLimitBytes));
  VARVE_TRY_ASSIGN(Inventory inventory, decode_inventory(content));
  if (inventory.store != store)
    return damaged(kObject, kAt, fmt::format("it belongs to store {}", to_hex(inventory.store)));
  return inventory;
}

Status write_inventory(Io& io, const Inventory& inventory) {
  return replace_file(io, kInventoryFileNew, kInventoryFile, encode_inventory(inventory));
}

}  // namespace varve::storage
