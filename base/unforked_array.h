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
#include <vector>

#include "base/bytes.h"
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
    void* memory = bytes_ >= kLargeBytes ? map(bytes_) : nullptr;
    if (memory != nullptr) mapped_by_ = getpid();
    if (memory == nullptr) memory = std::calloc(count, sizeof(T));
    if (memory == nullptr && count != 0) std::abort();  // as operator new does, where nobody catches
    elements_ = static_cast<T*>(memory);
  }
  /// Several of the same length, where they are large together in one mapping, each in pages of its own: the kernel is
  /// asked once for all of them, and each gives its own memory back.
  static std::vector<UnforkedArray> several(std::size_t arrays, std::size_t count) {
    std::vector<UnforkedArray> made(arrays);
    const std::size_t each = round_up(count * sizeof(T), static_cast<std::size_t>(sysconf(_SC_PAGESIZE)));
    void* const memory = arrays * count * sizeof(T) >= kLargeBytes ? map(arrays * each) : nullptr;
    for (std::size_t i = 0; i < arrays; ++i) {
      if (memory == nullptr) {
        made[i] = UnforkedArray(count);
        continue;
      }
      made[i].elements_ = reinterpret_cast<T*>(static_cast<std::byte*>(memory) + i * each);
      made[i].bytes_ = count * sizeof(T);
      made[i].mapped_by_ = getpid();
    }
    return made;
  }
  UnforkedArray(UnforkedArray&& other) noexcept
      : elements_(std::exchange(other.elements_, nullptr)),
        bytes_(std::exchange(other.bytes_, 0)),
        mapped_by_(std::exchange(other.mapped_by_, 0)) {}
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
  static void* map(std::size_t bytes) {
    void* const memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return nullptr;
    madvise(memory, bytes, MADV_DONTFORK);  // refused: it costs time only
    return memory;
  }

  T* elements_ = nullptr;
  std::size_t bytes_ = 0;
  pid_t mapped_by_ = 0;  // 0: not mapped
};

}  // namespace varve
