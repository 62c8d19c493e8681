// SPDX-License-Identifier: Apache-2.0
//
// UnforkedArray: zeroed memory of fixed length, which forks do not inherit where it is large. So a fork of the program
// does not copy its page table, and does not make every page of it fault, and be copied, at its next write for as long
// as the child lives: with a large table that is written all over, that took longer than what the table is for.
//
// In a child of the process that made it nothing may be called but the destructor, which then leaves alone what lies
// at these addresses.
//
// Threads: as a vector.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <type_traits>
#include <utility>

#include "base/huge_memory.h"

namespace varve {

template <class T>
class UnforkedArray {
  static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T>);

 public:
  /// Smaller ones are ordinary memory: a fork costs little for them.
  static constexpr std::size_t kLargeBytes = std::size_t{64} << 10;

  UnforkedArray() = default;
  explicit UnforkedArray(std::size_t count) : bytes_(count * sizeof(T)) {
    void* memory = bytes_ >= kLargeBytes ? map() : nullptr;
    if (memory == nullptr) memory = std::calloc(count, sizeof(T));
    if (memory == nullptr && count != 0) std::abort();  // as operator new does, where nobody catches
    elements_ = static_cast<T*>(memory);
  }
  UnforkedArray(UnforkedArray&& other) noexcept
      : elements_(std::exchange(other.elements_, nullptr)), bytes_(other.bytes_), mapped_by_(other.mapped_by_) {}
  UnforkedArray& operator=(UnforkedArray&& other) noexcept {
    std::swap(elements_, other.elements_);
    std::swap(bytes_, other.bytes_);
    std::swap(mapped_by_, other.mapped_by_);
    return *this;
  }
  ~UnforkedArray() {
    if (mapped_by_ == 0)
      std::free(elements_);
    else if (elements_ != nullptr && mapped_by_ == getpid())
      munmap(static_cast<void*>(elements_), bytes_);
  }

  /// All pages now, in place of one after the other as they are used. Where there is no memory the use says so.
  void fault_in() {
    if (mapped_by_ != 0) populate(reinterpret_cast<std::byte*>(elements_), bytes_);
  }

  T& operator[](std::size_t index) { return elements_[index]; }
  const T& operator[](std::size_t index) const { return elements_[index]; }

 private:
  void* map() {
    void* const memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return nullptr;
    madvise(memory, bytes_, MADV_DONTFORK);  // refused: it costs time only
    mapped_by_ = getpid();
    return memory;
  }

  T* elements_ = nullptr;
  std::size_t bytes_ = 0;
  pid_t mapped_by_ = 0;  // 0: not mapped
};

}  // namespace varve
