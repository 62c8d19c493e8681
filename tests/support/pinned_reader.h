// SPDX-License-Identifier: Apache-2.0
//
// An io_uring with registered buffers, whose pages the kernel pins: what is read into them goes past the page tables,
// as with RDMA. One operation at a time; only what the tests need.
#pragma once

#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/unique_fd.h"

namespace varve::test {

class PinnedReader {
 public:
  explicit PinnedReader(std::span<std::uint8_t> buffer) {
    io_uring_params params{};
    ring_ = UniqueFd(static_cast<int>(syscall(SYS_io_uring_setup, 4, &params)));
    if (!ring_.valid()) return;
    submissions_ = map(params.sq_off.array + params.sq_entries * sizeof(unsigned), IORING_OFF_SQ_RING);
    completions_ = map(params.cq_off.cqes + params.cq_entries * sizeof(io_uring_cqe), IORING_OFF_CQ_RING);
    entries_ = map(params.sq_entries * sizeof(io_uring_sqe), IORING_OFF_SQES);
    if (submissions_ == nullptr || completions_ == nullptr || entries_ == nullptr) return;
    offsets_ = params;
    const iovec whole{buffer.data(), buffer.size()};
    ready_ = syscall(SYS_io_uring_register, ring_.get(), IORING_REGISTER_BUFFERS, &whole, 1) == 0;
  }
  bool ready() const { return ready_; }
  bool read(int fd, std::uint8_t* target, std::size_t bytes) {
    auto* entry = static_cast<io_uring_sqe*>(entries_);
    *entry = {};
    entry->opcode = IORING_OP_READ_FIXED;
    entry->fd = fd;
    entry->addr = reinterpret_cast<std::uint64_t>(target);
    entry->len = static_cast<unsigned>(bytes);
    std::atomic_ref tail(*at(submissions_, offsets_.sq_off.tail));
    const unsigned mask = *at(submissions_, offsets_.sq_off.ring_mask);
    *at(submissions_, offsets_.sq_off.array + (tail.load() & mask) * sizeof(unsigned)) = 0;
    tail.fetch_add(1);
    if (syscall(SYS_io_uring_enter, ring_.get(), 1, 1, IORING_ENTER_GETEVENTS, nullptr, 0) != 1) return false;
    std::atomic_ref head(*at(completions_, offsets_.cq_off.head));
    const unsigned slot = head.load() & *at(completions_, offsets_.cq_off.ring_mask);
    const auto* cqes = reinterpret_cast<io_uring_cqe*>(at(completions_, offsets_.cq_off.cqes));
    const int got = cqes[slot].res;
    head.fetch_add(1);
    return got == static_cast<int>(bytes);
  }

 private:
  void* map(std::size_t bytes, unsigned long long offset) {
    void* const made = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring_.get(),
                            static_cast<off_t>(offset));
    return made == MAP_FAILED ? nullptr : made;  // unmapped when the test program ends
  }
  static unsigned* at(void* ring, std::size_t offset) {
    return reinterpret_cast<unsigned*>(static_cast<std::byte*>(ring) + offset);
  }

  UniqueFd ring_;
  io_uring_params offsets_{};
  void* submissions_ = nullptr;
  void* completions_ = nullptr;
  void* entries_ = nullptr;
  bool ready_ = false;
};

}  // namespace varve::test
