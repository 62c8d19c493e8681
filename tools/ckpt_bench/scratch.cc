// SPDX-License-Identifier: Apache-2.0
#include "tools/ckpt_bench/scratch.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <thread>
#include <utility>

#include <fmt/format.h>

#include "base/os_error.h"
#include "base/try.h"
#include "base/unique_fd.h"
#include "tools/units.h"

namespace varve::tools {
namespace {

namespace fs = std::filesystem;
constexpr const char* kMarker = "made-by-ckpt-bench";
constexpr const char* kYardstick = "yardstick";
constexpr const char* kForeign = "peer";
constexpr std::array<const char*, 3> kStores = {"store", "store-to-compare", "store-of-one-full-image"};

Status remove_tree(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) return os_error("removal of " + path.string() + " failed", error.value());
  return {};
}

Status check_free(const std::string& directory, std::uint64_t needed_bytes) {
  struct statvfs info {};
  if (statvfs(directory.c_str(), &info) != 0)
    return os_error("look at the file system of " + directory + " failed", errno);
  const std::uint64_t available = static_cast<std::uint64_t>(info.f_bavail) * info.f_frsize;
  if (available >= needed_bytes) return {};
  return fail(ErrorCode::io,
              {"benchmark in " + directory + " refused",
               fmt::format("it needs {} and {} are free", format_bytes(needed_bytes), format_bytes(available)),
               "choose a smaller --size or --max-store, or another --store"},
              ENOSPC);
}

}  // namespace

Result<Scratch> Scratch::create(const std::string& directory, std::uint64_t needed_bytes, bool keep) {
  Scratch scratch;
  scratch.directory_ = directory;
  scratch.keep_ = keep;
  std::error_code error;
  const bool there = fs::exists(directory, error);
  if (there && !fs::is_empty(directory, error) && !fs::exists(fs::path(directory) / kMarker))
    return fail(ErrorCode::invalid_argument,
                {"benchmark in " + directory + " refused", "it is not empty and was not made by ckpt-bench",
                 "name a directory that does not exist yet"});
  if (!there && !fs::create_directory(directory, error))
    return os_error("making of " + directory + " failed", error.value(), "its parent must exist and be writable");
  scratch.made_ = !there || fs::exists(fs::path(directory) / kMarker);
  std::ofstream marker(fs::path(directory) / kMarker);
  marker << "Made by ckpt-bench, which removes this directory.\n" << std::flush;
  if (!marker) return os_error("write of " + directory + "/" + kMarker + " failed", errno);
  for (const Which which : {Which::store, Which::other, Which::full}) VARVE_TRY(scratch.remove_store(which));
  for (const char* name : {kYardstick, kForeign}) VARVE_TRY(remove_tree(fs::path(directory) / name));
  VARVE_TRY(check_free(directory, needed_bytes));
  return scratch;
}

Scratch::Scratch(Scratch&& other) noexcept
    : directory_(std::exchange(other.directory_, {})), made_(other.made_), keep_(other.keep_) {}

Scratch::~Scratch() {
  if (directory_.empty()) return;
  std::error_code ignored;  // nothing of value is lost when some of it stays
  for (const char* name : {kYardstick, kForeign}) fs::remove_all(fs::path(directory_) / name, ignored);
  if (keep_) return;
  for (const char* store : kStores) fs::remove_all(fs::path(directory_) / store, ignored);
  fs::remove(fs::path(directory_) / kMarker, ignored);
  if (made_) fs::remove(directory_, ignored);
}

std::string Scratch::store(Which which) const { return directory_ + "/" + kStores[static_cast<std::size_t>(which)]; }

Status Scratch::remove_store(Which which) { return remove_tree(store(which)); }

Status Scratch::remove_yardstick() { return remove_tree(yardstick()); }

void Scratch::settle() const {
  constexpr unsigned kQuietLooks = 3;
  constexpr unsigned kMostLooks = 250;
  constexpr auto kBetween = std::chrono::milliseconds(20);
  constexpr int kInFlight = 8;  // field of Documentation/block/stat.rst, from 0
  const UniqueFd fd(open(directory_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  struct stat info {};
  if (!fd.valid() || syncfs(fd.get()) != 0 || fstat(fd.get(), &info) != 0) return;
  const auto path = fmt::format("/sys/dev/block/{}:{}/stat", major(info.st_dev), minor(info.st_dev));
  for (unsigned look = 0, quiet = 0; look < kMostLooks && quiet < kQuietLooks; ++look) {
    std::ifstream stat(path);
    std::uint64_t field = 0;
    for (int i = 0; i <= kInFlight; ++i) stat >> field;
    if (!stat) return;  // no disk of its own: overlays, btrfs, network file systems
    quiet = field == 0 ? quiet + 1 : 0;
    std::this_thread::sleep_for(kBetween);
  }
}

std::uint64_t Scratch::allocated_bytes(const std::string& directory) {
  std::uint64_t bytes = 0;
  std::error_code error;
  for (auto entry = fs::recursive_directory_iterator(directory, error); !error && entry != fs::end(entry);
       entry.increment(error)) {
    struct stat info {};
    if (stat(entry->path().c_str(), &info) == 0 && S_ISREG(info.st_mode))
      bytes += static_cast<std::uint64_t>(info.st_blocks) * 512;
  }
  return bytes;
}

std::uint64_t Scratch::store_bytes(Which which) const { return allocated_bytes(store(which)); }

Result<std::string> Scratch::fresh_directory() {
  const fs::path path = fs::absolute(fs::path(directory_) / kForeign);
  VARVE_TRY(remove_tree(path));
  std::error_code error;
  if (!fs::create_directory(path, error)) return os_error("making of " + path.string() + " failed", error.value());
  return path.string();
}

std::vector<std::string> Scratch::segments(Which which) const {
  std::vector<std::string> paths;
  std::error_code error;
  for (auto entry = fs::directory_iterator(store(which) + "/segments", error); !error && entry != fs::end(entry);
       entry.increment(error))
    paths.push_back(entry->path().string());
  std::sort(paths.begin(), paths.end());
  return paths;
}

}  // namespace varve::tools
