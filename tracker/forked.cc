// SPDX-License-Identifier: Apache-2.0
#include "tracker/forked.h"

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>

#include "tracker/tracker.h"

namespace varve::tracker {
namespace {

std::atomic<const std::atomic<int>*> wiped_on_fork{nullptr};
std::atomic<pid_t> marked_pid{0};  // where the kernel can't wipe a page

}  // namespace

void mark_process() {
  if (marked_pid.exchange(getpid()) != 0) return;
  void* page = mmap(nullptr, page_bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return;
  if (madvise(page, page_bytes(), MADV_WIPEONFORK) != 0) {
    munmap(page, page_bytes());
    return;
  }
  auto* alive = new (page) std::atomic<int>(1);  // for the life of the process
  wiped_on_fork.store(alive);
}

bool forked() {
  const auto* alive = wiped_on_fork.load();
  return alive != nullptr ? alive->load(std::memory_order_relaxed) == 0 : getpid() != marked_pid.load();
}

}  // namespace varve::tracker
