// SPDX-License-Identifier: Apache-2.0
#include "storage/segment_writer.h"

#include <algorithm>

#include <gtest/gtest.h>

#include "bench/slow_io.h"
#include "tests/support/simulated_io.h"
#include "tests/support/store_shadow.h"

namespace varve::storage {
namespace {

constexpr std::size_t kPiece = 4096;

/// What is known of the disk after writing so much, by one flush or by several.
double measured_speed(bool direct, std::size_t bytes, std::size_t flushes, std::uint64_t bytes_per_second = 0) {
  test::SimulatedDisk disk{{.direct = direct}};
  std::unique_ptr<Io> io = disk.open();
  if (bytes_per_second != 0) io = std::make_unique<bench::SlowIo>(std::move(io), bytes_per_second);
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
