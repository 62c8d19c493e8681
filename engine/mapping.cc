// SPDX-License-Identifier: Apache-2.0
#include "engine/mapping.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "base/os_error.h"
#include "base/try.h"
#include "base/unique_fd.h"
#include "engine/mapping_access.h"

namespace varve {
namespace {

/// Flags of smaps with which a mapping can't be kept in an image: "VmFlags" in proc_pid_smaps(5).
constexpr std::array<std::pair<std::string_view, std::string_view>, 4> kRefusedFlags = {{
    {"ht",
     "it is hugetlbfs memory, whose pages can't be tracked one by one; use transparent huge pages (MADV_HUGEPAGE)"},
    {"io", "it is memory of a device"},
    {"pf", "it is memory of a device, mapped page frame by page frame"},
    {"dp", "it is droppable memory (MAP_DROPPABLE): the kernel may empty it at any moment"},
}};

/// "7f00-7f10 rw-p 00000000 00:00 0    [heap]" -> true; anything else of smaps -> false.
bool parse_header(std::string_view line, std::uintptr_t& begin, std::uintptr_t& end, std::string_view& permissions) {
  const char* const last = line.data() + line.size();
  const auto first = std::from_chars(line.data(), last, begin, 16);
  if (first.ec != std::errc() || first.ptr == last || *first.ptr != '-') return false;
  const auto second = std::from_chars(first.ptr + 1, last, end, 16);
  if (second.ec != std::errc() || last - second.ptr < 5 || *second.ptr != ' ') return false;
  permissions = {second.ptr + 1, 4};
  return true;
}

/// Whether the line of a mapping names a file: its fifth word is the inode, 0 for none.
bool maps_file(std::string_view header) {
  for (int word = 0; word < 4; ++word) {
    header.remove_prefix(std::min(header.find(' '), header.size()));
    header.remove_prefix(std::min(header.find_first_not_of(' '), header.size()));
  }
  return !header.empty() && header.front() >= '1' && header.front() <= '9';
}

std::uint32_t protection_of(std::string_view permissions) {
  return static_cast<std::uint32_t>((permissions[0] == 'r' ? PROT_READ : 0) | (permissions[1] == 'w' ? PROT_WRITE : 0) |
                                    (permissions[2] == 'x' ? PROT_EXEC : 0));
}

}  // namespace

bool MappingReader::line(std::string_view line) {
  std::uintptr_t begin = 0;
  std::uintptr_t end = 0;
  std::string_view permissions;
  if (!parse_header(line, begin, end, permissions)) {
    constexpr std::string_view kFlags = "VmFlags:";
    if (within_ && line.starts_with(kFlags)) flags(line.substr(kFlags.size()));
    return true;
  }
  if (begin >= end_) return false;
  within_ = end > covered_to_;
  if (!within_) return true;
  if (begin > covered_to_) traits_.mapped = false;
  covered_to_ = end;
  const std::uint32_t protection = protection_of(permissions);
  traits_.protection = first_ ? protection : traits_.protection & protection;
  first_ = false;
  if ((protection & PROT_READ) == 0) traits_.readable = false;
  if (permissions[3] != 'p') traits_.fork_holds_it = false;
  if (maps_file(line)) file_ends_.push_back(std::min(end, end_));
  return true;
}

void MappingReader::flags(std::string_view flags) {
  while (true) {
    const auto begin = flags.find_first_not_of(' ');
    if (begin == std::string_view::npos) return;
    flags.remove_prefix(begin);
    const auto flag = flags.substr(0, flags.find(' '));
    flags.remove_prefix(flag.size());
    if (flag == "dc" || flag == "wf") traits_.fork_holds_it = false;  // MADV_DONTFORK, MADV_WIPEONFORK
    for (const auto& [refused, reason] : kRefusedFlags)
      if (flag == refused) refuse(std::string(reason));
  }
}

void MappingReader::refuse(std::string reason) {
  if (traits_.refused.empty()) traits_.refused = std::move(reason);
}

MappingTraits MappingReader::finish() {
  if (covered_to_ < end_) traits_.mapped = false;
  if (!traits_.mapped) traits_.readable = false;
  return traits_;
}

Result<std::vector<AddressRange>> mappings_not_held_by_fork(const std::string& process) {
  std::vector<AddressRange> found;
  AddressRange current;
  const auto line = [&](std::string_view text) {
    std::string_view permissions;
    AddressRange next;
    if (parse_header(text, next.begin, next.end, permissions)) {
      current = next;
      if (permissions[3] != 'p') found.push_back(current);
    } else if (text.starts_with("VmFlags:") && text.find(" wf") != std::string_view::npos) {
      found.push_back(current);
    }
    return true;
  };
  if (read_lines("/proc/" + process + "/smaps", line)) return found;
  found.clear();
  VARVE_TRY(read_lines("/proc/" + process + "/maps", line));
  return found;
}

Result<std::vector<AddressRange>> private_anonymous_mappings() {
  std::vector<AddressRange> found;
  VARVE_TRY(read_lines("/proc/self/maps", [&](std::string_view text) {
    std::string_view permissions;
    AddressRange next;
    if (parse_header(text, next.begin, next.end, permissions) && permissions.starts_with("rw") &&
        permissions[3] == 'p' && !maps_file(text) && text.find("[stack") == std::string_view::npos)
      found.push_back(next);
    return true;
  }));
  return found;
}

Result<std::optional<std::uint32_t>> protection_of_range(AddressRange range) {
  MappingReader reader(range.begin, range.end);
  VARVE_TRY(read_lines("/proc/self/maps", [&](std::string_view text) { return reader.line(text); }));
  const MappingTraits traits = reader.finish();
  return traits.mapped ? std::optional(traits.protection) : std::nullopt;
}

Status read_lines(const std::string& path, const std::function<bool(std::string_view)>& consume) {
  const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid()) return os_error("reading of " + path + " failed", errno);
  std::string kept;               // the part of a line at the end of what was read
  std::array<char, 4096> buffer;  // the kernel gives no more at once; the rest of the file is never made
  while (true) {
    const ssize_t got = read(file.get(), buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return os_error("reading of " + path + " failed", errno);
    if (got == 0) break;
    kept.append(buffer.data(), static_cast<std::size_t>(got));
    std::size_t begin = 0;
    for (std::size_t end = 0; (end = kept.find('\n', begin)) != std::string::npos; begin = end + 1)
      if (!consume(std::string_view(kept).substr(begin, end - begin))) return {};
    kept.erase(0, begin);
  }
  if (!kept.empty()) consume(kept);
  return {};
}

Result<MappingTraits> inspect_mapping(const void* begin, std::size_t bytes) {
  const auto from = reinterpret_cast<std::uintptr_t>(begin);
  if (bytes == 0 || from + bytes < from)
    return fail(ErrorCode::invalid_argument, {fmt::format("looking at memory at {} failed", begin),
                                              fmt::format("{} bytes are no range of addresses", bytes),
                                              "give the address and length of memory of this process"});
  const auto inspect = [&](const char* path) -> Result<MappingTraits> {
    MappingReader reader(from, from + bytes);
    VARVE_TRY(read_lines(path, [&](std::string_view line) { return reader.line(line); }));
    MappingTraits traits = reader.finish();
    if (traits.readable && traits.refused.empty()) {
      traits.unreadable = why_unreadable({from, from + bytes}, reader.file_ends());
      traits.readable = traits.unreadable.empty();
    }
    return traits;
  };
  // smaps tells most; without it (CONFIG_PROC_PAGE_MONITOR is off) maps tells shared from private, and holes.
  auto traits = inspect("/proc/self/smaps");
  return traits ? traits : inspect("/proc/self/maps");
}

}  // namespace varve
