// SPDX-License-Identifier: Apache-2.0
//
// A child process that shares the memory of this one as of its construction, until it is destroyed. It runs nothing,
// not even handlers of pthread_atfork(3).
#pragma once

#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

namespace varve::test {

class MemorySharer {
 public:
  MemorySharer() : pid_(static_cast<pid_t>(syscall(SYS_clone, SIGCHLD, nullptr, nullptr, nullptr, nullptr))) {
    if (pid_ == 0) syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);  // a test that crashed destroys nothing
    while (pid_ == 0) syscall(SYS_ppoll, nullptr, 0, nullptr, nullptr, 0);
    EXPECT_GT(pid_, 0);
  }
  MemorySharer(const MemorySharer&) = delete;
  MemorySharer& operator=(const MemorySharer&) = delete;
  ~MemorySharer() {
    if (pid_ < 0) return;
    kill(pid_, SIGKILL);
    EXPECT_EQ(waitpid(pid_, nullptr, 0), pid_);
  }

 private:
  const pid_t pid_;
};

}  // namespace varve::test
