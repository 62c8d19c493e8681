// SPDX-License-Identifier: Apache-2.0
//
// Another thread's control block is found by its robust list, whose head lies in it, at the same offset for all:
// get_robust_list(2) tells it for any thread of the process. glibc registers both (rseq from 2.35 on).
#include "tracker/thread_pages.h"

#include <dirent.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>

#include "base/bytes.h"
#include "tracker/back_end.h"

namespace varve::tracker {
namespace {

std::uintptr_t robust_list_head(pid_t thread) {
  void* head = nullptr;
  std::size_t length = 0;
  return syscall(SYS_get_robust_list, thread, &head, &length) == 0 ? reinterpret_cast<std::uintptr_t>(head) : 0;
}

// Places in the control block of a thread, by their distance from its robust list's head.
struct Distances {
  std::uintptr_t rseq;
  std::uintptr_t own_errno;  // written by our SIGSEGV handler, in which a fault would end the program
};

void add_thread(std::uintptr_t head, const Distances& distances, PageRuns& pages) {
  const auto add = [&pages](std::uintptr_t begin, std::size_t bytes) {
    pages.push_back({round_down(begin, page_bytes()), round_up(begin + bytes, page_bytes())});
  };
  add(head - 16, 40);  // struct pthread: tid, pid, robust_prev, robust_head: nptl/descr.h
  if (__rseq_size != 0) add(head + distances.rseq, std::max(32U, __rseq_size));
  add(head + distances.own_errno, sizeof(int));
}

}  // namespace

void find_thread_pages(PageRuns& pages) {
  pages.clear();
  const std::uintptr_t own_head = robust_list_head(0);
  if (own_head == 0) return;
  const auto pointer = reinterpret_cast<std::uintptr_t>(__builtin_thread_pointer());
  const Distances distances{.rseq = pointer + static_cast<std::uintptr_t>(__rseq_offset) - own_head,
                            .own_errno = reinterpret_cast<std::uintptr_t>(&errno) - own_head};
  PageRuns found;
  add_thread(own_head, distances, found);
  if (DIR* const threads = opendir("/proc/self/task"); threads != nullptr) {
    while (const dirent* entry = readdir(threads)) {
      const std::uintptr_t head = robust_list_head(std::atoi(entry->d_name));
      if (head != 0) add_thread(head, distances, found);
    }
    closedir(threads);
  }
  std::sort(found.begin(), found.end(), [](const PageRange& a, const PageRange& b) { return a.begin < b.begin; });
  for (const PageRange& run : found) append_run(pages, run);
}

}  // namespace varve::tracker
