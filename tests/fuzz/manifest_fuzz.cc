// SPDX-License-Identifier: Apache-2.0
//
// Any bytes as a manifest: refused, or decoded into one that keeps the rules and encodes to the same value again.
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/check.h"
#include "storage/manifest.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace varve::storage;
  auto manifest = decode_manifest(std::as_bytes(std::span(data, size)));
  if (!manifest) return 0;
  VARVE_CHECK(check_manifest(*manifest).has_value());
  auto again = decode_manifest(encode_manifest(*manifest));
  VARVE_CHECK(again.has_value() && *again == *manifest);
  return 0;
}
