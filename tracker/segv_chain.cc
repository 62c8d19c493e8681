// SPDX-License-Identifier: Apache-2.0
//
// Everything below handle() is async-signal-safe. A handler of the program may leave by siglongjmp: we hold nothing
// while it runs.
#include "tracker/segv_chain.h"

#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <utility>

#include "base/log.h"
#include "base/os_error.h"

namespace varve::tracker {
namespace {

constexpr std::size_t kEntries = 32;

using Handler = void (*)(int, siginfo_t*, void*);

struct State {
  std::atomic<ResolveFault> resolve{nullptr};
  // previous[i] is written before entry i is installed, and again only to reset it to the default action.
  std::array<struct sigaction, kEntries> previous{};
  std::array<std::atomic<bool>, kEntries> back_to_default{};
};
State state;

// The default action, or none.
bool is_plain(const struct sigaction& action) {
  return (action.sa_flags & SA_SIGINFO) == 0 && (action.sa_handler == SIG_DFL || action.sa_handler == SIG_IGN);
}
bool same_plain(const struct sigaction& a, const struct sigaction& b) {
  return is_plain(a) && is_plain(b) && a.sa_handler == b.sa_handler;
}

void die_by_default(const siginfo_t& info) {
  struct sigaction action {};
  action.sa_handler = SIG_DFL;
  sigaction(SIGSEGV, &action, nullptr);
  // A fault meets it when the instruction runs again, with the right address in the core; a sent signal must be resent.
  if (info.si_code <= 0) syscall(SYS_tgkill, getpid(), static_cast<pid_t>(syscall(SYS_gettid)), SIGSEGV);
}

void call_as_kernel_would(const struct sigaction& previous, int signal, siginfo_t* info, void* context) {
  sigset_t mask = static_cast<ucontext_t*>(context)->uc_sigmask;
  for (int number = 1; number < NSIG; ++number)
    if (sigismember(&previous.sa_mask, number) == 1) sigaddset(&mask, number);
  if ((previous.sa_flags & SA_NODEFER) == 0) sigaddset(&mask, signal);
  pthread_sigmask(SIG_SETMASK, &mask, nullptr);
  if ((previous.sa_flags & SA_SIGINFO) != 0)
    previous.sa_sigaction(signal, info, context);
  else
    previous.sa_handler(signal);
}

// Whether it was a store, where the processor says so: a load never faults on our account.
bool may_be_store([[maybe_unused]] const void* context) {
#if defined(__x86_64__)
  constexpr greg_t kWrite = 2;  // page fault error code, bit 1: Intel SDM 3A, 4.7
  constexpr greg_t kPageFault = 14;
  const auto& registers = static_cast<const ucontext_t*>(context)->uc_mcontext.gregs;
  return registers[REG_TRAPNO] != kPageFault || (registers[REG_ERR] & kWrite) != 0;
#else
  return true;
#endif
}

void handle(std::size_t entry, int signal, siginfo_t* info, void* context) {
  const int saved_errno = errno;
  const ResolveFault resolve = state.resolve.load(std::memory_order_acquire);
  if (info->si_code == SEGV_ACCERR && may_be_store(context) &&
      resolve(reinterpret_cast<std::uintptr_t>(info->si_addr))) {
    errno = saved_errno;
    return;
  }
  errno = saved_errno;
  const struct sigaction& previous = state.previous[entry];
  const bool reset =
      (previous.sa_flags & static_cast<int>(SA_RESETHAND)) != 0 && state.back_to_default[entry].exchange(true);
  if (is_plain(previous) && previous.sa_handler == SIG_IGN && info->si_code <= 0) return;
  if (reset || is_plain(previous))
    die_by_default(*info);
  else
    call_as_kernel_would(previous, signal, info, context);
  errno = saved_errno;
}

template <std::size_t Entry>
void enter(int signal, siginfo_t* info, void* context) {
  handle(Entry, signal, info, context);
}

template <std::size_t... Entry>
constexpr std::array<Handler, kEntries> make_entries(std::index_sequence<Entry...>) {
  return {&enter<Entry>...};
}
constexpr std::array<Handler, kEntries> kEntryPoints = make_entries(std::make_index_sequence<kEntries>());

}  // namespace

Status keep_in_front(ResolveFault resolve) {
  static std::size_t installed = 0;
  state.resolve.store(resolve, std::memory_order_release);
  struct sigaction current {};
  if (sigaction(SIGSEGV, nullptr, &current) != 0) return os_error("asking for the handler of SIGSEGV failed", errno);
  if ((current.sa_flags & SA_SIGINFO) != 0)
    for (const Handler ours : kEntryPoints)
      if (current.sa_sigaction == ours) return {};
  // Going on to the default action or to nothing leads nowhere, so such an entry can be used again. One that goes on to
  // a handler can not: that handler may have been installed again since, over this very entry.
  const auto entry = static_cast<std::size_t>(
      std::find_if(state.previous.begin(), state.previous.begin() + static_cast<std::ptrdiff_t>(installed),
                   [&current](const struct sigaction& previous) { return same_plain(previous, current); }) -
      state.previous.begin());
  if (entry == kEntries)
    return fail(ErrorCode::unsupported,
                {"tracking by mprotect refused", "the program has replaced the SIGSEGV handler too many times",
                 "install the program's SIGSEGV handler before memory is protected"});
  if (installed > 0) log::info("tracker", "the program installed a SIGSEGV handler; ours goes in front of it again");
  state.previous[entry] = current;
  state.back_to_default[entry] = false;
  struct sigaction action {};
  action.sa_sigaction = kEntryPoints[entry];
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
  sigfillset(&action.sa_mask);
  if (sigaction(SIGSEGV, &action, nullptr) != 0) return os_error("installing the handler of SIGSEGV failed", errno);
  installed = std::max(installed, entry + 1);
  return {};
}

}  // namespace varve::tracker
