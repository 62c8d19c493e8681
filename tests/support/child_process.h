// SPDX-License-Identifier: Apache-2.0
//
// A forked child of a test. Its body returns 0 when all is well, or a number that says which check failed; failures of
// GoogleTest's own assertions in the child count as 125.
#pragma once

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>

#include <gtest/gtest.h>

namespace varve::test {

template <class Body>
pid_t start_child(Body body) {
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child != 0) return child;
  int code = body();
  if (testing::Test::HasFailure()) code = 125;
  std::fflush(nullptr);
  _exit(code);  // no destructors of the parent's objects, no second report
}

/// Its exit status; -N when signal N ended it.
inline int wait_child(pid_t child) {
  int status = 0;
  if (waitpid(child, &status, 0) != child) return 126;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

template <class Body>
int run_child(Body body) {
  return wait_child(start_child(body));
}

}  // namespace varve::test
