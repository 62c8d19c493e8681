// SPDX-License-Identifier: Apache-2.0
#include "storage/manifest_reader.h"

#include <cerrno>
#include <span>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/bytes.h"
#include "storage/record.h"
#include "tests/support/simulated_io.h"

namespace varve::storage {
namespace {

constexpr std::uint64_t kOffset = 3 * 4096;
constexpr std::uint64_t kKey = 77;
const std::string kFile = "segment";

/// The record of a manifest of so many names, in a file of its own: one that is read whole, and one in parts.
class ManifestReader : public ::testing::TestWithParam<std::uint64_t> {
 protected:
  ManifestReader() : disk_({.direct = true}) {
    manifest_.chain = "main";
    manifest_.number = 1;
    manifest_.kind = ImageKind::full;
    manifest_.architecture = "x86_64";
    manifest_.page_bytes = manifest_.chunk_bytes = 4096;
    RegionRecord region;
    region.name = "memory";
    region.bytes = GetParam() * 4096;
    region.complete = true;
    region.runs = {{0, GetParam(), RunKind::named}};
    for (std::uint64_t i = 0; i < GetParam(); ++i) region.names.push_back({i + 2, ~i});
    manifest_.regions.push_back(std::move(region));

    std::vector<std::byte> payload(kCommitBlockBytes);
    encode_commit_block({.begin = 0}, std::span(payload).first<kCommitBlockBytes>());
    const auto encoded = encode_manifest(manifest_);
    payload.insert(payload.end(), encoded.begin(), encoded.end());
    RecordHeader header;
    header.type = RecordType::manifest;
    header.ordinal = 1;
    header.offset = kOffset;
    std::vector<std::byte> file(kOffset + kRecordHeaderBytes);
    encode_record_header(header, payload, kKey, std::span(file).last<kRecordHeaderBytes>());
    file.insert(file.end(), payload.begin(), payload.end());
    payload_end_ = file.size();
    file.resize(round_up(file.size(), kIoAlignment));
    bytes_ = file.size();
    disk_.put(kFile, file);
  }
  Result<Manifest> read() {
    const auto io = disk_.open();
    return read_manifest_record(*io, {kFile, kKey, bytes_}, kOffset);
  }

  test::SimulatedDisk disk_;
  Manifest manifest_;
  std::uint64_t payload_end_ = 0;
  std::uint64_t bytes_ = 0;
};

TEST_P(ManifestReader, GivesWhatWasWritten) {
  const auto read_back = read();
  ASSERT_TRUE(read_back.has_value()) << read_back.error().message();
  EXPECT_EQ(*read_back, manifest_);
}

TEST_P(ManifestReader, EveryDamageIsNamed) {
  for (std::uint64_t at = kOffset; at < payload_end_; at += 1 + (payload_end_ - kOffset) / 40) {
    disk_.flip_bit(kFile, at, 5);
    const auto damaged = read();
    disk_.flip_bit(kFile, at, 5);
    ASSERT_FALSE(damaged.has_value()) << at;
    EXPECT_EQ(damaged.error().code(), ErrorCode::corruption) << damaged.error().message();
    EXPECT_NE(damaged.error().message().find(kFile), std::string::npos) << damaged.error().message();
  }
  EXPECT_TRUE(read().has_value());
}

TEST_P(ManifestReader, AFileThatEndsBeforeItIsDamage) {
  disk_.truncate(kFile, round_down(payload_end_ - 1, kIoAlignment));
  const auto cut = read();
  ASSERT_FALSE(cut.has_value());
  EXPECT_EQ(cut.error().code(), ErrorCode::corruption) << cut.error().message();
}

TEST_P(ManifestReader, WhatCannotBeReadIsNotCalledDamage) {
  for (std::uint64_t nth = 1; nth <= 2; ++nth) {
    disk_.add_fault({.operation = test::SimulatedOperation::read, .nth = nth, .os_errno = EACCES, .count = 1});
    const auto refused = read();
    ASSERT_FALSE(refused.has_value()) << nth;
    EXPECT_NE(refused.error().code(), ErrorCode::corruption) << refused.error().message();
    EXPECT_EQ(refused.error().os_errno(), EACCES);
  }
  EXPECT_TRUE(read().has_value());
}

INSTANTIATE_TEST_SUITE_P(Names, ManifestReader, ::testing::Values(3, 200'000),
                         [](const auto& tested) { return std::to_string(tested.param); });

}  // namespace
}  // namespace varve::storage
