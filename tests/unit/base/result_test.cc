// SPDX-License-Identifier: Apache-2.0
#include "varve/result.h"

#include <cerrno>
#include <memory>

#include <gtest/gtest.h>

#include "base/os_error.h"
#include "base/try.h"

namespace varve {
namespace {

Result<int> half(int value) {
  if (value % 2 != 0)
    return fail(ErrorCode::invalid_argument,
                {"halving of " + std::to_string(value) + " refused", "it is odd", "give an even one"});
  return value / 2;
}

Result<int> quarter(int value) {
  VARVE_TRY_ASSIGN(const int halved, half(value));
  return half(halved);
}

Status check_even(int value) {
  VARVE_TRY(half(value));
  return {};
}

TEST(Result, carries_a_value_or_an_error) {
  EXPECT_EQ(quarter(12).value(), 3);
  const auto odd = quarter(6);
  ASSERT_FALSE(odd);
  EXPECT_EQ(odd.error().code(), ErrorCode::invalid_argument);
  EXPECT_EQ(odd.error().message(), "halving of 3 refused: it is odd; give an even one");
  EXPECT_TRUE(check_even(2));
  EXPECT_FALSE(check_even(1));
}

TEST(Result, moves_values_that_cannot_be_copied) {
  Result<std::unique_ptr<int>> made(std::make_unique<int>(7));
  const std::unique_ptr<int> taken = std::move(made).value();
  EXPECT_EQ(*taken, 7);
}

TEST(ResultDeathTest, reading_the_wrong_side_aborts) {
  EXPECT_DEATH({ [[maybe_unused]] const int value = half(1).value(); }, "");
  EXPECT_DEATH({ [[maybe_unused]] const auto error = half(2).error(); }, "");
}

TEST(OsError, names_the_errno_and_a_way_out) {
  const Error full = os_error("write of segments/a-1.seg failed", ENOSPC);
  EXPECT_EQ(full.code(), ErrorCode::io);
  EXPECT_EQ(full.os_errno(), ENOSPC);
  EXPECT_EQ(full.cause(), "ENOSPC (No space left on device)");
  EXPECT_EQ(os_error("open of x failed", ENOENT).code(), ErrorCode::not_found);
  EXPECT_EQ(os_error("userfaultfd refused", ENOSYS).code(), ErrorCode::unsupported);
}

}  // namespace
}  // namespace varve
