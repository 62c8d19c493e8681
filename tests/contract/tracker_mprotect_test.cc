// SPDX-License-Identifier: Apache-2.0
//
// What only the back end `mprotect` must do: live with the program's own SIGSEGV handlers, with many threads in its
// own, with the limit of mappings, and with stacks.
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <random>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "tests/contract/tracker_fixture.h"
#include "tests/support/sanitizers.h"

namespace varve::tracker {
namespace {

constexpr auto kMprotect = BackEndKind::mprotect;

sigjmp_buf back;
std::atomic<int> first_handler_calls{0};
std::atomic<int> second_handler_calls{0};
struct sigaction before_second;

void first_handler(int, siginfo_t*, void*) {
  ++first_handler_calls;
  siglongjmp(back, 1);
}

// A handler that passes on what it does not know, as a good one does.
void second_handler(int signal, siginfo_t* info, void* context) {
  ++second_handler_calls;
  before_second.sa_sigaction(signal, info, context);
}

void install(void (*handler)(int, siginfo_t*, void*), struct sigaction* old) {
  struct sigaction action {};
  action.sa_sigaction = handler;
  action.sa_flags = SA_SIGINFO;
  ASSERT_EQ(sigaction(SIGSEGV, &action, old), 0);
}

// Whether writing there runs into the program's handler.
bool faults(volatile std::uint8_t* address) {
  if (sigsetjmp(back, 1) != 0) return true;
  *address = 1;
  return false;
}

class MprotectTracker : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string reason = reason_not_to_run(kMprotect); !reason.empty()) GTEST_SKIP() << reason;
    sigaction(SIGSEGV, nullptr, &before_);
  }
  void TearDown() override { sigaction(SIGSEGV, &before_, nullptr); }
  struct sigaction before_ {};
};

TEST_F(MprotectTracker, FaultsThatAreNotOursReachTheProgramsHandler) {
  install(&first_handler, nullptr);
  const Memory memory(64);
  const Memory guard(1);
  ASSERT_EQ(mprotect(guard.data(), guard.bytes(), PROT_NONE), 0);
  ASSERT_EQ(mprotect(memory.at(60), page_bytes(), PROT_READ), 0);
  Tracked tracked(memory, memory.range(), kMprotect);
  tracked.arm();
  first_handler_calls = 0;
  EXPECT_FALSE(faults(memory.at(3)));
  EXPECT_TRUE(faults(guard.at(0)));
  EXPECT_TRUE(faults(memory.at(60))) << "a read-only page of the program's was made writable";
  EXPECT_TRUE(faults(reinterpret_cast<volatile std::uint8_t*>(page_bytes() / 2)));  // nothing is mapped so low
  EXPECT_EQ(first_handler_calls, 3);
  ASSERT_EQ(mprotect(memory.at(3), page_bytes(), PROT_READ),
            0);  // written by our mark, read-only by the program's will
  EXPECT_TRUE(faults(memory.at(3)));
  ASSERT_EQ(mprotect(memory.at(3), page_bytes(), PROT_READ | PROT_WRITE), 0);
  EXPECT_EQ(tracked.cut(), Pages({3, 60}));
}

TEST_F(MprotectTracker, AHandlerInstalledLaterGoesBehindOursAgain) {
  install(&first_handler, nullptr);
  const Memory memory(64);
  const Memory guard(1);
  ASSERT_EQ(mprotect(guard.data(), guard.bytes(), PROT_NONE), 0);
  Tracked tracked(memory, memory.range(), kMprotect);
  tracked.cut_and_commit();
  install(&second_handler, &before_second);
  tracked.settle(tracked.cool());  // puts ours in front before anything is protected
  first_handler_calls = second_handler_calls = 0;
  memory.write(5);
  EXPECT_EQ(second_handler_calls, 0);
  EXPECT_TRUE(faults(guard.at(0)));  // ours -> second -> ours, the older place -> first
  EXPECT_EQ(second_handler_calls, 1);
  EXPECT_EQ(first_handler_calls, 1);
  EXPECT_EQ(tracked.cut(), Pages({5}));
}

// In a process of its own: how it ends.
template <class Body>
int status_of_child(Body body) {
  const pid_t child = fork();
  if (child == 0) {
    body();
    _exit(0);
  }
  int status = -1;
  waitpid(child, &status, 0);
  return status;
}

