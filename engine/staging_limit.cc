// SPDX-License-Identifier: Apache-2.0
#include "engine/staging_limit.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>
#include <string_view>
#include <vector>

namespace varve {
namespace {

constexpr std::uint64_t kUnlimited = std::numeric_limits<std::uint64_t>::max();

std::optional<std::uint64_t> number_at(std::string_view text) {
  const auto begin = text.find_first_not_of(" \t");
  if (begin == std::string_view::npos) return {};
  std::uint64_t value = 0;
  const auto parsed = std::from_chars(text.data() + begin, text.data() + text.size(), value);
  if (parsed.ec != std::errc()) return {};  // "max" of version 2 among them
  return value;
}

std::uint64_t mem_total_bytes(const std::string& root) {
  std::ifstream meminfo(root + "/proc/meminfo");
  for (std::string line; std::getline(meminfo, line);)
    if (line.starts_with("MemTotal:")) return number_at(line.substr(9)).value_or(0) * 1024;
  return 0;
}

std::uint64_t limit_in(const std::string& file) {
  std::ifstream in(file);
  std::string line;
  if (!std::getline(in, line)) return kUnlimited;
  return number_at(line).value_or(kUnlimited);  // version 1 says "unlimited" by a huge number: min() ignores it
}

/// One mounted hierarchy that has the memory controller.
struct Hierarchy {
  bool version2 = false;
  std::string mount_root;  ///< which group is the root of the mount; not "/" in containers without a namespace
  std::string mount_point;
};

bool has_option(std::string_view options, std::string_view wanted) {
  while (!options.empty()) {
    const auto comma = options.find(',');
    if (options.substr(0, comma) == wanted) return true;
    options = comma == std::string_view::npos ? std::string_view() : options.substr(comma + 1);
  }
  return false;
}

/// Lines are "36 35 98:0 /root /mount/point rw,noatime shared:1 - cgroup2 cgroup2 rw": proc_pid_mountinfo(5).
std::vector<Hierarchy> hierarchies(const std::string& root) {
  std::vector<Hierarchy> found;
  std::ifstream mountinfo(root + "/proc/self/mountinfo");
  for (std::string line; std::getline(mountinfo, line);) {
    const auto dash = line.find(" - ");
    if (dash == std::string::npos) continue;
    std::istringstream front(line.substr(0, dash));
    std::istringstream back(line.substr(dash + 3));
    std::string skipped, type, source, options;
    Hierarchy hierarchy;
    front >> skipped >> skipped >> skipped >> hierarchy.mount_root >> hierarchy.mount_point;
    back >> type >> source >> options;
    hierarchy.version2 = type == "cgroup2";
    if (hierarchy.version2 || (type == "cgroup" && has_option(options, "memory"))) found.push_back(hierarchy);
  }
  return found;
}

/// The path of this process's group in the hierarchy: "0::/a" (version 2) or "4:memory:/a" in /proc/self/cgroup.
std::string group_path(const std::string& root, bool version2) {
  std::ifstream cgroup(root + "/proc/self/cgroup");
  for (std::string line; std::getline(cgroup, line);) {
    const auto first = line.find(':');
    const auto second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const auto controllers = std::string_view(line).substr(first + 1, second - first - 1);
    if (version2 ? controllers.empty() : has_option(controllers, "memory")) return line.substr(second + 1);
  }
  return "/";
}

std::uint64_t hierarchy_limit(const std::string& root, const Hierarchy& hierarchy) {
  const char* const file = hierarchy.version2 ? "/memory.max" : "/memory.limit_in_bytes";
  std::string path = group_path(root, hierarchy.version2);
  if (hierarchy.mount_root != "/" && path.starts_with(hierarchy.mount_root)) path.erase(0, hierarchy.mount_root.size());
  std::uint64_t limit = kUnlimited;
  while (true) {
    limit = std::min(limit, limit_in(root + hierarchy.mount_point + (path == "/" ? std::string() : path) + file));
    if (path.empty() || path == "/") return limit;
    path.erase(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
  }
}

}  // namespace

std::uint64_t usable_memory_bytes(const std::string& root) {
  std::uint64_t usable = mem_total_bytes(root);
  if (usable == 0) usable = kUnlimited;
  for (const auto& hierarchy : hierarchies(root)) usable = std::min(usable, hierarchy_limit(root, hierarchy));
  return usable == kUnlimited ? 0 : usable;
}

}  // namespace varve
