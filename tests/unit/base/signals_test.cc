// SPDX-License-Identifier: Apache-2.0
#include "base/signals.h"

#include <thread>

#include <gtest/gtest.h>

namespace varve {
namespace {

TEST(BlockedSignals, threads_block_what_is_sent_and_leave_open_what_they_raise) {
  sigset_t before;
  pthread_sigmask(SIG_SETMASK, nullptr, &before);
  sigset_t inside;
  {
    const BlockedSignals blocked;
    std::thread([&] { pthread_sigmask(SIG_SETMASK, nullptr, &inside); }).join();
  }
  for (const int sent : {SIGTERM, SIGINT, SIGCHLD, SIGUSR1, SIGPROF}) EXPECT_EQ(sigismember(&inside, sent), 1) << sent;
  for (const int raised : {SIGSEGV, SIGBUS}) EXPECT_EQ(sigismember(&inside, raised), 0) << raised;
  sigset_t after;
  pthread_sigmask(SIG_SETMASK, nullptr, &after);
  EXPECT_EQ(sigismember(&after, SIGTERM), sigismember(&before, SIGTERM));
}

}  // namespace
}  // namespace varve
