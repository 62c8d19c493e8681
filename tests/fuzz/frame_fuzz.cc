// SPDX-License-Identifier: Apache-2.0
//
// Any bytes as a frame's payload: refused, or unpacked into as many bytes as its chunks have.
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/check.h"
#include "storage/frame.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace varve::storage;
  static FrameScratch scratch;
  const StoredAt at{"fuzzed", 0};
  auto frame = parse_frame(std::as_bytes(std::span(data, size)), 4096, at);
  if (!frame) return 0;
  std::uint64_t sum = 0;
  for (std::uint32_t i = 0; i < frame->chunks; ++i) sum += frame->chunk(i).bytes;
  VARVE_CHECK(sum == frame->raw_bytes);
  bool any = !frame->is_difference();
  for (std::uint32_t i = 0; i < frame->chunks; ++i) {
    VARVE_CHECK(frame->base(i) != frame->chunk(i).name || frame->base(i) == kNoBase);
    any = any || frame->base(i) != kNoBase;
  }
  VARVE_CHECK(any);
  auto raw = unpack_frame(*frame, scratch, at);
  VARVE_CHECK(!raw || raw->size() == sum);
  return 0;
}
