// SPDX-License-Identifier: Apache-2.0
//
// Any bytes as a manifest, whole and in parts: refused, or decoded into one that keeps the rules and encodes to the
// same value again.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/check.h"
#include "storage/byte_codec.h"
#include "storage/manifest.h"

namespace {

using varve::storage::ByteParts;

class InParts : public ByteParts {
 public:
  InParts(std::span<const std::byte> bytes, std::size_t part_bytes) : rest_(bytes), part_bytes_(part_bytes) {}
  std::span<const std::byte> next() override {
    const auto part = rest_.first(std::min(part_bytes_, rest_.size()));
    rest_ = rest_.subspan(part.size());
    return part;
  }

 private:
  std::span<const std::byte> rest_;
  std::size_t part_bytes_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace varve::storage;
  const auto bytes = std::as_bytes(std::span(data, size));
  auto manifest = decode_manifest(bytes);
  InParts parts(bytes, 1 + size % 61);
  const auto from_parts = decode_manifest(parts, size);
  VARVE_CHECK(from_parts.has_value() == manifest.has_value());
  if (!manifest) return 0;
  VARVE_CHECK(*from_parts == *manifest);
  VARVE_CHECK(check_manifest(*manifest).has_value());
  auto again = decode_manifest(encode_manifest(*manifest));
  VARVE_CHECK(again.has_value() && *again == *manifest);
  return 0;
}
