// SPDX-License-Identifier: Apache-2.0
#include "storage/segment_writer.h"

#include <sys/mman.h>

#include <algorithm>

#include <gtest/gtest.h>

#include "base/bytes.h"
#include "bench/slow_io.h"
#include "storage/forwarding_io.h"
#include "tests/support/simulated_io.h"
#include "tests/support/store_shadow.h"

namespace varve::storage {
namespace {

constexpr std::size_t kPiece = 4096;

/// What a file was told.
struct Seen {
  std::uint64_t reservations = 0;
  std::uint64_t submitted = 0;
  std::uint64_t ended = 0;  ///< as the file tells it, when it does
  std::vector<ByteRange> writes = {};
};

/// Tells the end of writes only when it is asked to wait for them, of all at once; or when `seen.ended` is set.
class LateFile final : public ForwardingFile {
 public:
  LateFile(std::unique_ptr<File> inner, Seen& seen) : ForwardingFile(std::move(inner)), seen_(seen) {}
  Status submit_write(std::uint64_t offset, std::span<const std::byte> bytes) override {
    ++seen_.submitted;
    seen_.writes.push_back({offset, bytes.size()});
    return ForwardingFile::submit_write(offset, bytes);
  }
  std::uint64_t completed_writes() override { return seen_.ended; }
  Status wait_writes(std::uint64_t count) override {
    EXPECT_LE(count, seen_.submitted);
    seen_.ended = seen_.submitted;
    return ForwardingFile::wait_writes(seen_.submitted);
  }
  Status sync() override {
    seen_.ended = seen_.submitted;
    return ForwardingFile::sync();
  }
  Status allocate(std::uint64_t offset, std::uint64_t bytes) override {
    ++seen_.reservations;
    return ForwardingFile::allocate(offset, bytes);
  }

 private:
  Seen& seen_;
};

class LateIo final : public ForwardingIo {
 public:
  LateIo(Io& inner, Seen& seen) : ForwardingIo(inner), seen_(seen) {}
  Result<std::unique_ptr<File>> open(std::string_view name, OpenMode mode) override {
    auto file = ForwardingIo::open(name, mode);
    if (!file || mode != OpenMode::write_direct) return file;
    return std::unique_ptr<File>(std::make_unique<LateFile>(std::move(*file), seen_));
  }

 private:
  Seen& seen_;
};

/// Buffers that are full while as many as may be are in flight and one is being filled.
constexpr std::size_t kHeld = WriteBuffers::kCount - WriteBuffers::kInFlight - 1;

class LateSegment : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(io_->make_directory(kSegmentFolder).has_value());
    buffers_ = WriteBuffers::create().value();
    begin(std::uint64_t{1} << 20);
  }
  void begin(std::uint64_t preallocate_bytes) {
    SegmentHeader header;
    header.name = {1, ++segments_};
    header.chain = "main";
    writer_ = SegmentWriter::create(late_, *buffers_, header, {}, {.preallocate_bytes = preallocate_bytes}).value();
    begin_ = writer_->offset();
  }
  void write(std::size_t bytes) {
    for (std::size_t done = 0; done < bytes; done += kPiece) {
      const auto room = writer_->room(kPiece);
      ASSERT_TRUE(room.has_value());
      const auto piece = test::random_bytes(kPiece, ++pieces_);
      std::ranges::copy(piece, room->begin());
      writer_->advance(kPiece);
    }
  }
  void expect_all_written() {
    ASSERT_TRUE(writer_->sync().has_value());
    const auto file = io_->open(writer_->name(), OpenMode::read).value();
    std::vector<std::byte> content(kPiece);
    for (std::uint64_t piece = 0; piece < pieces_; ++piece) {
      ASSERT_EQ(file->read(begin_ + piece * kPiece, content).value(), kPiece);
      ASSERT_EQ(content, test::random_bytes(kPiece, piece + 1)) << piece;
    }
  }

