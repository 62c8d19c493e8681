// SPDX-License-Identifier: Apache-2.0
#include "storage/posix_io.h"

#include <algorithm>

#include "base/check.h"
#include "base/mutex.h"
#include "base/try.h"
#include "storage/io_threads.h"
#include "storage/write_prefix.h"

namespace varve::storage {
namespace {

/// Each thread has one write under way.
constexpr unsigned kThreadsMax = 8;

class PosixFile final : public File {
 public:
  PosixFile(OpenFile file, std::shared_ptr<IoThreads> threads, unsigned depth)
      : file_(std::move(file)), threads_(std::move(threads)), state_(make_state(depth)) {}
  ~PosixFile() override {
    if (file_.owned()) wait_idle();
  }

  const std::string& name() const override { return file_.name(); }
  bool direct() const override { return file_.direct(); }
  Result<std::uint64_t> size_bytes() override;
  Result<std::size_t> read(std::uint64_t offset, std::span<std::byte> into) override {
    return file_.read(offset, into);
  }
  Status submit_write(std::uint64_t offset, std::span<const std::byte> bytes) override;
  std::uint64_t completed_writes() override;
  Status wait_writes(std::uint64_t count) override;
  Status drain() override;
  Status sync() override;
  Status allocate(std::uint64_t offset, std::uint64_t bytes) override;
  Status truncate(std::uint64_t size_bytes) override;

 private:
  struct Write {
    std::uint64_t offset = 0;
    std::span<const std::byte> bytes;
  };
  struct State {
    explicit State(unsigned depth) : prefix(depth), writes(depth) {}
    OwnerProcess owner;
    Mutex mutex;
    Condition ended;
    WritePrefix prefix VARVE_GUARDED_BY(mutex);
    std::vector<Write> writes VARVE_GUARDED_BY(mutex);  // by slot
  };
  /// In a forked child the state is leaked: a thread of the parent may wait in its condition.
  static std::shared_ptr<State> make_state(unsigned depth) {
    return std::shared_ptr<State>(new State(depth), [](State* state) {
      if (state->owner.is_this()) delete state;
    });
  }
  static void run(void* self, std::uint64_t index) { static_cast<PosixFile*>(self)->write(index); }
  void write(std::uint64_t index);
  void wait_idle();

  OpenFile file_;
  const std::shared_ptr<IoThreads> threads_;
  const std::shared_ptr<State> state_;
};

void PosixFile::write(std::uint64_t index) {
  State& state = *state_;
  Write write;
  {
    MutexLock lock(state.mutex);
    write = state.writes[state.prefix.slot(index)];
  }
  const int os_errno = file_.write_all(write.offset, write.bytes);
  MutexLock lock(state.mutex);
  if (os_errno != 0) state.prefix.fail(index, file_.write_error(write.offset, os_errno));
  state.prefix.end(index);
  // SAFETY: under the lock, since the file may be destroyed as soon as its last write has ended.
  state.ended.notify_all();
}

void PosixFile::wait_idle() {
  MutexLock lock(state_->mutex);
  while (!state_->prefix.idle()) state_->ended.wait(state_->mutex);
}

Status PosixFile::submit_write(std::uint64_t offset, std::span<const std::byte> bytes) {
  VARVE_CHECK(file_.aligned(offset, bytes));
  if (!file_.owned()) return file_.refusal("write");
  std::uint64_t index = 0;
  {
    State& state = *state_;
    MutexLock lock(state.mutex);
    while (state.prefix.full()) state.ended.wait(state.mutex);
    VARVE_TRY(state.prefix.error());
    index = state.prefix.submit();
    state.writes[state.prefix.slot(index)] = {.offset = offset, .bytes = bytes};
  }
  if (!threads_->submit({&PosixFile::run, this, index})) write(index);
  return {};
}

std::uint64_t PosixFile::completed_writes() {
  if (!file_.owned()) return 0;
  MutexLock lock(state_->mutex);
  return state_->prefix.prefix();
}

Status PosixFile::wait_writes(std::uint64_t count) {
  if (!file_.owned()) return file_.refusal("write");
  State& state = *state_;
  MutexLock lock(state.mutex);
  VARVE_CHECK(count <= state.prefix.submitted());
  while (state.prefix.prefix() < count) state.ended.wait(state.mutex);
  return state.prefix.error();
}

Status PosixFile::drain() {
  if (!file_.owned()) return file_.refusal("write");
  wait_idle();
  MutexLock lock(state_->mutex);
  return state_->prefix.take_error();
}

Status PosixFile::sync() {
  VARVE_TRY(drain());
  return file_.flush();
}

Result<std::uint64_t> PosixFile::size_bytes() {
  if (file_.owned()) wait_idle();
  return file_.size_bytes();
}

Status PosixFile::allocate(std::uint64_t offset, std::uint64_t bytes) {
  if (file_.owned()) wait_idle();
  return file_.allocate(offset, bytes);
}

Status PosixFile::truncate(std::uint64_t size_bytes) {
  if (file_.owned()) wait_idle();
  return file_.truncate(size_bytes);
}

class PosixIo final : public DirectoryIo {
 public:
  PosixIo(Directory directory, const Options& options)
      : DirectoryIo(std::move(directory), options),
        threads_(IoThreads::share(std::min(queue_depth(), kThreadsMax), niceness())) {}

 protected:
  std::unique_ptr<File> make_file(OpenFile file) override {
    return std::make_unique<PosixFile>(std::move(file), threads_, queue_depth());
  }

 private:
  const std::shared_ptr<IoThreads> threads_;
};

}  // namespace

std::unique_ptr<Io> make_posix_io(Directory directory, const DirectoryIo::Options& options) {
  return std::make_unique<PosixIo>(std::move(directory), options);
}

}  // namespace varve::storage
