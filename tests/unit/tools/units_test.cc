// SPDX-License-Identifier: Apache-2.0
#include "tools/units.h"

#include <gtest/gtest.h>

namespace varve::tools {
namespace {

TEST(Units, SizesAreReadInPowersOf1024And1000) {
  const std::pair<const char*, std::uint64_t> cases[] = {
      {"0", 0},
      {"4096", 4096},
      {"64B", 64},
      {"1KiB", 1024},
      {"1K", 1024},
      {"512MiB", std::uint64_t{512} << 20},
      {"1GiB", std::uint64_t{1} << 30},
      {"1.5GiB", std::uint64_t{3} << 29},
      {"2T", std::uint64_t{2} << 40},
      {"1 GB", 1'000'000'000},
      {"3kB", 3000},
  };
  for (const auto& [text, bytes] : cases) {
    const auto parsed = parse_size(text);
    ASSERT_TRUE(parsed) << text << ": " << parsed.error().message();
    EXPECT_EQ(*parsed, bytes) << text;
  }
}

TEST(Units, WhatIsNoSizeIsRefusedWithTheWayToWriteIt) {
  for (const char* text : {"", "GiB", "-1", "1XiB", "1GiBB", "1e3", "nan", "0x10", "1  GiB", "99999999TiB"}) {
    const auto parsed = parse_size(text);
    ASSERT_FALSE(parsed) << text << " gave " << *parsed;
    EXPECT_EQ(parsed.error().code(), ErrorCode::invalid_argument);
    EXPECT_NE(parsed.error().message().find("write it like"), std::string::npos) << parsed.error().message();
  }
}

TEST(Units, SharesAreReadWithAndWithoutPercentAndBounded) {
  EXPECT_DOUBLE_EQ(*parse_fraction("1%"), 0.01);
  EXPECT_DOUBLE_EQ(*parse_fraction("0.5 %"), 0.005);
  EXPECT_DOUBLE_EQ(*parse_fraction("0.25"), 0.25);
  EXPECT_DOUBLE_EQ(*parse_fraction("100%"), 1);
  for (const char* text : {"", "%", "101%", "-1%", "1.5", "1%%", "one"}) EXPECT_FALSE(parse_fraction(text)) << text;
}

TEST(Units, FiguresAreWrittenForPeople) {
  EXPECT_EQ(format_bytes(4095), "4.00 KiB");
  EXPECT_EQ(format_bytes(17), "17 B");
  EXPECT_EQ(format_bytes(std::uint64_t{3} << 29), "1.50 GiB");
  EXPECT_EQ(format_rate(1.92e9), "1.92 GB/s");
  EXPECT_EQ(format_ns(1'240'000), "1.24 ms");
  EXPECT_EQ(format_ns(999), "999 ns");
  EXPECT_EQ(format_percent(0.0123), "1.2 %");
  EXPECT_EQ(format_percent(-0.0012), "-0.12 %");
  EXPECT_EQ(format_count(0), "0");
  EXPECT_EQ(format_count(262'144), "262,144");
  EXPECT_EQ(format_count(1'000), "1,000");
}

TEST(Units, TimesAreUtcAndSortAsText) {
  EXPECT_EQ(format_time(0), "1970-01-01T00:00:00.000000Z");
  EXPECT_EQ(format_time(1'700'000'000'123'456'789), "2023-11-14T22:13:20.123456Z");
}

}  // namespace
}  // namespace varve::tools
