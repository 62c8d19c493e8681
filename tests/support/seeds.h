// SPDX-License-Identifier: Apache-2.0
//
// The seeds of a property test: --seeds=COUNT of them, from --seed=FIRST on; --seed=N alone repeats one. Anything else
// on the command line that is not GoogleTest's fails the test, so that a misspelt number is not taken for the usual
// one.
#pragma once

#include <charconv>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <gtest/gtest.h>

namespace varve::test {

struct Seeds {
  std::uint64_t first = 1;
  std::uint64_t count = 0;
};

/// `usual`: how many where the command line says nothing.
inline Seeds wanted_seeds(std::uint64_t usual) {
  std::optional<std::uint64_t> first;
  std::optional<std::uint64_t> count;
  const auto arguments = ::testing::internal::GetArgvs();
  for (std::size_t i = 1; i < arguments.size(); ++i) {
    const std::string_view argument = arguments[i];
    if (argument.starts_with("--gtest")) continue;
    const std::size_t value_at = argument.find('=') + 1;  // 0: there is none
    std::uint64_t value = 0;
    const char* const end = argument.data() + argument.size();
    const auto parsed = std::from_chars(argument.data() + value_at, end, value);
    const bool number = value_at != 0 && parsed.ec == std::errc() && parsed.ptr == end;
    const std::string_view name = argument.substr(0, value_at);
    if (number && name == "--seed=")
      first = value;
    else if (number && name == "--seeds=")
      count = value;
    else
      ADD_FAILURE() << argument << " is not understood; give --seed=FIRST and --seeds=COUNT";
  }
  return {first.value_or(1), count.value_or(first ? 1 : usual)};
}

/// Runs each seed until one fails, and says how to repeat that one.
template <typename Run>
void for_each_seed(const Seeds& seeds, const Run& run) {
  for (std::uint64_t seed = seeds.first; seed < seeds.first + seeds.count; ++seed) {
    if (!::testing::Test::HasFailure()) run(seed);
    if (!::testing::Test::HasFailure()) continue;
    const auto* const test = ::testing::UnitTest::GetInstance()->current_test_info();
    FAIL() << "repeat with: " << ::testing::internal::GetArgvs().front()
           << " --gtest_filter=" << test->test_suite_name() << "." << test->name() << " --seed=" << seed;
  }
}

}  // namespace varve::test
