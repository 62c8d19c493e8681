// SPDX-License-Identifier: Apache-2.0
#include "storage/io.h"

#include <sys/random.h>

#include <cerrno>
#include <cstdlib>

#include "base/check.h"
#include "base/env.h"
#include "base/try.h"
#include "storage/posix_io.h"
#include "storage/uring_io.h"

namespace varve::storage {
namespace {

struct Choice {
  IoKind kind = IoKind::posix;
  std::string why;
};

Result<Choice> choose(const std::string& directory, const IoOptions& options) {
  std::optional<IoKind> forced = options.kind;
  std::string by = "chosen by the caller";
  if (const char* wish = std::getenv(env::kIo); !forced && wish != nullptr && *wish != 0) {
    forced = parse_io(wish);
    by = std::string(env::kIo) + "=" + wish;
    if (!forced)
      return fail(ErrorCode::invalid_argument, {"open of store " + directory + " refused", by + " names no io back end",
                                                "set it to uring or posix, or unset it"});
  }
  if (forced == IoKind::posix) return Choice{IoKind::posix, by};
  const Status probed = probe_uring();
  if (probed) return Choice{IoKind::uring, forced ? by : ""};
  if (!forced) return Choice{IoKind::posix, probed.error().cause()};
  return fail(ErrorCode::unsupported,
              {"open of store " + directory + " with uring (" + by + ") refused", probed.error().cause(),
               probed.error().remedy()},
              probed.error().os_errno());
}

}  // namespace

std::string_view to_string(IoKind kind) { return kind == IoKind::uring ? "uring" : "posix"; }

void Io::fill_random(std::span<std::byte> into) {
  while (!into.empty()) {
    const ssize_t got = getrandom(into.data(), into.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    VARVE_CHECK(got > 0);  // other errors: a bad address, or a kernel before 3.17
    into = into.subspan(static_cast<std::size_t>(got));
  }
}

std::uint64_t Io::random_number() {
  std::uint64_t number = 0;
  fill_random(std::as_writable_bytes(std::span(&number, 1)));
  return number;
}

std::optional<IoKind> parse_io(std::string_view name) {
  for (const IoKind kind : {IoKind::uring, IoKind::posix})
    if (name == to_string(kind)) return kind;
  return std::nullopt;
}

Result<std::unique_ptr<Io>> open_io(const std::string& directory, const IoOptions& options) {
  VARVE_TRY_ASSIGN(Choice choice, choose(directory, options));
  VARVE_TRY_ASSIGN(Directory opened,
                   Directory::open(directory, {.create = options.create, .allow_foreign = options.allow_foreign}));
  const DirectoryIo::Options io{.kind = choice.kind,
                                .why = std::move(choice.why),
                                .queue_depth = options.queue_depth,
                                .allow_direct = options.allow_direct,
                                .niceness = options.niceness};
  return choice.kind == IoKind::uring ? make_uring_io(std::move(opened), io) : make_posix_io(std::move(opened), io);
}

std::vector<IoReport> probe_io() {
  const Status uring = probe_uring();
  return {{IoKind::uring, uring.has_value(), uring ? "" : uring.error().cause()}, {IoKind::posix, true, ""}};
}

}  // namespace varve::storage
