// SPDX-License-Identifier: Apache-2.0
//
// ZeroedArray: plain values, zero at first, that cost memory only where they were written (calloc of large sizes is
// fresh memory from the kernel). Never throws: allocate() says whether there was memory.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <type_traits>

namespace varve::tracker {

template <class T>
class ZeroedArray {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  bool allocate(std::size_t size) {
    values_.reset(static_cast<T*>(std::calloc(size == 0 ? 1 : size, sizeof(T))));
    return values_ != nullptr;
  }
  T& operator[](std::size_t index) { return values_.get()[index]; }
  const T& operator[](std::size_t index) const { return values_.get()[index]; }

 private:
  struct Free {
    void operator()(T* values) const { std::free(values); }
  };
  std::unique_ptr<T, Free> values_;
};

}  // namespace varve::tracker
