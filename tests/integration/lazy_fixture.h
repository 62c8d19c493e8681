// SPDX-License-Identifier: Apache-2.0
//
// What the tests of lazy restores share: engines over a store on disk whose stream can be held up, so that what happens
// "meanwhile" does not depend on luck. Faults are served all the time.
#pragma once

#include <pthread.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/engine_implementation.h"
#include "engine/missing_memory.h"
#include "storage/io.h"
#include "tests/integration/engine_fixture.h"
#include "tests/integration/gated_io.h"

namespace varve::test {

/// Reads of the thread varve-stream wait while the gate is shut.
class StreamGateFile final : public storage::ForwardingFile {
 public:
  StreamGateFile(std::unique_ptr<storage::File> file, Gate& gate) : ForwardingFile(std::move(file)), gate_(gate) {}
  Result<std::size_t> read(std::uint64_t offset, std::span<std::byte> into) override {
    std::array<char, 16> name{};
    pthread_getname_np(pthread_self(), name.data(), name.size());
    if (std::string_view(name.data()) == "varve-stream") gate_.pass();
    return ForwardingFile::read(offset, into);
  }

 private:
  Gate& gate_;
};

using StreamGateIo = storage::WrappingIo<StreamGateFile, Gate&>;

using EnginePointer = std::unique_ptr<EngineImplementation>;

inline EnginePointer open_gated(const Options& options, Gate& gate) {
  auto io = storage::open_io(options.store, {});
  if (!io) {
    ADD_FAILURE() << io.error().message();
    return nullptr;
  }
  auto engine = EngineImplementation::open(options, std::make_unique<StreamGateIo>(std::move(*io), gate));
  if (!engine) ADD_FAILURE() << engine.error().message();
  return engine ? std::move(*engine) : nullptr;
}

inline RestoreOptions lazily() {
  RestoreOptions options;
  options.lazy = true;
  return options;
}

inline Status take_image(EngineImplementation& engine) {
  CheckpointOptions options;
  options.sync = true;
  const auto ticket = engine.checkpoint(options);
  return ticket ? Status() : Status(ticket.error());
}

/// The reason why lazy restores can't be tried here; empty: they can.
inline std::string why_not_lazy() {
  const auto memory = MissingMemory::open();
  return memory ? std::string() : memory.error().message();
}

#define SKIP_WITHOUT_LAZY()                                                                \
  do {                                                                                     \
    if (const auto why = ::varve::test::why_not_lazy(); !why.empty()) GTEST_SKIP() << why; \
  } while (false)

}  // namespace varve::test
