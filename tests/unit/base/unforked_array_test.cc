// SPDX-License-Identifier: Apache-2.0
#include "base/unforked_array.h"

#include <sys/wait.h>

#include <cstdint>
#include <memory>
#include <set>
#include <utility>

#include <gtest/gtest.h>

namespace varve {
namespace {

using Array = UnforkedArray<std::uint64_t>;

constexpr std::size_t kLarge = Array::kLargeBytes / sizeof(std::uint64_t);

/// What a child of this process ends with.
template <class Child>
int in_child(Child child) {
  const pid_t pid = fork();
  if (pid == 0) {
    child();
    _exit(7);
  }
  int status = 0;
  EXPECT_EQ(waitpid(pid, &status, 0), pid);
  return status;
}

class UnforkedArrayTest : public testing::TestWithParam<std::size_t> {};

TEST_P(UnforkedArrayTest, IsZeroedAndWritable) {
  Array array(GetParam());
  for (std::size_t i = 0; i < GetParam(); ++i) {
    ASSERT_EQ(array[i], 0U);
    array[i] = i;
  }
  for (std::size_t i = 0; i < GetParam(); ++i) ASSERT_EQ(array[i], i);
}

TEST_P(UnforkedArrayTest, MovesWithoutCopying) {
  Array from(GetParam());
  from[GetParam() - 1] = 5;
  const std::uint64_t* const last = &from[GetParam() - 1];
  Array to(std::move(from));
  Array assigned(3);
  assigned = std::move(to);
  EXPECT_EQ(&assigned[GetParam() - 1], last);
  EXPECT_EQ(*last, 5U);
}

TEST_P(UnforkedArrayTest, CanBeDestroyedInAChild) {
  auto array = std::make_unique<Array>(GetParam());
  (*array)[0] = 1;
  const int status = in_child([&array] { array.reset(); });
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 7);
  EXPECT_EQ((*array)[0], 1U);
}

INSTANTIATE_TEST_SUITE_P(Sizes, UnforkedArrayTest, testing::Values(1, kLarge - 1, kLarge, 3 * kLarge + 1));

TEST_P(UnforkedArrayTest, SeveralAreZeroedApartAndEndOneByOne) {
  constexpr std::size_t kArrays = 5;
  auto arrays = Array::several(kArrays, GetParam());
  ASSERT_EQ(arrays.size(), kArrays);
  for (std::size_t i = 0; i < kArrays; ++i) {
    arrays[i].fault_in();
    for (std::size_t at = 0; at < GetParam(); ++at) {
      ASSERT_EQ(arrays[i][at], 0U);
      arrays[i][at] = i + 1;
    }
  }
  std::set<std::size_t> left = {0, 1, 2, 3, 4};
  for (const std::size_t ended : {2U, 0U, 4U, 1U}) {
    arrays[ended] = Array();
    left.erase(ended);
    for (const std::size_t i : left)
      for (std::size_t at = 0; at < GetParam(); ++at) ASSERT_EQ(arrays[i][at], i + 1);
  }
  const int status = in_child([&arrays] { arrays.clear(); });
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 7);
  EXPECT_EQ(arrays[3][GetParam() - 1], 4U);
}

TEST(UnforkedArray, SeveralSmallOnesAreNotInheritedWhereTheyAreLargeTogether) {
  auto arrays = Array::several(kLarge, 1);
  const int status = in_child([&arrays] {
    void* const place = &arrays[3][0];
    if (mmap(place, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != place) _exit(1);
  });
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 7) << status;
}

TEST(UnforkedArray, LeavesWhatAChildHasPutThereAlone) {
  auto array = std::make_unique<Array>(kLarge);
  const int status = in_child([&array] {
    void* const place = &(*array)[0];
    if (mmap(place, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != place)
      _exit(1);  // it was inherited
    *static_cast<std::uint64_t*>(place) = 5;
    array.reset();
    if (*static_cast<volatile std::uint64_t*>(place) != 5) _exit(2);
  });
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 7) << status;
}

}  // namespace
}  // namespace varve