  test::SimulatedDisk disk_{{.direct = true}};
  const std::unique_ptr<Io> io_ = disk_.open();
  Seen seen_;
  LateIo late_{*io_, seen_};
  std::unique_ptr<WriteBuffers> buffers_;
  std::unique_ptr<SegmentWriter> writer_;
  std::uint64_t segments_ = 0;
  std::uint64_t begin_ = 0;
  std::uint64_t pieces_ = 0;
};

TEST_F(LateSegment, HasSomeBuffersWrittenAndFillsTheOthers) {
  write((WriteBuffers::kInFlight + kHeld) * WriteBuffers::kBytes + kPiece);
  EXPECT_EQ(seen_.submitted, WriteBuffers::kInFlight);
  EXPECT_EQ(seen_.ended, 0U) << "it waited";
  seen_.ended = WriteBuffers::kInFlight;
  write(kPiece);
  EXPECT_EQ(seen_.submitted, WriteBuffers::kInFlight + kHeld) << "what is full follows at once";
  expect_all_written();
}

TEST_F(LateSegment, WaitsOnlyWhenAllBuffersAreFull) {
  write(WriteBuffers::kCount * WriteBuffers::kBytes - begin_);  // the first ends where the others do
  EXPECT_EQ(seen_.ended, 0U);
  write(kPiece);
  EXPECT_EQ(seen_.ended, WriteBuffers::kInFlight);
  EXPECT_EQ(seen_.submitted, WriteBuffers::kCount);
  expect_all_written();
}

TEST_F(LateSegment, WritesWholeBuffersWhateverTheLengthOfFrames) {
  constexpr std::size_t kFrame = std::size_t{67} << 10;  // its end is mostly in the next buffer
  std::vector<std::byte> all;
  const auto frames = [&](std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
      const auto room = writer_->room(kFrame);
      ASSERT_TRUE(room.has_value());
      const auto frame = test::random_bytes(kFrame, ++pieces_);
      std::ranges::copy(frame, room->begin());
      writer_->advance(kFrame);
      all.insert(all.end(), frame.begin(), frame.end());
    }
  };
  frames(2 * WriteBuffers::kCount * WriteBuffers::kBytes / kFrame);
  ASSERT_GE(seen_.writes.size(), WriteBuffers::kCount);
  for (std::size_t i = 0; i < seen_.writes.size(); ++i)
    EXPECT_EQ(seen_.writes[i].offset + seen_.writes[i].bytes, (i + 1) * WriteBuffers::kBytes);
  // What is submitted earlier, with a frame that goes on beyond the buffer, is not written twice.
  while (writer_->offset() % WriteBuffers::kBytes >= kFrame) frames(1);
  ASSERT_TRUE(writer_->pad(kBlockBytes).has_value());
  all.resize(writer_->offset() - begin_);
  seen_.ended = seen_.submitted;
  ASSERT_TRUE(writer_->submit().has_value());
  const std::uint64_t early = writer_->offset();
  const std::size_t next = seen_.writes.size();
  EXPECT_EQ(seen_.writes.back().offset + seen_.writes.back().bytes, early);
  frames(WriteBuffers::kBytes / kFrame + 1);
  seen_.ended = seen_.submitted;
  frames(1);
  ASSERT_GT(seen_.writes.size(), next);
  EXPECT_EQ(seen_.writes[next].offset, early);
  EXPECT_EQ(seen_.writes[next].offset + seen_.writes[next].bytes, round_up(early, WriteBuffers::kBytes));
  ASSERT_TRUE(writer_->pad(kBlockBytes).has_value());
  all.resize(writer_->offset() - begin_);
  ASSERT_TRUE(writer_->sync().has_value());
  std::vector<std::byte> content(all.size());
  ASSERT_EQ(io_->open(writer_->name(), OpenMode::read).value()->read(begin_, content).value(), content.size());
  EXPECT_EQ(content, all);
  pieces_ = 0;
}