TEST_F(MprotectTracker, WithoutAHandlerOfItsOwnTheProgramDiesAsItWould) {
  if (test::kAddressSanitizer) GTEST_SKIP() << "AddressSanitizer has its own ending";
  for (const auto disposition : {SIG_DFL, SIG_IGN}) {
    signal(SIGSEGV, disposition);
    const Memory memory(8);
    ASSERT_EQ(mprotect(memory.at(7), page_bytes(), PROT_READ), 0);
    Tracked tracked(memory, memory.range(), kMprotect);
    tracked.arm();
    struct sigaction current {};
    sigaction(SIGSEGV, nullptr, &current);
    ASSERT_NE(current.sa_handler, disposition);
    const auto killed = [](int status) { return WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV; };
    EXPECT_TRUE(killed(status_of_child([&] { *static_cast<volatile std::uint8_t*>(memory.at(7)) = 1; })));
    EXPECT_FALSE(killed(status_of_child([&] { memory.write(3); }))) << "ours";
    const int sent = status_of_child([] { raise(SIGSEGV); });
    EXPECT_EQ(killed(sent), disposition == SIG_DFL);
  }
}

TEST_F(MprotectTracker, ThreadsThatMeetOnTheSamePagesAllGetOn) {
  const Memory memory(2000);
  Tracked tracked(memory, memory.range(), kMprotect);
  tracked.arm();
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&memory] {
      for (std::size_t page = 0; page < memory.pages(); ++page)
        std::atomic_ref(*memory.at(page)).fetch_add(1, std::memory_order_relaxed);
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(tracked.cut(), memory.all());
  EXPECT_EQ(*memory.at(1234), 5);
  EXPECT_GE(tracked->counters().faults, 2000U);
}

std::size_t mappings() {
  std::ifstream maps("/proc/self/maps");
  std::size_t count = 0;
  for (std::string line; std::getline(maps, line);) ++count;
  return count;
}

