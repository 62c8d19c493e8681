// SPDX-License-Identifier: Apache-2.0
//
// The forked holder from within: a child process whose only purpose is that its memory stays as it was at the cut.
//
// It is a copy of a process with many threads, made at any moment: every lock may be held for ever and every invariant
// broken. So it makes raw system calls only, touches no lock, no allocator and no library state, never returns into the
// program's code, and carries no sanitizer instrumentation.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>

#include "engine/capture_extent.h"

namespace varve {

inline constexpr std::uint32_t kRingSlots = 4;
/// Spans of one question.
inline constexpr std::size_t kAskedSpans = 8192;

/// Shared memory between the engine and one holder. Words are futexes; the ring's slots (extents) follow in memory.
/// The engine asks for spans, and for the next ones once those are answered: all of them are in the ring, or were.
struct HolderControl {
  std::uint32_t ready;     ///< 1: the holder has closed its descriptors
  std::uint32_t asked;     ///< questions so far
  std::uint32_t events;    ///< grows with each change of the next two, after it
  std::uint32_t produced;  ///< slots filled so far
  std::uint32_t answered;  ///< questions: nothing comes of them after `produced`
  std::uint32_t consumed;  ///< slots given back so far
  std::uint32_t span_count;
  struct Slot {
    std::uint32_t used;
    std::uint32_t pieces;
  } slot[kRingSlots];
  MemorySpan span[kAskedSpans];
};

struct HolderTask {
  pid_t parent = 0;       ///< as the child should see it
  int pipe = -1;          ///< its write end is closed when the parent ends or executes another program
  int parent_pidfd = -1;  ///< becomes readable when the parent ends, whoever inherited the pipe; -1: kernels before 5.3
  HolderControl* control = nullptr;
  std::byte* slots = nullptr;  ///< of the ring
  int niceness = 0;            ///< the least to copy at
  std::size_t chunk_bytes = 0;
};

/// What the child does until it is killed or its parent is gone.
[[noreturn]] void hold(const HolderTask& task) noexcept;

/// FUTEX_WAIT and FUTEX_WAKE on a word in shared memory; the wait also ends after `timeout_ms`.
void futex_wait(std::uint32_t* word, std::uint32_t seen, long timeout_ms) noexcept;
void futex_wake(std::uint32_t* word) noexcept;

}  // namespace varve
