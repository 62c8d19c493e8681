// SPDX-License-Identifier: Apache-2.0
#include "tools/table.h"

#include <gtest/gtest.h>

namespace varve::tools {
namespace {

TEST(Table, ColumnsAreAsWideAsTheirWidestCellAndNumbersStandToTheRight) {
  Table table({{"NAME"}, {"BYTES", Table::Align::right}, {"NOTE"}});
  table.add({"grid", "7", "first"});
  table.add({"u", "1,024", "-"});
  EXPECT_EQ(table.text(),
            "NAME  BYTES  NOTE\n"
            "grid      7  first\n"
            "u     1,024  -\n");
}

TEST(Table, WidthCountsCharactersNotBytes) {
  EXPECT_EQ(display_width("1.2 µs"), 6u);
  Table table({{"TIME", Table::Align::right}, {"X"}});
  table.add({"1.2 µs", "a"});
  table.add({"12.34 ms", "b"});
  EXPECT_EQ(table.text(),
            "    TIME  X\n"
            "  1.2 µs  a\n"
            "12.34 ms  b\n");
}

}  // namespace
}  // namespace varve::tools
