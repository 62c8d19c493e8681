// SPDX-License-Identifier: Apache-2.0
#include "tracker/mappings.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <string_view>

#include <fmt/format.h>

#include "base/os_error.h"
#include "base/try.h"
#include "base/unique_fd.h"

namespace varve::tracker {
namespace {

// Reads /proc/self/maps line by line: visit(line) until it says false. The kernel hands out whole lines.
template <class Visit>
Status for_each_line(Visit visit) {
  const UniqueFd file(open("/proc/self/maps", O_RDONLY | O_CLOEXEC));
  if (!file.valid()) return os_error("reading the process's mappings from /proc/self/maps failed", errno);
  char buffer[16384];
  std::size_t kept = 0;
  while (true) {
    const ssize_t got = read(file.get(), buffer + kept, sizeof buffer - kept);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return os_error("reading the process's mappings from /proc/self/maps failed", errno);
    if (got == 0) return {};
    const char* at = buffer;
    const char* const end = buffer + kept + got;
    while (const char* stop = static_cast<const char*>(std::memchr(at, '\n', static_cast<std::size_t>(end - at)))) {
      if (!visit(std::string_view(at, static_cast<std::size_t>(stop - at)))) return {};
      at = stop + 1;
    }
    kept = static_cast<std::size_t>(end - at);
    std::memmove(buffer, at, kept);
  }
}

std::uint64_t take_number(std::string_view& text, int base) {
  std::uint64_t value = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value, base);
  text.remove_prefix(std::min(text.size(), static_cast<std::size_t>(parsed.ptr - text.data()) + 1));
  return value;
}

// proc_pid_maps(5): "begin-end rwxp offset major:minor inode  path"
Mapping parse(std::string_view line) {
  Mapping mapping;
  mapping.range.begin = take_number(line, 16);
  mapping.range.end = take_number(line, 16);
  mapping.whole = mapping.range;
  if (line.size() < 5) return mapping;
  mapping.protection =
      (line[0] == 'r' ? PROT_READ : 0) | (line[1] == 'w' ? PROT_WRITE : 0) | (line[2] == 'x' ? PROT_EXEC : 0);
  mapping.shared = line[3] == 's';
  line.remove_prefix(5);
  take_number(line, 16);
  const std::uint64_t major = take_number(line, 16);
  mapping.device = major << 32 | take_number(line, 16);
  mapping.inode = take_number(line, 10);
  mapping.stack = line.ends_with("[stack]");
  return mapping;
}

}  // namespace

Status read_mappings(PageRange range, std::vector<Mapping>& mappings) {
  mappings.clear();
  return for_each_line([&](std::string_view line) {
    Mapping mapping = parse(line);
    if (mapping.range.begin >= range.end) return false;
    if (mapping.range.end <= range.begin) return true;
    mapping.range = {std::max(mapping.range.begin, range.begin), std::min(mapping.range.end, range.end)};
    mappings.push_back(mapping);
    return true;
  });
}

Result<std::size_t> count_mappings() {
  std::size_t count = 0;
  VARVE_TRY(for_each_line([&](std::string_view) { return ++count, true; }));
  return count;
}

std::size_t mapping_limit() {
  constexpr std::size_t kDefault = 65530;  // DEFAULT_MAX_MAP_COUNT, include/linux/mm.h
  const UniqueFd file(open("/proc/sys/vm/max_map_count", O_RDONLY | O_CLOEXEC));
  char text[32];
  const ssize_t got = file.valid() ? read(file.get(), text, sizeof text) : -1;
  std::size_t limit = 0;
  if (got <= 0 || std::from_chars(text, text + got, limit).ec != std::errc()) return kDefault;
  return limit;
}

Status check_mapped(PageRange range) {
  // MS_ASYNC does nothing since Linux 2.6.19 but look for holes: msync(2), NOTES.
  if (msync(reinterpret_cast<void*>(range.begin), range.size_bytes(), MS_ASYNC) == 0) return {};
  const int error = errno;
  const std::string what = fmt::format("tracking of memory {:#x}-{:#x}", range.begin, range.end);
  if (error != ENOMEM) return os_error(what + " failed", error);
  return fail(ErrorCode::invalid_argument, {what + " refused", "part of it is no longer mapped",
                                            "end its protection (unprotect) before it is unmapped or moved"});
}

}  // namespace varve::tracker
