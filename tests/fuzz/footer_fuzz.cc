// SPDX-License-Identifier: Apache-2.0
//
// Any bytes as a footer, a note and an inventory (with the checksum that the inventory must have): refused, or decoded
// into what encodes to the same value again. The first byte chooses.
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/bytes.h"
#include "base/check.h"
#include "storage/footer.h"
#include "storage/inventory.h"
#include "storage/note.h"

namespace {

using namespace varve::storage;

const StoredAt kAt{"fuzzed", 0};

void footer(std::span<const std::byte> bytes) {
  auto decoded = decode_footer(bytes, kAt);
  if (!decoded) return;
  auto again = decode_footer(encode_footer(*decoded), kAt);
  VARVE_CHECK(again.has_value() && *again == *decoded);
}

void note(std::span<const std::byte> bytes) {
  auto decoded = decode_note(bytes, kAt);
  if (!decoded) return;
  auto again = decode_note(encode_note(*decoded), kAt);
  VARVE_CHECK(again.has_value() && *again == *decoded);
}

void inventory(std::span<const std::byte> bytes) {
  constexpr std::uint64_t kSeed = 0x7661727665696e76;  // docs/formats/store.md
  std::vector<std::byte> content(bytes.begin(), bytes.end());
  content.resize(content.size() + 8);
  varve::store_le<std::uint64_t>(content.data() + bytes.size(), checksum(bytes, kSeed));
  auto decoded = decode_inventory(content);
  if (!decoded) return;
  auto again = decode_inventory(encode_inventory(*decoded));
  VARVE_CHECK(again.has_value() && *again == *decoded);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const auto bytes = std::as_bytes(std::span(data, size)).subspan(1);
  switch (data[0] % 3) {
    case 0: footer(bytes); break;
    case 1: note(bytes); break;
    default: inventory(bytes); break;
  }
  return 0;
}
