// SPDX-License-Identifier: Apache-2.0
//
// What the SIGSEGV handler of `mprotect` reads and writes: areas with a mark for each page, the table of areas, and the
// lock and the count of splits. All of it lies in mappings of its own, which are never tracked; the rules are in
// mprotect_back_end.h. Functions marked "handler" are async-signal-safe.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "tracker/mappings.h"
#include "tracker/signal_safe_lock.h"

namespace varve::tracker {

/// Anonymous pages that belong to us alone.
class OwnPages {
 public:
  OwnPages() = default;
  static OwnPages map(std::size_t bytes);  ///< memory() is null on failure
  OwnPages(OwnPages&& other) noexcept;
  OwnPages& operator=(OwnPages&& other) noexcept;
  ~OwnPages();
  void* memory() const { return memory_; }

 private:
  void* memory_ = nullptr;
  std::size_t bytes_ = 0;
};

/// One for the process.
struct AreaTable;
struct Shared {
  SignalSafeLock lock;
  std::atomic<const AreaTable*> table{nullptr};
  std::atomic<std::int64_t> splits{0};  ///< changes of protection within areas
  std::atomic<std::int64_t> splits_limit{0};
  std::atomic<std::uint32_t> probe_word{0};
};
/// Null before make_shared_state().
Shared* shared_state();
bool make_shared_state();

/// A part of one mapping, with the protection that the program gave it.
class Area {
 public:
  static constexpr std::uint8_t kWritten = 0;
  static constexpr std::uint8_t kProtected = 1;

  const Mapping& mapping() const { return mapping_; }
  PageRange range() const { return mapping_.range; }
  bool protectable() const { return protectable_; }
  std::size_t pages() const { return pages_; }
  std::size_t page_number(std::uintptr_t address) const;
  std::uintptr_t address(std::size_t page) const;

  std::uint8_t mark(std::size_t page) const {  // handler
    return std::atomic_ref(const_cast<std::uint8_t&>(marks()[page])).load(std::memory_order_relaxed);
  }
  /// The first page from `page` on, below `end`, that has (or has not) this mark; `end` if there is none.
  std::size_t next_with(std::uint8_t mark, std::size_t page, std::size_t end) const;

  /// Makes the pages read-only and marks them so, unless that takes more splits than there may be, or fails: then they
  /// stay written. REQUIRES: they are written; the lock is held.
  bool protect(std::size_t begin, std::size_t end);
  /// Handler. Makes the pages writable and marks them written. REQUIRES: the lock is held.
  bool open(std::size_t begin, std::size_t end);
  /// Marks the pages written without touching their protection. REQUIRES: the lock is held.
  void forget_protection(std::size_t begin, std::size_t end);
  /// Handler. Opens the block around the page that the count of splits allows.
  bool open_block(std::size_t page);
  void count_fault() { faults_.fetch_add(1, std::memory_order_relaxed); }  // handler
  std::uint64_t faults() const { return faults_.load(std::memory_order_relaxed); }

  /// Takes over the marks of the pages that both have, without touching any protection.
  void copy_marks(const Area& from);

 private:
  friend class AreaPointer;
  Area(const Mapping& mapping, bool protectable, std::size_t pages)
      : mapping_(mapping), protectable_(protectable), pages_(pages) {}
  std::uint8_t* marks() { return reinterpret_cast<std::uint8_t*>(this + 1); }
  const std::uint8_t* marks() const { return reinterpret_cast<const std::uint8_t*>(this + 1); }
  void set_marks(std::size_t begin, std::size_t end, std::uint8_t mark);
  /// Changes of protection between pages begin - 1 and end.
  std::int64_t splits(std::size_t begin, std::size_t end) const;
  /// What the splits grow by if all of [begin, end) gets this mark.
  std::int64_t growth(std::size_t begin, std::size_t end, std::uint8_t mark) const;
  bool change(std::size_t begin, std::size_t end, int protection) const;

  Mapping mapping_;
  bool protectable_;
  std::size_t pages_;
  std::atomic<std::uint64_t> faults_{0};
};

/// Owns an Area and the pages that it lies in.
class AreaPointer {
 public:
  /// Null when there is no memory. All pages are written.
  static AreaPointer make(const Mapping& mapping, bool protectable);
  Area* get() const { return static_cast<Area*>(pages_.memory()); }
  Area& operator*() const { return *get(); }
  Area* operator->() const { return get(); }
  explicit operator bool() const { return get() != nullptr; }

 private:
  OwnPages pages_;
};

/// Ascending; for the handler's search.
struct AreaTable {
  std::size_t size;
  Area* areas[1];  // really `size`
};
Area* find_area(const AreaTable* table, std::uintptr_t address);  // handler

/// Handler: whether the page can be written now. Changes nothing.
bool writable_now(Shared& shared, std::uintptr_t address);

}  // namespace varve::tracker
