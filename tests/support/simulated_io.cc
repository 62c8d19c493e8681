// SPDX-License-Identifier: Apache-2.0
#include "tests/support/simulated_io.h"

#include <algorithm>
#include <cerrno>

#include "base/check.h"
#include "base/os_error.h"
#include "base/try.h"
#include "storage/chunk_name.h"
#include "storage/directory.h"
#include "tests/support/simulated_state.h"

namespace varve::test {
namespace {

using storage::File;
using storage::OpenMode;

const std::string kDirectory = "/simulated";

Error error_of(const char* action, std::string_view name, int os_errno) {
  return os_error(std::string(action) + " " + kDirectory + (name.empty() ? "" : "/") + std::string(name) + " failed",
                  os_errno);
}

class SimulatedFile final : public File {
 public:
  SimulatedFile(std::shared_ptr<SimulatedState> state, std::string name, SimulatedNodePointer node, OpenMode mode,
                std::uint64_t epoch)
      : state_(std::move(state)),
        handle_(std::move(name), std::move(node), mode != OpenMode::read, state_->options.queue_depth),
        direct_(state_->options.direct && (mode == OpenMode::create_direct || mode == OpenMode::write_direct)),
        epoch_(epoch) {
    MutexLock lock(state_->mutex);
    state_->handles.insert(&handle_);
  }
  ~SimulatedFile() override {
    MutexLock lock(state_->mutex);
    land_all();
    state_->handles.erase(&handle_);
  }

  const std::string& name() const override { return handle_.name; }
  bool direct() const override { return direct_; }
  Result<std::uint64_t> size_bytes() override;
  Result<std::size_t> read(std::uint64_t offset, std::span<std::byte> into) override;
  Status submit_write(std::uint64_t offset, std::span<const std::byte> bytes) override;
  std::uint64_t completed_writes() override;
  Status wait_writes(std::uint64_t count) override;
  Status drain() override;
  Status sync() override;
  Status allocate(std::uint64_t offset, std::uint64_t bytes) override;
  Status truncate(std::uint64_t size_bytes) override;

 private:
  void land_all() VARVE_REQUIRES(state_->mutex) {
    while (!handle_.flights.empty()) state_->land_one(handle_);
  }
  /// Some writes end while the program does other things.
  void land_some() VARVE_REQUIRES(state_->mutex) {
    while (!handle_.flights.empty() && state_->random.coin()) state_->land_one(handle_);
  }
  Status begin(SimulatedOperation operation, const char* action) VARVE_REQUIRES(state_->mutex) {
    const int os_errno = state_->begin(operation, handle_.name, epoch_);
    return os_errno == 0 ? Status() : Status(error_of(action, handle_.name, os_errno));
  }

