// SPDX-License-Identifier: Apache-2.0
//
// A small store whose files are changed: verify(), open, list, restore, write. Whatever the changes are, nothing
// crashes or allocates without bound. The input is a list of changes of five bytes: what, where (3), with what.
//
// Checksums would stop nearly every change at the door, so there is one that mends those of the record it falls into:
// that lets the decoders and everything behind them see nonsense. Unless it was used, what is restored must be right.
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/bytes.h"
#include "base/check.h"
#include "storage/record.h"
#include "storage/store.h"
#include "storage/verify.h"
#include "tests/support/simulated_io.h"
#include "tests/support/store_shadow.h"

namespace {

using namespace varve;
using namespace varve::storage;
using test::ShadowMemory;
using test::SimulatedDisk;

constexpr std::size_t kPage = 4096;

struct Sample {
  SimulatedDisk disk;
  std::vector<ShadowMemory> images;
};

Sample make_sample() {
  Sample sample;
  auto store = std::move(*Store::open(sample.disk.open(), {}));
  auto writer = std::move(*store->open_chain("main"));
  ShadowMemory memory;
  memory["grid"] = {test::random_bytes(2 * kPage + 700, 1), 0, 8};
  memory["text"] = {std::vector<std::byte>(900, std::byte{'v'}), 24, 0};
  for (std::uint64_t number = 1; number <= 3; ++number) {
    const ShadowMemory before = memory;
    memory["text"].content[number] ^= std::byte{1};
    auto done = test::checkpoint(*store, *writer, "main", number, memory, number == 1 ? nullptr : &before, number - 1);
    VARVE_CHECK(done.has_value());
    sample.images.push_back(memory);
  }
  VARVE_CHECK(writer->pin(1, true).has_value());
  VARVE_CHECK(writer->close().has_value());
  return sample;
}

/// Gives the record around `offset` the checksums that it should have.
void mend(SimulatedDisk& disk, const std::string& file, std::uint64_t offset) {
  std::vector<std::byte> content = disk.read(file);
  auto header = decode_segment_header(content, file);
  if (!header) return;
  const std::uint64_t key = record_key(header->store, header->incarnation);
  for (std::uint64_t at = round_down(std::min<std::uint64_t>(offset, content.size()), 64); at >= kSegmentHeaderBytes;
       at -= 64) {
    if (at + kRecordHeaderBytes > content.size() || load_le<std::uint32_t>(content.data() + at) != 0x63657276) continue;
    std::byte* const record = content.data() + at;
    const auto payload_bytes = load_le<std::uint64_t>(record + 8);
    if (payload_bytes <= content.size() - at - kRecordHeaderBytes)
      store_le<std::uint64_t>(
          record + 40, checksum({record + kRecordHeaderBytes, static_cast<std::size_t>(payload_bytes)}, key + at));
    store_le<std::uint64_t>(record + 56, checksum({record, 56}, key + at));
    disk.put(file, content);
    return;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Sample pristine = make_sample();
  SimulatedDisk disk = pristine.disk.copy();
  const std::vector<std::string> files = disk.files();
  bool mended = false;
  constexpr std::size_t kChangeBytes = 5;
  for (std::size_t i = 0; i + kChangeBytes <= size && i < 64 * kChangeBytes; i += kChangeBytes) {
    const std::string& file = files[(data[i] >> 2) % files.size()];
    if (!disk.exists(file)) continue;
    const std::uint64_t bytes = disk.size_bytes(file);
    const std::uint64_t offset =
        (std::uint64_t{data[i + 1]} << 16 | std::uint64_t{data[i + 2]} << 8 | data[i + 3]) % (bytes + 1);
    switch (data[i] & 3) {
      case 0:
      case 1: {
        const std::byte value{data[i + 4]};
        if (offset < bytes) disk.write(file, offset, std::span(&value, 1));
        break;
      }
      case 2: disk.truncate(file, offset); break;
      default:
        if (file.starts_with("segments/")) {
          mend(disk, file, offset);
          mended = true;
        }
        break;
    }
  }
  auto io = disk.open();
  static_cast<void>(verify(*io, {true}).has_value());
  StoreOptions options;
  options.preallocate_bytes = 0;
  auto store = Store::open(std::move(io), options);
  if (!store) return 0;
  for (const ImageSummary& image : (*store)->images()) {
    auto restored = test::restore(**store, image.chain, image.number);
    if (!mended && restored && image.chain == "main" && image.number <= pristine.images.size())
      VARVE_CHECK(*restored == pristine.images[image.number - 1]);
  }
  auto writer = (*store)->open_chain("main");
  if (!writer) return 0;
  auto done = test::checkpoint(**store, **writer, "main", (*writer)->next_number(), pristine.images[0], nullptr, 0);
  if (done) {
    const std::uint64_t number = (*writer)->next_number() - 1;
    auto restored = test::restore(**store, "main", number);
    VARVE_CHECK(mended || (restored.has_value() && *restored == pristine.images[0]) ||
                (!restored && restored.error().code() == ErrorCode::corruption));
  }
  static_cast<void>((*writer)->close().has_value());
  return 0;
}
