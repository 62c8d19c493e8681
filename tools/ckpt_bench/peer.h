// SPDX-License-Identifier: Apache-2.0
//
// Somebody else's checkpointer in the benchmark: a command that is run on a process of its own, which holds as much
// memory as the benchmark's program and notes for how long it stood still.
//
// Threads: one. create() forks: REQUIRES that no engine is open.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <span>
#include <string>

#include "varve/result.h"

namespace varve::tools {

struct Peer {
  std::string name;
  std::string command;  ///< with {pid}, and {dir} where it is to write
};
/// "NAME=COMMAND". `invalid_argument` without a name, a command or {pid} in it.
Result<Peer> parse_peer(const std::string& text);

/// The process that is checkpointed: a session of its own, with no descriptor but /dev/null. It does nothing but look
/// at the clock every tenth of a millisecond. Killed by the destructor; ends with the benchmark.
class Victim {
 public:
  static Result<Victim> create(std::span<std::byte> memory);
  Victim(Victim&& other) noexcept;
  Victim& operator=(Victim&&) = delete;
  ~Victim();

  pid_t pid() const { return pid_; }
  /// Whether it lives. A checkpointer may end what it has saved.
  bool alive();
  void forget_gaps();
  /// The longest time between two looks at the clock since then.
  std::uint64_t longest_gap_ns() const;

 private:
  struct Shared;
  Victim() = default;
  pid_t pid_ = -1;
  Shared* shared_ = nullptr;
};

struct PeerRun {
  std::uint64_t ns = 0;  ///< of the command, and a syncfs(2) of its directory behind it
  std::string failure;   ///< empty: it ended with status 0
};
/// Runs the command by /bin/sh in a process group of its own, which is killed when `seconds` are over; when the command
/// has ended, so is what it left behind in that group. The shell ends with the benchmark.
Result<PeerRun> run_peer(const Peer& peer, pid_t pid, const std::string& directory, unsigned seconds);

}  // namespace varve::tools
