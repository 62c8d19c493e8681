// SPDX-License-Identifier: Apache-2.0
//
// What several benchmarks need: memory of a kind of data, a directory that goes away.
#pragma once

#include <stdlib.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <random>
#include <span>
#include <string>

#include <benchmark/benchmark.h>

#include "base/check.h"
#include "varve/result.h"

namespace varve::bench {

enum class Data : std::uint8_t {
  zeros,
  random,     ///< does not compress
  particles,  ///< doubles: positions near a lattice, velocities
  field,      ///< doubles: smooth
};

inline const char* name_of(Data data) {
  constexpr const char* kNames[] = {"zeros", "random", "particles", "field"};
  return kNames[static_cast<std::size_t>(data)];
}
inline std::uint32_t element_bytes(Data data) { return data == Data::particles || data == Data::field ? 8 : 0; }

/// Page-aligned, faulted in, filled. The same kind is the same bytes.
class Memory {
 public:
  Memory(std::size_t bytes, Data data) : bytes_(bytes) {
    memory_.reset(static_cast<std::byte*>(std::aligned_alloc(4096, bytes)));
    VARVE_CHECK(memory_ != nullptr);
    std::memset(memory_.get(), 0, bytes);
    std::mt19937_64 random(1);
    for (std::size_t i = 0; data != Data::zeros && i < bytes / 8; ++i) {
      const std::uint64_t bits = random();
      const double noise = static_cast<double>(bits >> 11) * 0x1p-53;
      const std::size_t particle = i / 6, axis = i % 6;
      const std::size_t cell = axis == 0 ? particle % 128 : axis == 1 ? particle / 128 % 128 : particle / 16384;
      const double particle_word = axis < 3 ? static_cast<double>(cell) + noise / 10 : (noise - 0.5) / 1000;
      const double number = data == Data::field ? std::sin(static_cast<double>(i) * 1e-4) + 2 : particle_word;
      if (data == Data::random)
        std::memcpy(memory_.get() + i * 8, &bits, 8);
      else
        std::memcpy(memory_.get() + i * 8, &number, 8);
    }
  }
  std::span<std::byte> bytes() const { return {memory_.get(), bytes_}; }
  std::span<std::byte> page(std::size_t index) const { return bytes().subspan(index * 4096, 4096); }

 private:
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  std::unique_ptr<std::byte, Free> memory_;
  std::size_t bytes_;
};

/// Under $TMPDIR, else /var/tmp, which is on a disk on most machines.
class DiskDirectory {
 public:
  DiskDirectory() {
    const char* parent = std::getenv("TMPDIR");
    path_ = std::string(parent != nullptr && *parent != '\0' ? parent : "/var/tmp") + "/varve-bench-XXXXXX";
    VARVE_CHECK(mkdtemp(path_.data()) != nullptr);
  }
  ~DiskDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  DiskDirectory(const DiskDirectory&) = delete;
  DiskDirectory& operator=(const DiskDirectory&) = delete;
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

/// Ends the benchmark with the error's message when the Result holds one.
template <class T>
bool good(benchmark::State& state, const Result<T>& result) {
  if (result.has_value()) return true;
  state.SkipWithError(result.error().message().c_str());
  return false;
}

}  // namespace varve::bench
