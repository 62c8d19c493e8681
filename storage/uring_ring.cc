// SPDX-License-Identifier: Apache-2.0
#include "storage/uring_ring.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/os_error.h"
#include "base/try.h"

namespace varve::storage {
namespace {

/// Rings that were made and ended. liburing maps their memory by system calls of its own, so that ThreadSanitizer takes
/// one ring's memory and that of a later one at the same address for the same: this orders them for it.
std::atomic<unsigned> ring_memory_handed_over{0};

/// Idle rings kept for later; each is some tens of KiB.
constexpr std::size_t kIdleRingsMax = 4;
/// io_uring takes 32 bits of length; what a write has beyond this goes by pwrite(2).
constexpr std::size_t kPartBytesMax = std::size_t{1} << 30;

/// 0, 1 (refused to those outside a group) or 2 (to all); -1 when this kernel has no such switch (before 6.6).
int disabled_by_sysctl() {
  std::FILE* file = std::fopen("/proc/sys/kernel/io_uring_disabled", "re");
  if (file == nullptr) return -1;
  int value = -1;
  if (std::fscanf(file, "%d", &value) != 1) value = -1;
  std::fclose(file);
  return value;
}

Error refused(int os_errno) {
  std::string cause;
  std::string remedy = "use the posix back end";
  const int disabled = os_errno == EPERM ? disabled_by_sysctl() : 0;
  if (disabled > 0) {
    cause = "io_uring is switched off here (kernel.io_uring_disabled=" + std::to_string(disabled) + ")";
    remedy += ", or set this sysctl to 0";
  } else if (os_errno == EPERM || os_errno == EACCES) {
    cause = "io_uring is refused by seccomp or a security module: " + describe_errno(os_errno);
    remedy += ", or allow io_uring_setup, io_uring_enter and io_uring_register there";
  } else if (os_errno == ENOSYS) {
    cause = "this kernel has no io_uring, or a seccomp filter hides it: " + describe_errno(os_errno);
    remedy += ", or a kernel from 5.6 on";
  } else if (os_errno == ENOMEM) {
    rlimit limit{};
    getrlimit(RLIMIT_MEMLOCK, &limit);
    cause = "no memory for an io_uring: " + describe_errno(os_errno) + "; the limit of locked memory is " +
            (limit.rlim_cur == RLIM_INFINITY ? "off" : std::to_string(limit.rlim_cur >> 10) + " KiB");
    remedy += ", or raise that limit (ulimit -l; kernels before 5.12 count rings there)";
  } else {
    cause = "io_uring could not be set up: " + describe_errno(os_errno);
  }
  return fail(ErrorCode::unsupported, {"set-up of io_uring failed", std::move(cause), std::move(remedy)}, os_errno);
}

}  // namespace

Ring::Ring(unsigned depth) : slots_(depth) {
  for (std::uint32_t i = depth; i-- > 0;) free_slots_.push_back(i);
  queued_.reserve(depth);
  ended_.reserve(depth);
}

Result<std::unique_ptr<Ring>> Ring::create(unsigned depth) {
  std::unique_ptr<Ring> ring(new Ring(depth));
  VARVE_TRY(ring->set_up(depth));
  return ring;
}

Status Ring::set_up(unsigned depth) {
  if (const int result = io_uring_queue_init(depth, &ring_, 0); result < 0) return refused(-result);
  ring_memory_handed_over.fetch_add(1, std::memory_order_acq_rel);
  made_ = true;
  fd_ = GuardedFd(UniqueFd(ring_.ring_fd));
  io_uring_ring_dontfork(&ring_);  // a refusal costs nothing: OwnerProcess guards as well
  VARVE_TRY(complete_no_op());
  io_uring_probe* probe = io_uring_get_probe_ring(&ring_);
  const bool able = probe != nullptr && io_uring_opcode_supported(probe, IORING_OP_READ) != 0 &&
                    io_uring_opcode_supported(probe, IORING_OP_WRITE) != 0;
  io_uring_free_probe(probe);
  return able ? Status() : Status(refused(ENOSYS));
}

Status Ring::complete_no_op() {
  io_uring_prep_nop(io_uring_get_sqe(&ring_));
  int result = 0;
  do result = io_uring_submit(&ring_);
  while (result == -EINTR);
  if (result < 0) return refused(-result);
  io_uring_cqe* cqe = nullptr;
  __kernel_timespec second{.tv_sec = 1, .tv_nsec = 0};
  do result = io_uring_wait_cqe_timeout(&ring_, &cqe, &second);
  while (result == -EINTR);
  if (result < 0) return refused(-result);
  const int outcome = cqe->res;
  io_uring_cqe_seen(&ring_, cqe);
  return outcome < 0 ? Status(refused(-outcome)) : Status();
}

Ring::~Ring() {
  // In a forked child the mappings are not there, and their addresses may be somebody else's by now.
  if (!made_ || !owner_.is_this()) return;
  VARVE_CHECK(in_kernel_ == 0);
  fd_.release();
  ring_memory_handed_over.fetch_add(1, std::memory_order_acq_rel);
  io_uring_queue_exit(&ring_);
}

void Ring::add(const Write& write) {
  VARVE_CHECK(!full());
  const std::uint32_t index = free_slots_.back();
  free_slots_.pop_back();
  slots_[index] = Slot{.write = write, .done = 0};
  prepare(index);
}

void Ring::prepare(std::uint32_t index) {
  queued_.push_back(index);
  if (refused_) return;  // submit() serves it
  const Slot& slot = slots_[index];
  io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
  VARVE_CHECK(sqe != nullptr);  // as many entries as slots, and a slot has at most one
  io_uring_prep_write(sqe, slot.write.file->fd(), slot.write.bytes.data(),
                      static_cast<unsigned>(std::min(slot.write.bytes.size(), kPartBytesMax)), slot.write.offset);
  io_uring_sqe_set_data64(sqe, index);
}

void Ring::submit() {
  Retry retry;
  while (!queued_.empty() && !refused_) {
    const int result = io_uring_submit(&ring_);
    if (result > 0) {
      queued_.erase(queued_.begin(), queued_.begin() + result);
      in_kernel_ += static_cast<std::size_t>(result);
      continue;
    }
    // EBUSY, ENOMEM and the like pass when something in flight ends: whoever waits for that submits again.
    if (result != -EINTR && in_kernel_ != 0) return;
    const bool passing = result == 0 || result == -EBUSY || result == -ENOMEM;
    if (retry.again(passing ? EAGAIN : -result)) continue;
    log::info("storage", "io_uring takes no more submissions ({}); going on without it", describe_errno(-result));
    refused_ = true;
  }
  if (refused_) serve_by_other_calls();
}

void Ring::serve_by_other_calls() {
  // SAFETY: the submission queue still holds entries for these; the ring is never entered again, so they are dead.
  for (const std::uint32_t index : std::exchange(queued_, {})) {
    end(index, write_rest(slots_[index]));
  }
}

std::vector<Ring::Ended> Ring::take(bool wait) {
  reap();
  submit();  // what the kernel would not take before
  while (wait && ended_.empty()) {
    VARVE_CHECK(in_kernel_ != 0);
    wait_for_completion();
    reap();
    submit();
  }
  std::vector<Ended> ended;
  ended.swap(ended_);
  return ended;
}

void Ring::reap() {
  io_uring_cqe* cqe = nullptr;
  while (in_kernel_ != 0 && io_uring_peek_cqe(&ring_, &cqe) == 0) {
    const auto index = static_cast<std::uint32_t>(io_uring_cqe_get_data64(cqe));
    const int result = cqe->res;
    io_uring_cqe_seen(&ring_, cqe);
    --in_kernel_;
    complete(index, result);
  }
}

void Ring::wait_for_completion() {
  io_uring_cqe* cqe = nullptr;
  const int result = io_uring_wait_cqe(&ring_, &cqe);
  // Where the kernel does not even let us wait (see the head), completions still arrive in the shared memory.
  if (result < 0 && result != -EINTR) usleep(1000);
}

void Ring::complete(std::uint32_t index, int result) {
  Slot& slot = slots_[index];
  // ECANCELED: it needed a thread of the kernel's, and the user may have no more (RLIMIT_NPROC, a cgroup's pids.max),
  // or the thread that submitted it has ended.
  const bool later = result == -EAGAIN || result == -EINTR || result == -ECANCELED;
  if (result < 0 && !later) return end(index, -result);
  if (result > 0) slot.done = slot.write.file->settled(static_cast<std::size_t>(result));
  end(index, slot.done == slot.write.bytes.size() ? 0 : write_rest(slot));
}

int Ring::write_rest(const Slot& slot) {
  return slot.write.file->write_all(slot.write.offset + slot.done, slot.write.bytes.subspan(slot.done));
}

void Ring::end(std::uint32_t index, int os_errno) {
  ended_.push_back({.write = slots_[index].write, .os_errno = os_errno});
  free_slots_.push_back(index);
}

std::shared_ptr<RingPool> RingPool::share(unsigned depth) {
  return std::shared_ptr<RingPool>(new RingPool(depth), [](RingPool* pool) {
    if (pool->owner_.is_this()) delete pool;
  });
}

std::unique_ptr<Ring> RingPool::get() {
  {
    MutexLock lock(mutex_);
    if (!rings_.empty()) {
      std::unique_ptr<Ring> ring = std::move(rings_.back());
      rings_.pop_back();
      return ring;
    }
  }
  Result<std::unique_ptr<Ring>> ring = Ring::create(depth_);
  if (ring) return std::move(ring).value();
  log::info("storage", "going on without io_uring: {}", ring.error().message());
  return nullptr;
}

void RingPool::put(std::unique_ptr<Ring> ring) {
  VARVE_CHECK(ring->idle());
  MutexLock lock(mutex_);
  if (ring->healthy() && rings_.size() < kIdleRingsMax) rings_.push_back(std::move(ring));
}

}  // namespace varve::storage
