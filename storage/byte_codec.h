// SPDX-License-Identifier: Apache-2.0
//
// ByteWriter and ByteReader: the building blocks of the encoders and decoders of docs/formats/.
//
// A ByteReader never reads past its bytes: a read that would do so, and every read after it, yields zeros and leaves
// ok() false, so that a decoder may read a whole group of fields and ask once. Counts that come from the bytes are
// compared with remaining() before anything is allocated for them. Its bytes may come in parts, which are not kept.
#pragma once

#include <algorithm>
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

/// Bytes that come in parts, one behind the other.
class ByteParts {
 public:
  virtual ~ByteParts() = default;
  /// The next part, valid until the next call. Empty when there are no more, or they can't be had.
  virtual std::span<const std::byte> next() = 0;
};

class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> bytes) : rest_(bytes) {}
  /// Of `bytes` in all. What take() returns is valid until the next call of anything.
  ByteReader(ByteParts& parts, std::uint64_t bytes) : parts_(&parts), to_come_(bytes) {}

  bool ok() const { return ok_; }
  std::uint64_t remaining() const { return rest_.size() + to_come_; }
  /// Whether everything was read, without an error.
  bool at_end() const { return ok_ && remaining() == 0; }

  template <class T>
  T get() {
    const std::span<const std::byte> field = take(sizeof(T));
    return ok_ ? load_le<T>(field.data()) : T{0};
  }
  std::span<const std::byte> take(std::uint64_t count) {
    if (!ok_ || count > remaining()) {
      fail();
      return {};
    }
    if (rest_.empty()) next_part();
    if (count > rest_.size()) return join(static_cast<std::size_t>(count));
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
    fail();
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
    if (!holds(count, sizeof(ChunkName))) {
      fail();
      return false;
    }
    // Once for all parts; where there is but one, the vector grows as it does, for the next call too.
    if (to_come_ > 0) into.reserve(into.size() + static_cast<std::size_t>(count));
    while (count > 0) {
      // Those that are whole in the part at hand, or the one that it has the beginning of.
      const std::uint64_t here = std::clamp<std::uint64_t>(rest_.size() / sizeof(ChunkName), 1, count);
      const std::span<const std::byte> taken = take(here * sizeof(ChunkName));
      if (!ok_) return false;
      const std::size_t before = into.size();
      into.resize(before + static_cast<std::size_t>(here));
      std::memcpy(static_cast<void*>(into.data() + before), taken.data(), taken.size());
      count -= here;
    }
    return true;
  }
  /// Whether `count` items of at least `item_bytes` each can still follow.
  bool holds(std::uint64_t count, std::size_t item_bytes) const { return ok_ && count <= remaining() / item_bytes; }

 private:
  void fail() {
    ok_ = false;
    rest_ = {};
    to_come_ = 0;
  }
  void next_part() {
    if (to_come_ == 0) return;
    const std::span<const std::byte> part = parts_->next();
    rest_ = part.first(static_cast<std::size_t>(std::min<std::uint64_t>(part.size(), to_come_)));
    to_come_ -= rest_.size();
  }
  /// What lies in several parts, in one place.
  std::span<const std::byte> join(std::size_t count) {
    std::vector<std::byte> joined;
    joined.reserve(count);
    while (joined.size() < count && !rest_.empty()) {
      const auto taken = rest_.first(std::min(count - joined.size(), rest_.size()));
      joined.insert(joined.end(), taken.begin(), taken.end());
      rest_ = rest_.subspan(taken.size());
      if (rest_.empty()) next_part();
    }
    joined_ = std::move(joined);
    if (joined_.size() == count) return joined_;
    fail();
    return {};
  }

  std::span<const std::byte> rest_;  // of the part at hand
  ByteParts* parts_ = nullptr;
  std::uint64_t to_come_ = 0;  // from parts
  std::vector<std::byte> joined_;
  bool ok_ = true;
};

}  // namespace varve::storage
