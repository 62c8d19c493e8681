// SPDX-License-Identifier: Apache-2.0
//
// ByteWriter and ByteReader: the building blocks of the encoders and decoders of docs/formats/.
//
// A ByteReader never reads past its bytes: a read that would do so, and every read after it, yields zeros and leaves
// ok() false, so that a decoder may read a whole group of fields and ask once. Counts that come from the bytes are
// compared with remaining() before anything is allocated for them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "storage/chunk_name.h"

namespace varve::storage {

class ByteWriter {
 public:
  explicit ByteWriter(std::vector<std::byte>& out) : out_(out) {}

  template <class T>
  void put(std::type_identity_t<T> value) {
    const std::size_t at = out_.size();
    out_.resize(at + sizeof(T));
    store_le<T>(out_.data() + at, value);
  }
  void bytes(std::span<const std::byte> content) { out_.insert(out_.end(), content.begin(), content.end()); }
  void text(std::string_view content) { bytes(std::as_bytes(std::span(content.data(), content.size()))); }
  void zeros(std::size_t count) { out_.resize(out_.size() + count); }
  /// A u16 length and the bytes. REQUIRES: at most 65535 of them.
  void string(std::string_view content) {
    put<std::uint16_t>(static_cast<std::uint16_t>(content.size()));
    text(content);
  }
  void varint(std::uint64_t value) {
    while (value >= 0x80) {
      put<std::uint8_t>(static_cast<std::uint8_t>(value | 0x80));
      value >>= 7;
    }
    put<std::uint8_t>(static_cast<std::uint8_t>(value));
  }
  void name(const ChunkName& chunk) {
    put<std::uint64_t>(chunk.low);
    put<std::uint64_t>(chunk.high);
  }
  void names(std::span<const ChunkName> chunks) { bytes(std::as_bytes(chunks)); }  // little-endian in memory too
  std::size_t size() const { return out_.size(); }

 private:
  std::vector<std::byte>& out_;
};

class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> bytes) : rest_(bytes) {}

  bool ok() const { return ok_; }
  std::size_t remaining() const { return rest_.size(); }
  /// Whether everything was read, without an error.
  bool at_end() const { return ok_ && rest_.empty(); }

  template <class T>
  T get() {
    const std::span<const std::byte> field = take(sizeof(T));
    return ok_ ? load_le<T>(field.data()) : T{0};
  }
  std::span<const std::byte> take(std::uint64_t count) {
    if (!ok_ || count > rest_.size()) {
      ok_ = false;
      rest_ = {};
      return {};
    }
    const std::span<const std::byte> taken = rest_.first(static_cast<std::size_t>(count));
    rest_ = rest_.subspan(static_cast<std::size_t>(count));
    return taken;
  }
  std::string text(std::uint64_t count) {
    const std::span<const std::byte> taken = take(count);
    return std::string(reinterpret_cast<const char*>(taken.data()), taken.size());
  }
  std::string string() { return text(get<std::uint16_t>()); }
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      const auto part = get<std::uint8_t>();
      if (!ok_ || (shift == 63 && part > 1) || (shift > 0 && part == 0)) break;  // too long, or not the shortest form
      value |= static_cast<std::uint64_t>(part & 0x7F) << shift;
      if ((part & 0x80) == 0) return value;
    }
    ok_ = false;
    rest_ = {};
    return 0;
  }
  ChunkName name() {
    ChunkName chunk;
    chunk.low = get<std::uint64_t>();
    chunk.high = get<std::uint64_t>();
    return chunk;
  }
  /// Appends `count` names. False, with nothing allocated, when the bytes at hand are fewer.
  bool names(std::uint64_t count, std::vector<ChunkName>& into) {
    if (count > rest_.size() / sizeof(ChunkName)) ok_ = false;
    const std::span<const std::byte> taken = take(count * sizeof(ChunkName));
    if (!ok_) return false;
    const std::size_t before = into.size();
    into.resize(before + static_cast<std::size_t>(count));
    if (count != 0) std::memcpy(static_cast<void*>(into.data() + before), taken.data(), taken.size());
    return true;
  }
  /// Whether `count` items of at least `item_bytes` each can still follow.
  bool holds(std::uint64_t count, std::size_t item_bytes) const { return ok_ && count <= rest_.size() / item_bytes; }

 private:
  std::span<const std::byte> rest_;
  bool ok_ = true;
};

}  // namespace varve::storage
