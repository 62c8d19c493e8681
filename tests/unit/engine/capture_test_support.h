// SPDX-License-Identifier: Apache-2.0
//
// For the tests of capture: memory of chosen kinds, system calls refused to one thread, code run in a process of its
// own.
#pragma once

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "engine/capture.h"

namespace varve::capture_test {

/// Anonymous memory, page-aligned.
class Mapped {
 public:
  explicit Mapped(std::size_t bytes, int flags = MAP_PRIVATE) : bytes_(bytes) {
    void* const memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
    if (memory != MAP_FAILED) memory_ = static_cast<std::byte*>(memory);
  }
  ~Mapped() {
    if (memory_ != nullptr) munmap(memory_, bytes_);
  }
  Mapped(const Mapped&) = delete;
  Mapped& operator=(const Mapped&) = delete;
  std::byte* get() const { return memory_; }
  std::size_t bytes() const { return bytes_; }
  bool valid() const { return memory_ != nullptr; }

 private:
  std::byte* memory_ = nullptr;
  std::size_t bytes_;
};

/// Fills with what differs from place to place and from seed to seed.
inline void fill(std::byte* memory, std::size_t bytes, std::uint64_t seed) {
  std::uint64_t state = seed * 0x9e3779b97f4a7c15 + 1;
  std::size_t at = 0;
  for (; at + 8 <= bytes; at += 8) {
    state = state * 6364136223846793005 + 1442695040888963407;
    std::memcpy(memory + at, &state, 8);
  }
  for (; at < bytes; ++at) memory[at] = static_cast<std::byte>(state >> (at % 8 * 8));
}

/// Refuses a system call with `error` to this thread and what it makes from now on; other threads are not touched.
/// With `only_without`, only calls whose first argument has none of these bits are refused.
inline bool refuse_in_this_thread(int number, int error, std::uint32_t only_without = 0) {
  const auto call = static_cast<std::uint32_t>(number);
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args[0])),
      BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, only_without, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<std::uint32_t>(error)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  sock_fprog program{static_cast<unsigned short>(std::size(filter)), filter};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return false;
  return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) == 0;
}

/// No process can be made; threads still can.
inline bool refuse_processes_in_this_thread() { return refuse_in_this_thread(SYS_clone, EPERM, CLONE_VM); }

/// Runs `body` in a child process and returns what it returned; or how the child ended, if it did not.
inline std::string in_a_child(const std::function<std::string()>& body) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return "no pipe";
  const pid_t child = fork();
  if (child == 0) {
    const std::string said = "=" + body();
    [[maybe_unused]] const auto written = write(ends[1], said.data(), said.size());
    _exit(0);
  }
  close(ends[1]);
  const UniqueFd from(ends[0]);
  std::string said;
  char buffer[512];
  for (ssize_t got; (got = read(from.get(), buffer, sizeof buffer)) > 0;)
    said.append(buffer, static_cast<std::size_t>(got));
  int status = 0;
  waitpid(child, &status, 0);
  if (said.empty()) return "the child ended with status " + std::to_string(status);
  return said.substr(1);
}

/// Gives up root's rights, which would pass limits and access checks. Only in a child.
inline bool become_ordinary_user() {
  constexpr uid_t kNobody = 65534;
  if (geteuid() != 0) return true;
  return setresgid(kNobody, kNobody, kNobody) == 0 && setresuid(kNobody, kNobody, kNobody) == 0;
}

}  // namespace varve::capture_test
