// SPDX-License-Identifier: Apache-2.0
#include "storage/directory_io.h"

#include <fcntl.h>

#include <algorithm>

#include "base/log.h"
#include "base/try.h"
#include "storage/file_lock.h"
#include "storage/file_system.h"

namespace varve::storage {
namespace {

constexpr unsigned kQueueDepthMax = 256;

DirectoryIo::Options bounded(DirectoryIo::Options options) {
  options.queue_depth = std::clamp(options.queue_depth, 1U, kQueueDepthMax);
  return options;
}

int flags_of(OpenMode mode) {
  switch (mode) {
    case OpenMode::read:
    case OpenMode::read_direct: return O_RDONLY;
    case OpenMode::write:
    case OpenMode::write_direct: return O_RDWR;
    case OpenMode::create:
    case OpenMode::create_direct: return O_RDWR | O_CREAT;
  }
  return O_RDONLY;
}

}  // namespace

DirectoryIo::DirectoryIo(Directory directory, Options options)
    : directory_(std::move(directory)), options_(bounded(std::move(options))) {
  log::info("storage", "io of {}: {}{}{}", directory_.path(), to_string(options_.kind),
            options_.why.empty() ? "" : ": ", options_.why);
}

bool DirectoryIo::direct_works() {
  std::call_once(direct_probed_, [this] {
    direct_works_ = options_.allow_direct && probe_direct(directory_);
    log::debug("storage", "O_DIRECT in {}: {}", directory_.path(), direct_works_ ? "works" : "not used");
  });
  return direct_works_;
}

Result<FileSystemTraits> DirectoryIo::file_system() {
  VARVE_TRY_ASSIGN(FileSystemTraits traits, describe_file_system(directory_));
  traits.direct = direct_works();
  return traits;
}

Result<std::unique_ptr<File>> DirectoryIo::open(std::string_view name, OpenMode mode) {
  VARVE_TRY_ASSIGN(UniqueFd fd, directory_.open_file(name, flags_of(mode)));
  const bool wanted =
      mode == OpenMode::create_direct || mode == OpenMode::write_direct || mode == OpenMode::read_direct;
  // Set on the open file, so that a refusal leaves a file that works, only buffered.
  const bool direct = wanted && direct_works() && fcntl(fd.get(), F_SETFL, O_DIRECT) == 0;
  return make_file(OpenFile(std::move(fd), std::string(name), directory_.path_of(name), direct));
}

Result<std::unique_ptr<Lock>> DirectoryIo::lock(std::uint64_t byte, bool exclusive) {
  return lock_byte(directory_, byte, exclusive);
}

}  // namespace varve::storage
