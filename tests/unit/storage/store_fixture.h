// SPDX-License-Identifier: Apache-2.0
//
// What the tests of the store share.
#pragma once

#include <memory>
#include <string_view>

#include <gtest/gtest.h>

#include "storage/store.h"
#include "tests/support/simulated_io.h"
#include "tests/support/store_shadow.h"

namespace varve::test {

inline constexpr std::size_t kPage = 4096;

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

#define ASSERT_OK(expression)                              \
  do {                                                     \
    const auto& ok_ = (expression);                        \
    ASSERT_TRUE(ok_.has_value()) << ok_.error().message(); \
  } while (false)

}  // namespace varve::test
