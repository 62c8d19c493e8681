// SPDX-License-Identifier: Apache-2.0
#include "storage/format.h"

#include <sys/random.h>

#include <cerrno>

#include <fmt/format.h>

#include "base/check.h"

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

Error unknown_to_us(std::string_view object, const StoredAt& at, std::string cause) {
  return fail(ErrorCode::unsupported, {fmt::format("{} in {} can't be read", object, to_string(at)), std::move(cause),
                                       "use the version of Varve that wrote it, or a newer one"});
}

void fill_random(std::span<std::byte> into) {
  while (!into.empty()) {
    const ssize_t got = getrandom(into.data(), into.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    VARVE_CHECK(got > 0);  // other errors: a bad address, or a kernel before 3.17
    into = into.subspan(static_cast<std::size_t>(got));
  }
}

std::uint64_t random_number() {
  std::uint64_t number = 0;
  fill_random(std::as_writable_bytes(std::span(&number, 1)));
  return number;
}

}  // namespace varve::storage
