// SPDX-License-Identifier: Apache-2.0
//
// Who holds what of a store: the bytes of the file `lock` and the lines in it (docs/formats/store.md).
//
// The locks themselves are open-file-description locks, gone with the process; the lines are for messages.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "storage/format.h"

namespace varve::storage {

/// The byte of a chain's writer.
std::uint64_t chain_lock_byte(std::string_view chain);

/// Waits for a byte that others hold for short times only. `busy` after `patience_ms`.
Result<std::unique_ptr<Lock>> wait_for_lock(Io& io, std::uint64_t byte, bool exclusive, unsigned patience_ms,
                                            std::string_view what);

/// The right to change inventory and segment folder: byte 0, held for milliseconds.
Result<std::unique_ptr<Lock>> lock_table(Io& io);
/// The store's byte, shared. Lets a collector that waits for it pass first. Empty where the file system is read-only or
/// forbids us the lock file: nobody who can only read may be kept from reading.
Result<std::unique_ptr<Lock>> lock_store_shared(Io& io);
/// The store's byte for garbage collection alone. Waits up to `patience_ms` for those who have it, and keeps new ones
/// out for a part of that time only; `busy` after it.
Result<std::unique_ptr<Lock>> lock_store_exclusive(Io& io, unsigned patience_ms);

struct LockHolder {
  std::uint64_t pid = 0;
  std::string host;
  std::uint64_t since = 0;  ///< seconds since 1970
  std::string chain;
};

inline constexpr std::size_t kLockLineBytes = 256;
std::string encode_lock_line(const LockHolder& holder);
/// Lines that are not well-formed are left out.
std::vector<LockHolder> decode_lock_lines(std::string_view content);

/// A chain held for writing.
class ChainLock {
 public:
  /// `busy` names the holder.
  static Result<std::unique_ptr<ChainLock>> acquire(Io& io, std::string_view chain);
  ~ChainLock();
  ChainLock(const ChainLock&) = delete;
  ChainLock& operator=(const ChainLock&) = delete;

 private:
  ChainLock(Io& io, std::string chain, std::unique_ptr<Lock> lock);

  Io& io_;
  std::string chain_;
  std::unique_ptr<Lock> lock_;
};

}  // namespace varve::storage