TEST_F(MprotectTracker, AHundredThousandScatteredPagesStayBelowTheLimitOfMappings) {
  constexpr std::size_t kPages = 250'000;
  constexpr std::size_t kWritten = 100'000;
  const Memory memory(kPages, {.populate = false});
  Tracked tracked(memory, memory.range(), kMprotect);
  tracked.arm();
  std::vector<std::size_t> order(kPages);
  for (std::size_t page = 0; page < kPages; ++page) order[page] = page;
  std::shuffle(order.begin(), order.end(), std::mt19937(42));
  order.resize(kWritten);
  for (const std::size_t page : order) memory.write(page);
  EXPECT_LT(mappings(), 50'000U);
  const Pages suspects = tracked.cut();
  EXPECT_TRUE(includes(suspects, Pages(order.begin(), order.end())));
  RecordProperty("over_reported_pages", static_cast<int>(suspects.size() - kWritten));
  EXPECT_LT(tracked->counters().faults, kWritten) << "no block was opened whole";
  EXPECT_LT(suspects.size(), kPages * 9 / 10) << "blocks were larger than need be";
  // Protecting again stays below the limit, too, and loses nothing.
  tracked->committed(tracked.epoch());
  const Pages cooled = tracked.make_cold();
  EXPECT_LT(mappings(), 50'000U);
  for (std::size_t i = 0; i < 1000; ++i) memory.write(order[i]);
  EXPECT_TRUE(includes(tracked.cut(), Pages(order.begin(), order.begin() + 1000)));
  EXPECT_GT(cooled.size(), kWritten / 2);
}

TEST_F(MprotectTracker, AVariableOnTheStackIsASuspectAndNeverProtected) {
  alignas(16) volatile int step = 1;
  const auto page = reinterpret_cast<std::uintptr_t>(&step) / page_bytes() * page_bytes();
  const auto tracking = track_or_fail({page, page + page_bytes()}, kMprotect, nullptr);
  ASSERT_NE(tracking, nullptr);
  PageRuns runs;
  ASSERT_TRUE(tracking->cool(runs).has_value());
  EXPECT_TRUE(runs.empty());
  step = 2;
  for (std::uint64_t epoch = 1; epoch < 4; ++epoch) {
    ASSERT_TRUE(tracking->cut(epoch, runs).has_value());
    EXPECT_EQ(runs, PageRuns({{page, page + page_bytes()}}));
    tracking->committed(epoch);
  }
}

thread_local volatile int of_this_thread = 1;

TEST_F(MprotectTracker, ThreadLocalVariablesMayLieBesideWhatTheKernelWrites) {
  const auto page = reinterpret_cast<std::uintptr_t>(&of_this_thread) / page_bytes() * page_bytes();
  const auto tracking = track_or_fail({page, page + page_bytes()}, kMprotect, nullptr);
  ASSERT_NE(tracking, nullptr);
  PageRuns runs;
  ASSERT_TRUE(tracking->cool(runs).has_value());
  for (int i = 0; i < 1000; ++i)
    sched_yield();  // a restartable sequence's area that can't be written would end us here
  of_this_thread = 2;
  ASSERT_TRUE(tracking->cut(1, runs).has_value());
  EXPECT_EQ(runs, PageRuns({{page, page + page_bytes()}}));
}

TEST_F(MprotectTracker, FaultsAreHandledOnTheAlternateStackOfAThreadThatHasOne) {
  if (test::kThreadSanitizer) GTEST_SKIP() << "ThreadSanitizer's own handler writes the thread's stack";
  const Memory stack(1024);
  const Memory alternate(64);
  Tracked tracked(stack, stack.range(), kMprotect);
  tracked.cut_and_commit();
  // The thread's own stack is tracked, all but its control block: without the alternate one the kernel could not
  // deliver the fault.
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  ASSERT_EQ(pthread_attr_setstack(&attributes, stack.data(), stack.bytes()), 0);
  struct Arguments {
    const Memory& alternate;
    std::atomic<int> phase{0};
  } arguments{.alternate = alternate};
  pthread_t thread;
  const auto body = [](void* given) -> void* {
    auto& shared = *static_cast<Arguments*>(given);
    stack_t own{};
    own.ss_sp = shared.alternate.data();
    own.ss_size = shared.alternate.bytes();
    sigaltstack(&own, nullptr);
    shared.phase = 1;
    while (shared.phase != 2) sched_yield();
    volatile char far_down[65536];  // on a protected page
    far_down[0] = 3;
    shared.phase = far_down[0];
    while (shared.phase != 4) sched_yield();  // a thread ends with signals blocked, so its stack is not tracked by then
    return nullptr;
  };
  ASSERT_EQ(pthread_create(&thread, &attributes, body, &arguments), 0);
  while (arguments.phase != 1) sched_yield();
  tracked.cool();
  arguments.phase = 2;
  while (arguments.phase != 3) sched_yield();
  EXPECT_GT(tracked->counters().faults, 0U);
  tracked.end();
  arguments.phase = 4;
  pthread_join(thread, nullptr);
  pthread_attr_destroy(&attributes);
}

TEST_F(MprotectTracker, AVforkedChildWritesOurMemoryAndIsSeen) {
  const Memory memory(16);
  Tracked tracked(memory, memory.range(), kMprotect);
  tracked.arm();
  const Memory child_stack(64);
  const auto body = [](void* given) -> int {
    static_cast<const Memory*>(given)->write(6);
    return 0;
  };
  const pid_t child = clone(body, child_stack.at(63), CLONE_VM | CLONE_VFORK | SIGCHLD, const_cast<Memory*>(&memory));
  ASSERT_GT(child, 0);
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(tracked.cut(), Pages({6}));
}

TEST_F(MprotectTracker, ExecutableMemoryStaysExecutable) {
  const Memory memory(8, {.protection = PROT_READ | PROT_WRITE | PROT_EXEC});
  if (memory.data() == nullptr) GTEST_SKIP() << "writable and executable memory is refused here";
  Tracked tracked(memory, memory.range(), kMprotect);
  tracked.arm();
  memory.write(2);
  EXPECT_EQ(tracked.cut(), Pages({2}));
#if defined(__x86_64__)
  *memory.at(5) = 0xC3;  // ret
  reinterpret_cast<void (*)()>(memory.at(5))();
  EXPECT_EQ(tracked.cut(), Pages({2, 5}));
#endif
}

}  // namespace
}  // namespace varve::tracker