TEST_F(LateSegment, GivesBackWhatWasReservedForALargeImage) {
  constexpr std::uint64_t kMost = std::uint64_t{64} << 20;
  const auto length = [&] { return io_->open(writer_->name(), OpenMode::read).value()->size_bytes().value(); };
  begin(kMost);
  write(std::size_t{30} << 20);
  EXPECT_GT(length(), writer_->offset() + kMost / 8) << "nothing to give back";
  expect_all_written();
  EXPECT_EQ(length(), writer_->offset() + kMost / 8);
  const std::uint64_t reservations = seen_.reservations;
  write(kPiece);
  expect_all_written();
  EXPECT_EQ(seen_.reservations, reservations) << "a small image has room";
  EXPECT_LE(length(), writer_->offset() + kMost / 8);
  write(std::size_t{30} << 20);
  EXPECT_GT(seen_.reservations, reservations);
  expect_all_written();
}

TEST_F(LateSegment, ReservesMoreAtOnceForALargeImageThatIsExpected) {
  begin(std::uint64_t{64} << 20);
  writer_->expect(std::uint64_t{1} << 20);
  write(std::size_t{30} << 20);
  expect_all_written();
  const std::uint64_t before = seen_.reservations;
  EXPECT_GE(before, 3U);
  begin(std::uint64_t{64} << 20);
  writer_->expect(std::uint64_t{2} << 30);
  write(std::size_t{30} << 20);
  EXPECT_EQ(seen_.reservations, before + 1);
  pieces_ = 0;  // the content that is looked at is that of this segment
}

TEST_F(LateSegment, FaultsItsBuffersInBetweenImages) {
  const auto in_memory = [&] {
    std::size_t pages = 0;
    std::vector<unsigned char> seen(WriteBuffers::kBytes / 4096);
    for (std::size_t i = 0; i < WriteBuffers::kCount; ++i) {
      EXPECT_EQ(mincore(buffers_->at(i).data(), WriteBuffers::kBytes, seen.data()), 0);
      pages +=
          static_cast<std::size_t>(std::ranges::count_if(seen, [](unsigned char page) { return (page & 1) != 0; }));
    }
    return pages;
  };
  EXPECT_EQ(in_memory(), 0U);
  write(3 * kPiece);
  expect_all_written();
  EXPECT_TRUE(buffers_->warm_up());
  write(kPiece);
  expect_all_written();
  while (buffers_->warm_up()) {
  }
  EXPECT_EQ(in_memory(), WriteBuffers::kCount * WriteBuffers::kBytes / 4096);
  write(kPiece);
  expect_all_written();
}

TEST_F(LateSegment, StaysCutWhereItWasCut) {
  begin(std::uint64_t{64} << 20);
  write(std::size_t{30} << 20);
  ASSERT_TRUE(writer_->truncate().has_value());
  expect_all_written();
  EXPECT_EQ(io_->open(writer_->name(), OpenMode::read).value()->size_bytes().value(), writer_->offset());
}

TEST_F(LateSegment, ReadsBackWhatIsHeld) {
  write((WriteBuffers::kInFlight + kHeld) * WriteBuffers::kBytes);
  std::vector<std::byte> content(kPiece);
  for (const std::uint64_t piece : {std::uint64_t{0}, pieces_ / 2, pieces_ - 1}) {
    ASSERT_TRUE(writer_->read_back(begin_ + piece * kPiece, content).has_value());
    EXPECT_EQ(content, test::random_bytes(kPiece, piece + 1)) << piece;
  }
}

TEST_F(LateSegment, TakesBackWhatIsHeld) {
  write(WriteBuffers::kBytes);
  ASSERT_TRUE(writer_->sync().has_value());
  const std::uint64_t kept = pieces_;
  write((WriteBuffers::kInFlight + kHeld) * WriteBuffers::kBytes);
  ASSERT_TRUE(writer_->rewind(begin_ + kept * kPiece).has_value());
  pieces_ = kept;
  write((WriteBuffers::kCount + 2) * WriteBuffers::kBytes);
  expect_all_written();
}

TEST_F(LateSegment, ReservesSpaceAheadHoweverLargeItBecomes) {
  constexpr std::uint64_t kSteps = 80;
  for (std::uint64_t i = 0; i < kSteps; ++i) write(std::size_t{1} << 20);
  ASSERT_TRUE(writer_->sync().has_value());
  EXPECT_GE(seen_.reservations, kSteps);
}

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