  const std::shared_ptr<SimulatedState> state_;
  SimulatedHandle handle_;
  const bool direct_;
  const std::uint64_t epoch_;
};

Result<std::uint64_t> SimulatedFile::size_bytes() {
  MutexLock lock(state_->mutex);
  if (!state_->alive(epoch_)) return error_of("look at the size of", handle_.name, EIO);
  land_all();
  return handle_.node->seen.size();
}

Result<std::size_t> SimulatedFile::read(std::uint64_t offset, std::span<std::byte> into) {
  MutexLock lock(state_->mutex);
  VARVE_TRY(begin(SimulatedOperation::read, "read of"));
  land_some();
  return handle_.node->seen.read(offset, into);
}

Status SimulatedFile::submit_write(std::uint64_t offset, std::span<const std::byte> bytes) {
  const auto address = reinterpret_cast<std::uintptr_t>(bytes.data());
  VARVE_CHECK(!direct_ || (offset | bytes.size() | address) % storage::kIoAlignment == 0);
  MutexLock lock(state_->mutex);
  if (!state_->alive(epoch_)) return error_of("write of", handle_.name, EIO);
  land_some();
  while (handle_.prefix.full()) state_->land_one(handle_);
  VARVE_TRY(handle_.prefix.error());
  int os_errno = state_->begin(SimulatedOperation::write, handle_.name, epoch_);
  if (state_->power_off) return error_of("write of", handle_.name, EIO);
  if (!handle_.writable) os_errno = EBADF;
  handle_.flights.push_back({.index = handle_.prefix.submit(),
                             .offset = offset,
                             .bytes = bytes,
                             .checksum = storage::checksum(bytes, 0),
                             .os_errno = os_errno});
  return {};
}

std::uint64_t SimulatedFile::completed_writes() {
  MutexLock lock(state_->mutex);
  land_some();
  return handle_.prefix.prefix();
}

Status SimulatedFile::wait_writes(std::uint64_t count) {
  MutexLock lock(state_->mutex);
  VARVE_CHECK(count <= handle_.prefix.submitted());
  while (handle_.prefix.prefix() < count) state_->land_one(handle_);
  return handle_.prefix.error();
}

Status SimulatedFile::drain() {
  MutexLock lock(state_->mutex);
  land_all();
  return handle_.prefix.take_error();
}

Status SimulatedFile::sync() {
  VARVE_TRY(drain());
  MutexLock lock(state_->mutex);
  const Status status = begin(SimulatedOperation::sync, "sync of");
  if (status)
    state_->sync(*handle_.node);
  else if (state_->alive(epoch_))
    state_->fail_sync(*handle_.node);
  return status;
}

Status SimulatedFile::allocate(std::uint64_t offset, std::uint64_t bytes) {
  MutexLock lock(state_->mutex);
  land_all();
  VARVE_TRY(begin(SimulatedOperation::allocate, "reservation of space for"));
  if (handle_.writable && offset + bytes <= handle_.node->seen.size()) return {};
  const int os_errno = !handle_.writable ? EBADF : state_->resize(*handle_.node, offset + bytes);
  return os_errno == 0 ? Status() : Status(error_of("reservation of space for", handle_.name, os_errno));
}

Status SimulatedFile::truncate(std::uint64_t size_bytes) {
  MutexLock lock(state_->mutex);
  land_all();
  VARVE_TRY(begin(SimulatedOperation::truncate, "truncation of"));
  const int os_errno = !handle_.writable ? EINVAL : state_->resize(*handle_.node, size_bytes);
  return os_errno == 0 ? Status() : Status(error_of("truncation of", handle_.name, os_errno));
}

class SimulatedLock final : public storage::Lock {
 public:
  SimulatedLock(std::shared_ptr<SimulatedState> state, std::uint64_t byte, std::uint64_t epoch)
      : state_(std::move(state)), byte_(byte), epoch_(epoch) {}
  ~SimulatedLock() override {
    MutexLock lock(state_->mutex);
    if (state_->epoch != epoch_) return;
    const auto held = state_->locks.find(byte_);
    if (--held->second.count == 0) state_->locks.erase(held);
  }

 private:
  const std::shared_ptr<SimulatedState> state_;
  const std::uint64_t byte_;
  const std::uint64_t epoch_;
};

class SimulatedIo final : public storage::Io {
 public:
  explicit SimulatedIo(std::shared_ptr<SimulatedState> state) : state_(std::move(state)) {
    MutexLock lock(state_->mutex);
    epoch_ = state_->epoch;
  }

  storage::IoKind kind() const override { return storage::IoKind::posix; }
  const std::string& why() const override { return why_; }
  const std::string& directory() const override { return kDirectory; }
  Result<storage::FileSystemTraits> file_system() override;
  Result<std::unique_ptr<File>> open(std::string_view name, OpenMode mode) override;
  Result<std::vector<std::string>> list(std::string_view folder) override;
  Status make_directory(std::string_view name) override;
  Status rename(std::string_view from, std::string_view to) override;
  Status remove(std::string_view name) override;
  Status sync_directory(std::string_view folder) override;
  Result<std::unique_ptr<storage::Lock>> lock(std::uint64_t byte, bool exclusive) override;
  void fill_random(std::span<std::byte> into) override;

 private:
  /// Counts the operation, plays its faults and checks the name.
  Status begin(SimulatedOperation operation, const char* action, std::string_view name) VARVE_REQUIRES(state_->mutex) {
    const bool store_itself =
        name.empty() && (operation == SimulatedOperation::list || operation == SimulatedOperation::sync_directory);
    if (!store_itself) VARVE_TRY(storage::check_name(action, kDirectory, name));
    return outcome(action, name, state_->begin(operation, name, epoch_));
  }
  static Status outcome(const char* action, std::string_view name, int os_errno) {
    return os_errno == 0 ? Status() : Status(error_of(action, name, os_errno));
  }

