// SPDX-License-Identifier: Apache-2.0
#include "tools/varve/diagnosis.h"

#include <stdlib.h>

#include <set>

#include <gtest/gtest.h>

#include "tests/support/temporary_directory.h"

namespace varve::tools {
namespace {

constexpr const char* kVariable = "DIAGNOSIS_TEST_CHOICE";

std::vector<BackEndRow> rows() {
  return {{"tracker", "uffd", false, false, "no such system call"},
          {"tracker", "mprotect", true, false, ""},
          {"tracker", "hash", true, false, ""},
          {"io", "posix", true, false, ""}};
}

std::string chosen(const std::vector<BackEndRow>& all) {
  std::string names;
  for (const auto& row : all)
    if (row.chosen) names += row.name + " ";
  return names;
}

TEST(Diagnosis, TheFirstOfTheOrderThatWorksIsTaken) {
  unsetenv(kVariable);
  auto all = rows();
  EXPECT_TRUE(choose(all, "tracker", {"uffd", "soft-dirty", "hash"}, kVariable));
  EXPECT_EQ(chosen(all), "hash ");
}

TEST(Diagnosis, TheVariableWinsAndMustNameOneThatWorks) {
  setenv(kVariable, "mprotect", 1);
  auto all = rows();
  EXPECT_TRUE(choose(all, "tracker", {"uffd", "soft-dirty", "hash"}, kVariable));
  EXPECT_EQ(chosen(all), "mprotect ");
  for (const char* name : {"uffd", "posix", "nonsense"}) {
    setenv(kVariable, name, 1);
    all = rows();
    EXPECT_FALSE(choose(all, "tracker", {"uffd", "soft-dirty", "hash"}, kVariable)) << name;
    EXPECT_EQ(chosen(all), "");
  }
  unsetenv(kVariable);
}

TEST(Diagnosis, ProbingNamesAReasonForWhatDoesNotWorkAndLeavesTheDirectoryAsItWas) {
  test::TemporaryDirectory directory;
  const Diagnosis diagnosis = diagnose(directory.path());
  EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
  ASSERT_TRUE(diagnosis.file_system) << diagnosis.file_system_error;
  std::size_t trackers = 0;
  for (const auto& row : diagnosis.back_ends) {
    EXPECT_TRUE(row.works || !row.remark.empty()) << row.name;
    trackers += row.kind == "tracker" ? 1 : 0;
  }
  EXPECT_EQ(trackers, 4u);
  std::set<std::string> keys;
  for (const auto& cost : diagnosis.costs.costs) {
    EXPECT_GT(cost.ns, 0) << cost.key;
    EXPECT_LT(cost.ns, 1e10) << cost.key;
    keys.insert(cost.key);
  }
  for (const char* key : {"visit_page_ns", "copy_page_ns", "hash_page_ns", "mprotect.protected_write_ns"})
    EXPECT_TRUE(keys.contains(key)) << key;
  EXPECT_FALSE(diagnosis.costs.why.empty());
  EXPECT_FALSE(diagnose(directory / "missing").usable);
}

}  // namespace
}  // namespace varve::tools
