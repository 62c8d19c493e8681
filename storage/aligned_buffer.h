// SPDX-License-Identifier: Apache-2.0
//
// AlignedBuffer: memory as direct io wants it, at a multiple of kIoAlignment. Not initialised. Values; moves, no
// copies.
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <span>

#include "storage/io.h"

namespace varve::storage {

class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(std::size_t size_bytes)
      : memory_(static_cast<std::byte*>(::operator new (size_bytes, std::align_val_t{kIoAlignment}))),
        size_bytes_(size_bytes) {}

  std::byte* data() { return memory_.get(); }
  const std::byte* data() const { return memory_.get(); }
  std::size_t size() const { return size_bytes_; }
  std::span<std::byte> span() { return {memory_.get(), size_bytes_}; }
  std::span<const std::byte> span() const { return {memory_.get(), size_bytes_}; }

 private:
  struct Free {
    void operator()(std::byte* memory) const { ::operator delete (memory, std::align_val_t{kIoAlignment}); }
  };
  std::unique_ptr<std::byte, Free> memory_;
  std::size_t size_bytes_ = 0;
};

}  // namespace varve::storage
