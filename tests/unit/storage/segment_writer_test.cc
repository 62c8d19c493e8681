// SPDX-License-Identifier: Apache-2.0
#include "storage/segment_writer.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include <gtest/gtest.h>

#include "storage/forwarding_io.h"
#include "tests/support/simulated_io.h"
#include "tests/support/store_shadow.h"

namespace varve::storage {
namespace {

constexpr std::size_t kPiece = 4096;

/// Writes wait before they are submitted, as those do that are held back by a pace: so long at least, however busy this
/// machine is.
class HeldBackFile final : public ForwardingFile {
 public:
  HeldBackFile(std::unique_ptr<File> inner, std::uint64_t bytes_per_second)
      : ForwardingFile(std::move(inner)), bytes_per_second_(bytes_per_second) {}
  Status submit_write(std::uint64_t offset, std::span<const std::byte> bytes) override {
    std::this_thread::sleep_for(std::chrono::nanoseconds(bytes.size() * 1'000'000'000 / bytes_per_second_));
    return ForwardingFile::submit_write(offset, bytes);
  }

 private:
  const std::uint64_t bytes_per_second_;
};

class HeldBackIo final : public ForwardingIo {
 public:
  HeldBackIo(std::unique_ptr<Io> inner, std::uint64_t bytes_per_second)
      : ForwardingIo(*inner), inner_(std::move(inner)), bytes_per_second_(bytes_per_second) {}
  Result<std::unique_ptr<File>> open(std::string_view name, OpenMode mode) override {
    auto file = ForwardingIo::open(name, mode);
    if (!file) return file.error();
    return std::unique_ptr<File>(std::make_unique<HeldBackFile>(std::move(*file), bytes_per_second_));
  }

 private:
  const std::unique_ptr<Io> inner_;
  const std::uint64_t bytes_per_second_;
};

/// What is known of the disk after writing so much, by one flush or by several.
double measured_speed(bool direct, std::size_t bytes, std::size_t flushes, std::uint64_t bytes_per_second = 0) {
  test::SimulatedDisk disk{{.direct = direct}};
  std::unique_ptr<Io> io = disk.open();
  if (bytes_per_second != 0) io = std::make_unique<HeldBackIo>(std::move(io), bytes_per_second);
  EXPECT_TRUE(io->make_directory(kSegmentFolder).has_value());
  const auto buffers = WriteBuffers::create().value();
  SegmentHeader header;
  header.name = {1, 1};
  header.chain = "main";
  const auto writer = SegmentWriter::create(*io, *buffers, header, {}, {}).value();
  for (std::size_t i = 0; i < flushes; ++i) {
    for (std::size_t done = 0; done < bytes / flushes; done += kPiece) {  // as frames are written
      const auto room = writer->room(kPiece);
      EXPECT_TRUE(room.has_value());
      std::ranges::copy(test::random_bytes(kPiece, i), room->begin());
      writer->advance(kPiece);
    }
    EXPECT_TRUE(writer->sync().has_value());
  }
  return writer->disk_bytes_per_second();
}

TEST(SegmentWriter, MeasuresTheDiskOnLongWritesOnly) {
  for (const bool direct : {true, false}) {
    EXPECT_GT(measured_speed(direct, std::size_t{8} << 20, 1), 0) << direct;
    EXPECT_EQ(measured_speed(direct, std::size_t{2} << 20, 1), 0) << direct;
    EXPECT_EQ(measured_speed(direct, std::size_t{8} << 20, 512), 0) << "latencies, " << direct;
  }
}

TEST(SegmentWriter, TakesADiskWhoseWritesAreHeldBackForASlowOne) {
  constexpr std::uint64_t kRate = std::uint64_t{64} << 20;
  const double speed = measured_speed(true, std::size_t{8} << 20, 1, kRate);
  EXPECT_GT(speed, 0);
  EXPECT_LE(speed, static_cast<double>(kRate));  // the clock is read before the wait and after it
}

}  // namespace
}  // namespace varve::storage