  const std::shared_ptr<SimulatedState> state_;
  std::uint64_t epoch_ = 0;
  const std::string why_ = "simulated";
};

Result<storage::FileSystemTraits> SimulatedIo::file_system() {
  MutexLock lock(state_->mutex);
  if (!state_->alive(epoch_)) return error_of("look at the file system of", "", EIO);
  const std::uint64_t used = state_->used_bytes();
  storage::FileSystemTraits traits;
  traits.type = "simulated";
  traits.durable = state_->options.durable;
  traits.direct = state_->options.direct;
  traits.free_bytes = state_->capacity_bytes > used ? state_->capacity_bytes - used : 0;
  return traits;
}

Result<std::unique_ptr<File>> SimulatedIo::open(std::string_view name, OpenMode mode) {
  const bool create = mode == OpenMode::create || mode == OpenMode::create_direct;
  const char* const action = create ? "creation of" : "open of";
  SimulatedNodePointer node;
  {
    MutexLock lock(state_->mutex);
    VARVE_TRY(begin(SimulatedOperation::open, action, name));
    SimulatedState::Found found = state_->find_file(name);
    if (create && (found.node != nullptr || found.os_errno == EISDIR)) found.os_errno = EEXIST;
    if (create && found.os_errno == ENOENT) found.os_errno = state_->check_folder(storage::folder_of(name));
    VARVE_TRY(outcome(action, name, found.os_errno));
    node = std::move(found.node);
    if (create) {
      node = std::make_shared<SimulatedNode>();
      state_->change_names({.entries = {{std::string(name), node}}});
    }
  }
  return std::unique_ptr<File>(
      std::make_unique<SimulatedFile>(state_, std::string(name), std::move(node), mode, epoch_));
}

Result<std::vector<std::string>> SimulatedIo::list(std::string_view folder) {
  MutexLock lock(state_->mutex);
  VARVE_TRY(begin(SimulatedOperation::list, "list of", folder));
  VARVE_TRY(outcome("list of", folder, state_->check_folder(folder)));
  std::vector<std::string> found;
  for (const auto& [name, node] : state_->names)
    if (storage::folder_of(name) == folder) found.emplace_back(storage::leaf_of(name));
  return found;
}

Status SimulatedIo::make_directory(std::string_view name) {
  MutexLock lock(state_->mutex);
  VARVE_TRY(begin(SimulatedOperation::make_directory, "creation of directory", name));
  const int os_errno = state_->find_file(name).os_errno;
  if (os_errno == EISDIR) return {};
  if (os_errno != ENOENT) return error_of("creation of directory", name, os_errno == 0 ? EEXIST : os_errno);
  auto node = std::make_shared<SimulatedNode>();
  node->folder = true;
  state_->change_names({.entries = {{std::string(name), std::move(node)}}});
  return {};
}

Status SimulatedIo::rename(std::string_view from, std::string_view to) {
  MutexLock lock(state_->mutex);
  VARVE_TRY(storage::check_name("rename to", kDirectory, to));
  VARVE_TRY(begin(SimulatedOperation::rename, "rename of", from));
  const SimulatedState::Found found = state_->find_file(from);
  VARVE_TRY(outcome("rename of", from, found.os_errno));
  const SimulatedState::Found replaced = state_->find_file(to);
  const bool free = replaced.os_errno == ENOENT && state_->check_folder(storage::folder_of(to)) == 0;
  if (replaced.os_errno != 0 && !free) return error_of("rename to", to, replaced.os_errno);
  if (from != to) state_->change_names({.entries = {{std::string(from), nullptr}, {std::string(to), found.node}}});
  return {};
}

Status SimulatedIo::remove(std::string_view name) {
  MutexLock lock(state_->mutex);
  VARVE_TRY(begin(SimulatedOperation::remove, "removal of", name));
  VARVE_TRY(outcome("removal of", name, state_->find_file(name).os_errno));
  state_->change_names({.entries = {{std::string(name), nullptr}}});
  return {};
}

Status SimulatedIo::sync_directory(std::string_view folder) {
  MutexLock lock(state_->mutex);
  VARVE_TRY(begin(SimulatedOperation::sync_directory, "sync of", folder));
  VARVE_TRY(outcome("sync of", folder, state_->check_folder(folder)));
  state_->sync_directory(folder);
  return {};
}

Result<std::unique_ptr<storage::Lock>> SimulatedIo::lock(std::uint64_t byte, bool exclusive) {
  MutexLock lock(state_->mutex);
  VARVE_TRY(begin(SimulatedOperation::lock, "lock of", "lock"));
  if (!state_->names.contains("lock")) state_->change_names({.entries = {{"lock", std::make_shared<SimulatedNode>()}}});
  SimulatedState::LockHolders& holders = state_->locks[byte];
  if (holders.count > 0 && (exclusive || holders.exclusive))
    return fail(ErrorCode::busy,
                {"lock of " + kDirectory + "/lock refused", "another holder has byte " + std::to_string(byte),
                 "wait until it has ended, and try again"},
                EAGAIN);
  holders = {.exclusive = exclusive, .count = holders.count + 1};
  return std::unique_ptr<storage::Lock>(std::make_unique<SimulatedLock>(state_, byte, epoch_));
}

void SimulatedIo::fill_random(std::span<std::byte> into) {
  MutexLock lock(state_->mutex);
  for (std::byte& byte : into) byte = static_cast<std::byte>(state_->ids.next());
}

}  // namespace

std::unique_ptr<storage::Io> SimulatedDisk::open() { return std::make_unique<SimulatedIo>(state_); }

}  // namespace varve::test
