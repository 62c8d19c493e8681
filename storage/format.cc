// SPDX-License-Identifier: Apache-2.0
#include "storage/format.h"

#include <cerrno>

#include <fmt/format.h>

namespace varve::storage {

std::string to_string(const StoredAt& at) { return fmt::format("{} at offset {}", at.file, at.offset); }

std::string to_hex(std::span<const std::byte> bytes) {
  std::string text;
  text.reserve(2 * bytes.size());
  for (const std::byte byte : bytes) fmt::format_to(std::back_inserter(text), "{:02x}", static_cast<unsigned>(byte));
  return text;
}

Error damaged(std::string_view object, const StoredAt& at, std::string cause) {
  return fail(ErrorCode::corruption,
              {fmt::format("{} in {} is damaged", object, to_string(at)), std::move(cause),
               "run `varve verify` on the store to see which images are still good, and restore one of those"});
}

bool medium_failed(const Error& error) {
  switch (error.os_errno()) {
    case EIO:
    case EBADMSG:              // ext4, xfs: a checksum of theirs is wrong
    case EUCLEAN:              // the same, of what describes the file
    case ENODATA:              // the block layer: a medium error
    case EREMOTEIO:            // the block layer: the device's own error
    case EILSEQ: return true;  // the block layer: protection information is wrong
    default: return false;
  }
}

bool is_damage(const Error& error) { return error.code() == ErrorCode::corruption || medium_failed(error); }

Error unknown_to_us(std::string_view object, const StoredAt& at, std::string cause) {
  return fail(ErrorCode::unsupported, {fmt::format("{} in {} can't be read", object, to_string(at)), std::move(cause),
                                       "use the version of Varve that wrote it, or a newer one"});
}

}  // namespace varve::storage
