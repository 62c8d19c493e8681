// SPDX-License-Identifier: Apache-2.0
#include "tracker/mprotect_area.h"

#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

namespace varve::tracker {
namespace {

constexpr std::size_t kLargestBlock = 512;

std::atomic<Shared*> the_shared{nullptr};  // read only by the handler; written once

}  // namespace

OwnPages OwnPages::map(std::size_t bytes) {
  OwnPages pages;
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return pages;
  pages.memory_ = memory;
  pages.bytes_ = bytes;
  return pages;
}

OwnPages::OwnPages(OwnPages&& other) noexcept
    : memory_(std::exchange(other.memory_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

OwnPages& OwnPages::operator=(OwnPages&& other) noexcept {
  std::swap(memory_, other.memory_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

OwnPages::~OwnPages() {
  if (memory_ != nullptr) munmap(memory_, bytes_);
}

Shared* shared_state() { return the_shared.load(std::memory_order_acquire); }

bool make_shared_state() {
  if (shared_state() != nullptr) return true;
  static OwnPages pages = OwnPages::map(sizeof(Shared));
  if (pages.memory() == nullptr) return false;
  the_shared.store(new (pages.memory()) Shared(), std::memory_order_release);
  return true;
}

AreaPointer AreaPointer::make(const Mapping& mapping, bool protectable) {
  AreaPointer pointer;
  const std::size_t pages = mapping.range.size_bytes() / page_bytes();
  pointer.pages_ = OwnPages::map(sizeof(Area) + pages);
  if (pointer.pages_.memory() != nullptr) new (pointer.pages_.memory()) Area(mapping, protectable, pages);
  return pointer;
}

std::size_t Area::page_number(std::uintptr_t address) const { return (address - range().begin) / page_bytes(); }
std::uintptr_t Area::address(std::size_t page) const { return range().begin + page * page_bytes(); }

std::size_t Area::next_with(std::uint8_t wanted, std::size_t page, std::size_t end) const {
  while (page < end && mark(page) != wanted) ++page;
  return page;
}

void Area::set_marks(std::size_t begin, std::size_t end, std::uint8_t mark) {
  for (std::size_t page = begin; page < end; ++page)
    std::atomic_ref(marks()[page]).store(mark, std::memory_order_relaxed);
}

void Area::copy_marks(const Area& from) {
  const std::uintptr_t begin = std::max(range().begin, from.range().begin);
  const std::uintptr_t end = std::min(range().end, from.range().end);
  for (std::uintptr_t at = begin; at < end; at += page_bytes())
    marks()[page_number(at)] = from.mark(from.page_number(at));
}

std::int64_t Area::splits(std::size_t begin, std::size_t end) const {
  std::int64_t count = 0;
  for (std::size_t page = std::max<std::size_t>(begin, 1); page <= std::min(end, pages_ - 1); ++page)
    count += mark(page - 1) != mark(page) ? 1 : 0;
  return count;
}

std::int64_t Area::growth(std::size_t begin, std::size_t end, std::uint8_t wanted) const {
  const std::int64_t left = begin > 0 && mark(begin - 1) != wanted ? 1 : 0;
  const std::int64_t right = end < pages_ && mark(end) != wanted ? 1 : 0;
  return left + right - splits(begin, end);
}

bool Area::change(std::size_t begin, std::size_t end, int protection) const {
  return mprotect(reinterpret_cast<void*>(address(begin)), address(end) - address(begin), protection) == 0;
}

bool Area::protect(std::size_t begin, std::size_t end) {
  Shared& shared = *shared_state();
  const std::int64_t more = growth(begin, end, kProtected);
  if (more > 0 && shared.splits + more > shared.splits_limit) return false;
  set_marks(begin, end, kProtected);
  if (!change(begin, end, mapping_.protection & ~PROT_WRITE)) {
    change(begin, end, mapping_.protection);  // part of it may be read-only by now; to undo that only joins mappings
    set_marks(begin, end, kWritten);
    return false;
  }
  shared.splits += more;
  return true;
}

bool Area::open(std::size_t begin, std::size_t end) {
  const std::int64_t more = growth(begin, end, kWritten);
  if (!change(begin, end, mapping_.protection)) return false;
  set_marks(begin, end, kWritten);
  shared_state()->splits += more;
  return true;
}

void Area::forget_protection(std::size_t begin, std::size_t end) {
  const std::int64_t more = growth(begin, end, kWritten);
  set_marks(begin, end, kWritten);
  shared_state()->splits += more;
}

bool Area::open_block(std::size_t page) {
  const Shared& shared = *shared_state();
  std::size_t begin = page;
  std::size_t end = page + 1;
  for (std::size_t block = 1; block <= kLargestBlock; block *= 2) {
    begin = page & ~(block - 1);
    end = std::min(begin + block, pages_);
    if (shared.splits + growth(begin, end, kWritten) <= shared.splits_limit) break;
  }
  if (open(begin, end)) return true;
  return open(0, pages_);  // no mapping is left to split: the whole area needs none
}

Area* find_area(const AreaTable* table, std::uintptr_t address) {
  if (table == nullptr) return nullptr;
  Area* const* const end = table->areas + table->size;
  Area* const* const above = std::upper_bound(
      table->areas, end, address, [](std::uintptr_t at, const Area* area) { return at < area->range().begin; });
  if (above == table->areas) return nullptr;
  Area* const area = *(above - 1);
  return address < area->range().end ? area : nullptr;
}

bool writable_now(Shared& shared, std::uintptr_t address) {
  // Adds 0 to the word, wakes nobody: the comparison with -2048 hardly ever holds, and a wake-up without cause is
  // something that every user of futexes must bear. futex(2), FUTEX_WAKE_OP; EFAULT where it may not be written.
  const std::uint32_t operation = FUTEX_OP(FUTEX_OP_ADD, 0, FUTEX_OP_CMP_EQ, 0x800);
  return syscall(SYS_futex, &shared.probe_word, FUTEX_WAKE_OP | FUTEX_PRIVATE_FLAG, 0, 0, address & ~std::uintptr_t{3},
                 operation) >= 0;
}

}  // namespace varve::tracker
