// SPDX-License-Identifier: Apache-2.0
//
// What the tests of the store share.
#pragma once

#include <map>
#include <memory>
#include <numeric>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "storage/collect.h"
#include "storage/store.h"
#include "tests/support/simulated_io.h"
#include "tests/support/store_shadow.h"

namespace varve::test {

inline constexpr std::size_t kPage = 4096;

#define ASSERT_OK(expression)                              \
  do {                                                     \
    const auto& ok_ = (expression);                        \
    ASSERT_TRUE(ok_.has_value()) << ok_.error().message(); \
  } while (false)

inline std::unique_ptr<storage::Store> open_store(SimulatedDisk& disk, const storage::StoreOptions& options = {}) {
  auto store = storage::Store::open(disk.open(), options);
  EXPECT_TRUE(store.has_value()) << store.error().message();
  return store ? std::move(*store) : nullptr;
}

inline std::unique_ptr<storage::ChainWriter> open_chain(storage::Store& store, std::string_view chain = "main") {
  auto writer = store.open_chain(chain);
  EXPECT_TRUE(writer.has_value()) << writer.error().message();
  return writer ? std::move(*writer) : nullptr;
}

inline ShadowMemory some_memory(std::uint64_t seed, std::size_t pages = 8) {
  ShadowMemory memory;
  memory["grid"] = {random_bytes(pages * kPage, seed), 0, 8};
  memory["step"] = {random_bytes(8, seed + 1), 24, 8};
  memory["odd"] = {random_bytes(3 * kPage + 17, seed + 2), 100, 0};
  return memory;
}

/// What the images of a chain hold, by number.
using States = std::map<std::uint64_t, ShadowMemory>;

inline void retire(storage::ChainWriter& writer, std::uint64_t first, std::uint64_t last, States& states) {
  std::vector<std::uint64_t> numbers(last - first + 1);
  std::iota(numbers.begin(), numbers.end(), first);
  ASSERT_OK(writer.retire(numbers));
  for (const std::uint64_t number : numbers) states.erase(number);
}

inline storage::CollectOptions impatient(double spare = 0.05) {
  storage::CollectOptions options;
  options.spare = spare;
  options.patience_ms = 0;
  return options;
}

inline void collect(storage::Store& store, storage::ChainWriter& writer, storage::CollectReport& report,
                    const storage::CollectOptions& options = impatient()) {
  const auto collector = storage::make_collector(store, writer, options);
  auto done = collector->run({});
  ASSERT_OK(done);
  EXPECT_TRUE(*done);
  report = collector->report();
}

}  // namespace varve::test
