// SPDX-License-Identifier: Apache-2.0
//
// A store of every released format version restores for ever: tests/golden/store_format_N/ was written by the version
// of its time and is never written again. A new one is made by: store_golden_test --make=DIRECTORY
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include <gtest/gtest.h>

#include "storage/store.h"
#include "storage/verify.h"
#include "tests/support/simulated_io.h"
#include "tests/support/store_shadow.h"

namespace varve::storage {
namespace {

using test::ShadowMemory;
using test::SimulatedDisk;
using test::SimulatedOperation;

constexpr std::size_t kPage = 4096;

/// The memory of image `number`: every kind of content that the format treats in its own way.
ShadowMemory golden_memory(std::uint64_t number) {
  ShadowMemory memory;
  std::vector<std::byte> field(3 * kPage);  // byte shuffle
  for (std::size_t i = 0; i < field.size() / 8; ++i) {
    // Integers of a narrow range: the same on every machine, unlike sin().
    const std::uint64_t value = 0x4072C00000000000 + ((i * i) % 1999) * 0x10000001 + number;
    std::memcpy(field.data() + 8 * i, &value, 8);
  }
  memory["field"] = {field, 16, 8};
  std::vector<std::byte> text(kPage + 50);  // LZ4
  for (std::size_t i = 0; i < text.size(); ++i) text[i] = static_cast<std::byte>("varve "[i % 6]);
  text[number] = std::byte{'!'};
  memory["text"] = {text, 0, 0};
  memory["noise"] = {test::random_bytes(kPage + 1, 3), 100, 4};  // raw
  memory["zeros"] = {std::vector<std::byte>(5 * kPage), 0, 0};
  memory["zeros"].content[2 * kPage] = static_cast<std::byte>(number);
  memory["step"] = {test::random_bytes(8, number), 4088, 8};
  return memory;
}

#define ASSERT_OK(expression)                              \
  do {                                                     \
    const auto& ok_ = (expression);                        \
    ASSERT_TRUE(ok_.has_value()) << ok_.error().message(); \
  } while (false)

/// Chain main: 1 full, 2 and 3 deltas, 4 failed and was sealed away, 5 a delta on 2, 3 retired. Chain other: one image
/// that shares all it can.
void make_store(SimulatedDisk& disk) {
  auto store = std::move(*Store::open(disk.open(), {}));
  auto writer = std::move(*store->open_chain("main"));
  const auto take = [&](std::uint64_t number, std::uint64_t parent) {
    const ShadowMemory before = golden_memory(parent);
    return test::checkpoint(*store, *writer, "main", number, golden_memory(number), parent == 0 ? nullptr : &before,
                            parent);
  };
  ASSERT_OK(take(1, 0));
  ASSERT_OK(take(2, 1));
  ASSERT_OK(take(3, 2));
  disk.add_fault({SimulatedOperation::sync, 1, EIO, 1, "segments/"});
  ASSERT_FALSE(take(4, 3).has_value());
  ASSERT_OK(take(5, 2));
  const std::uint64_t retired = 3;
  ASSERT_OK(writer->retire(std::span(&retired, 1)));
  ASSERT_OK(writer->set_label(2, "before"));
  ASSERT_OK(writer->pin(1, true));
  ASSERT_OK(writer->close());
  writer = std::move(*store->open_chain("other"));
  ASSERT_OK(test::checkpoint(*store, *writer, "other", 1, golden_memory(1), nullptr, 0, "first"));
  ASSERT_OK(writer->close());
}

void save(const SimulatedDisk& disk, const std::filesystem::path& directory) {
  std::filesystem::create_directories(directory / "segments");
  for (const std::string& name : disk.files()) {
    const auto content = disk.read(name);
    std::ofstream(directory / name, std::ios::binary)
        .write(reinterpret_cast<const char*>(content.data()), static_cast<std::streamsize>(content.size()));
  }
}

void load(SimulatedDisk& disk, const std::filesystem::path& directory) {
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) {
    if (!entry.is_regular_file()) continue;
    std::ifstream file(entry.path(), std::ios::binary);
    const std::vector<char> content{std::istreambuf_iterator<char>(file), {}};
    disk.put(entry.path().lexically_relative(directory).string(), std::as_bytes(std::span(content)));
  }
}

void check_store(SimulatedDisk& disk) {
  auto io = disk.open();
  auto report = verify(*io, {true});
  ASSERT_OK(report);
  EXPECT_EQ(report->status, VerifyStatus::good) << (report->findings.empty() ? "" : report->findings[0].what);
  auto store = std::move(*Store::open(std::move(io), {}));
  EXPECT_TRUE(store->damage().empty());
  std::vector<std::string> lines;
  for (const ImageSummary& image : store->images()) {
    lines.push_back(image.chain + "/" + std::to_string(image.number) + " on " + std::to_string(image.parent) + " " +
                    image.label + (image.pinned ? "!" : ""));
    auto restored = test::restore(*store, image.chain, image.number);
    ASSERT_OK(restored);
    EXPECT_EQ(*restored, golden_memory(image.number)) << lines.back();
  }
  EXPECT_EQ(lines,
            (std::vector<std::string>{"main/1 on 0 !", "main/2 on 1 before", "main/5 on 2 ", "other/1 on 0 first"}));
  auto writer = store->open_chain("main");
  ASSERT_OK(writer);
  EXPECT_EQ((*writer)->next_number(), 6U);
  const ShadowMemory before = golden_memory(5);
  ASSERT_OK(test::checkpoint(*store, **writer, "main", 6, golden_memory(6), &before, 5));
  auto restored = test::restore(*store, "main", 6);
  ASSERT_OK(restored);
  EXPECT_EQ(*restored, golden_memory(6));
  ASSERT_OK((*writer)->close());
}

TEST(StoreGolden, StoresOfEveryFormatVersionRestoreAndGoOn) {
  const auto here = std::filesystem::path(VARVE_SOURCE_DIR) / "tests/golden";
  int found = 0;
  for (const auto& entry : std::filesystem::directory_iterator(here)) {
    if (!entry.is_directory() || !entry.path().filename().string().starts_with("store_format_")) continue;
    SCOPED_TRACE(entry.path().filename());
    SimulatedDisk disk;
    load(disk, entry.path());
    check_store(disk);
    ++found;
  }
  EXPECT_GE(found, 1);
}

TEST(StoreGolden, AStoreMadeNowPassesTheSameCheck) {
  SimulatedDisk disk;
  make_store(disk);
  check_store(disk);
  for (const std::string& argument : testing::internal::GetArgvs()) {
    if (!argument.starts_with("--make=")) continue;
    SimulatedDisk fresh;
    make_store(fresh);
    save(fresh, argument.substr(7));
  }
}

}  // namespace
}  // namespace varve::storage
