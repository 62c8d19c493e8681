// SPDX-License-Identifier: Apache-2.0
//
// What the program pays for the first write to a page that something watches: what cow would have to beat (a copy by
// the thread that faulted, or by a handler), next to copying the page within the stall. 4096 pages of 4 KiB, in order;
// nanoseconds a page.
//
//     copied_in_the_stall      memcpy to warm memory, no fault at all
//     uffd_async               what tracking costs
//     after_a_fork             copy-on-write, the child alive
//     sigsegv_and_copy         protected by mprotect; the writer's own handler copies 4 KiB and opens the page
//     uffd_sync_and_copy       a handler thread copies 4 KiB and opens the page, the writer sleeps meanwhile
//
// The last two in granules of so many pages that are opened, and copied, at once.
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "base/clock.h"
#include "base/unique_fd.h"
#include "bench/bench_support.h"
#include "tracker/tracker.h"

namespace varve::bench {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kPages = 4096;
constexpr std::size_t kBytes = kPages * kPage;

/// Small pages, faulted in: the watched ones, and where to copy them.
struct Watched {
  std::byte* memory = map();
  std::byte* copies = map();
  ~Watched() {
    munmap(memory, kBytes);
    munmap(copies, kBytes);
  }
  static std::byte* map() {
    void* const made = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    VARVE_CHECK(made != MAP_FAILED);
    madvise(made, kBytes, MADV_NOHUGEPAGE);
    std::memset(made, 1, kBytes);
    return static_cast<std::byte*>(made);
  }
  void write_all() const {
    for (std::size_t at = 0; at < kBytes; at += kPage) static_cast<volatile std::byte*>(memory)[at] = std::byte{2};
  }
  void save(std::size_t at, std::size_t bytes) const { std::memcpy(copies + at, memory + at, bytes); }
};

template <class Prepare>
void measure(benchmark::State& state, const Watched& watched, Prepare prepare) {
  for (auto _ : state) {
    if (!prepare()) return state.SkipWithError("it does not work here");
    const std::uint64_t begin = monotonic_ns();
    watched.write_all();
    state.SetIterationTime(static_cast<double>(monotonic_ns() - begin) / 1e9);
  }
  state.counters["ns_per_page"] = benchmark::Counter(
      static_cast<double>(kPages), benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
}

void copied_in_the_stall(benchmark::State& state) {
  const Watched watched;
  for (auto _ : state) {
    const std::uint64_t begin = monotonic_ns();
    watched.save(0, kBytes);
    state.SetIterationTime(static_cast<double>(monotonic_ns() - begin) / 1e9);
  }
  state.counters["ns_per_page"] = benchmark::Counter(
      static_cast<double>(kPages), benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
}

void uffd_async(benchmark::State& state) {
  const Watched watched;
  const auto begin = reinterpret_cast<std::uintptr_t>(watched.memory);
  const auto tracking = tracker::Service::process().track({begin, begin + kBytes}, tracker::BackEndKind::uffd, nullptr);
  if (!tracking) return state.SkipWithError(tracking.error().message().c_str());
  std::uint64_t epoch = 0;
  measure(state, watched, [&] {
    // Pages that come back are left writable: what was found unchanged long enough is protected again.
    tracker::PageRuns suspects, cooled;
    for (int i = 0; i < 200 && cooled.empty(); ++i) {
      if (!(*tracking)->cut(++epoch, suspects)) return false;
      (*tracking)->committed(epoch);
      (*tracking)->reduced(epoch, {.suspects = suspects, .unchanged = suspects});
      if (!(*tracking)->cool(cooled)) return false;
    }
    return !cooled.empty();
  });
}

void after_a_fork(benchmark::State& state) {
  const Watched watched;
  pid_t child = -1;
  const auto reap = [&] {
    if (child <= 0) return;
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
  };
  measure(state, watched, [&] {
    reap();
    child = fork();
    if (child == 0)
      while (true) pause();
    return child > 0;
  });
  reap();
}

const Watched* g_watched = nullptr;  // for the handler
std::size_t g_granule = 0;

void copy_and_open(int, siginfo_t* info, void*) {
  const auto at = static_cast<std::size_t>(static_cast<std::byte*>(info->si_addr) - g_watched->memory);
  const std::size_t begin = at / g_granule * g_granule;
  g_watched->save(begin, g_granule);
  mprotect(g_watched->memory + begin, g_granule, PROT_READ | PROT_WRITE);
}

void sigsegv_and_copy(benchmark::State& state) {
  const Watched watched;
  g_watched = &watched;
  g_granule = static_cast<std::size_t>(state.range(0)) * kPage;
  struct sigaction action {};
  struct sigaction before {};
  action.sa_sigaction = copy_and_open;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigaction(SIGSEGV, &action, &before);
  measure(state, watched, [&] { return mprotect(watched.memory, kBytes, PROT_READ) == 0; });
  mprotect(watched.memory, kBytes, PROT_READ | PROT_WRITE);
  sigaction(SIGSEGV, &before, nullptr);
}

/// Serves faults of one userfaultfd until it is told to stop.
class Handler {
 public:
  Handler(int uffd, const Watched& watched, std::size_t granule)
      : thread_([this, uffd, &watched, granule] {
          while (!stop_) {
            pollfd ready{.fd = uffd, .events = POLLIN, .revents = 0};
            if (poll(&ready, 1, 20) <= 0) continue;
            uffd_msg message{};
            if (read(uffd, &message, sizeof message) != sizeof message) continue;
            const auto base = reinterpret_cast<std::uintptr_t>(watched.memory);
            const std::size_t at = (message.arg.pagefault.address - base) / granule * granule;
            watched.save(at, granule);
            uffdio_writeprotect open{.range = {.start = base + at, .len = granule}, .mode = 0};
            ioctl(uffd, UFFDIO_WRITEPROTECT, &open);
          }
        }) {}
  ~Handler() {
    stop_ = true;
    thread_.join();
  }

 private:
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

void uffd_sync_and_copy(benchmark::State& state) {
  const Watched watched;
  const auto granule = static_cast<std::size_t>(state.range(0)) * kPage;
  UniqueFd uffd(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
  if (!uffd.valid()) uffd = UniqueFd(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | 1)));
  uffdio_api api{.api = UFFD_API, .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP, .ioctls = 0};
  uffdio_register range{};
  range.range = {.start = reinterpret_cast<std::uintptr_t>(watched.memory), .len = kBytes};
  range.mode = UFFDIO_REGISTER_MODE_WP;
  if (!uffd.valid() || ioctl(uffd.get(), UFFDIO_API, &api) != 0 || ioctl(uffd.get(), UFFDIO_REGISTER, &range) != 0)
    return state.SkipWithError("userfaultfd does not work here");
  const Handler handler(uffd.get(), watched, granule);
  measure(state, watched, [&] {
    uffdio_writeprotect protect{.range = range.range, .mode = UFFDIO_WRITEPROTECT_MODE_WP};
    return ioctl(uffd.get(), UFFDIO_WRITEPROTECT, &protect) == 0;
  });
}

void settings(benchmark::internal::Benchmark* bench) {
  bench->UseManualTime()->Unit(benchmark::kMillisecond)->MinTime(0.2);
}
void granules(benchmark::internal::Benchmark* bench) {
  settings(bench);
  for (const int pages : {1, 8, 64}) bench->Arg(pages);
}

BENCHMARK(copied_in_the_stall)->Apply(settings);
BENCHMARK(uffd_async)->Apply(settings);
BENCHMARK(after_a_fork)->Apply(settings);
BENCHMARK(sigsegv_and_copy)->Apply(granules);
BENCHMARK(uffd_sync_and_copy)->Apply(granules);

}  // namespace
}  // namespace varve::bench
