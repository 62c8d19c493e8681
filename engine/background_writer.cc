// SPDX-License-Identifier: Apache-2.0
#include "engine/background_writer.h"

#include <pthread.h>

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "base/niceness.h"
#include "base/os_error.h"
#include "base/signals.h"

namespace varve {
namespace {

/// Failures kept for wait() and close(); beyond it those in the middle are forgotten, their tickets know them still.
constexpr std::size_t kFailuresMax = 64;
constexpr std::size_t kSpareRunsMax = 256;
/// Between looks for an image to write, which waits for that long.
constexpr std::uint64_t kWarmUpSliceNs = 2'000'000;

}  // namespace

BackgroundWriter::~BackgroundWriter() { stop(Stop::drop); }

Status BackgroundWriter::start(int niceness) {
  niceness_ = niceness;
  const BlockedSignals blocked;  // inherited by the thread
  pthread_t thread;
  const int refused = pthread_create(
      &thread, nullptr,
      [](void* self) -> void* {
        static_cast<BackgroundWriter*>(self)->run();
        return nullptr;
      },
      this);
  if (refused != 0)
    return os_error("start of the background writer failed", refused,
                    "raise the limit of threads (ulimit -u, the cgroup's pids.max)");
  thread_ = thread;
  return {};
}

void BackgroundWriter::push(std::shared_ptr<ImageJob> job) {
  MutexLock lock(mutex_);
  queue_.push_back(std::move(job));
  ++pushed_;
  changed_.notify_all();
}

void BackgroundWriter::warm_up() {
  MutexLock lock(mutex_);
  warming_up_ = true;
  changed_.notify_all();
}

std::size_t BackgroundWriter::in_flight() {
  MutexLock lock(mutex_);
  return static_cast<std::size_t>(pushed_ - resolved_);
}

std::uint64_t BackgroundWriter::failed() {
  MutexLock lock(mutex_);
  return failed_;
}

std::vector<std::shared_ptr<TicketState>> BackgroundWriter::tickets_in_flight() {
  MutexLock lock(mutex_);
  std::vector<std::shared_ptr<TicketState>> tickets;
  for (const auto& job : queue_)
    if (!job->ticket->ready()) tickets.push_back(job->ticket);
  return tickets;
}

bool BackgroundWriter::label_in_flight(const std::string& label) {
  MutexLock lock(mutex_);
  return std::any_of(queue_.begin(), queue_.end(),
                     [&](const auto& job) { return job->label == label && !job->ticket->ready(); });
}

void BackgroundWriter::wait_for_room(std::size_t in_flight_max) {
  MutexLock lock(mutex_);
  while (pushed_ - resolved_ >= in_flight_max) changed_.wait(mutex_);
}

void BackgroundWriter::wait_resolved() {
  MutexLock lock(mutex_);
  const std::uint64_t wanted = pushed_;
  while (resolved_ < wanted) changed_.wait(mutex_);
}

void BackgroundWriter::wait_idle() {
  MutexLock lock(mutex_);
  ++waiting_for_idle_;  // maintenance makes way
  while (busy_ || !queue_.empty()) changed_.wait(mutex_);
  --waiting_for_idle_;
}

std::optional<Error> BackgroundWriter::take_failure(Failure which) {
  std::vector<std::shared_ptr<TicketState>> failures;
  {
    MutexLock lock(mutex_);
    failures.swap(failures_);
  }
  std::optional<Error> taken;
  for (const auto& ticket : failures)
    if (auto error = ticket->take_error(); error.has_value() && (which == Failure::last || !taken.has_value()))
      taken = std::move(error);
  return taken;
}

void BackgroundWriter::stop(Stop how) {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    if (how == Stop::drop) dropping_.store(true);
    changed_.notify_all();
  }
  if (thread_.has_value()) pthread_join(*thread_, nullptr);
  thread_.reset();
}

tracker::PageRuns BackgroundWriter::take_spare_runs() {
  MutexLock lock(mutex_);
  if (spare_runs_.empty()) return {};
  auto runs = std::move(spare_runs_.back());
  spare_runs_.pop_back();
  return runs;
}

std::uint64_t BackgroundWriter::memory_bytes() {
  MutexLock lock(mutex_);
  std::uint64_t bytes = 0;
  for (const auto& runs : spare_runs_) bytes += runs.capacity() * sizeof(tracker::PageRange);
  for (const auto& job : queue_)
    for (const auto& cut : job->regions) bytes += cut.suspects.capacity() * sizeof(tracker::PageRange);
  return bytes;
}

void BackgroundWriter::run() {
  pthread_setname_np(pthread_self(), "varve-writer");
  if (!raise_niceness(niceness_))
    log::warn_once("engine", "the background runs at the program's priority: setpriority(2) is refused here");
  while (const auto job = next_job()) process(*job);
}

std::shared_ptr<ImageJob> BackgroundWriter::next_job() {
  {
    MutexLock lock(mutex_);
    busy_ = false;
    changed_.notify_all();
  }
  while (take_warm_up())
    if (writer_.warm_up() || capturer_.warm_up(kWarmUpSliceNs)) warm_up();
  MutexLock lock(mutex_);
  while (queue_.empty() && !stopping_) changed_.wait(mutex_);
  if (queue_.empty()) return nullptr;
  busy_ = true;
  return queue_.front();  // it stays there until it is resolved: in flight
}

/// Waits until there is something to do. True: only memory to warm up.
bool BackgroundWriter::take_warm_up() {
  MutexLock lock(mutex_);
  while (queue_.empty() && !stopping_ && !warming_up_) changed_.wait(mutex_);
  if (!queue_.empty() || stopping_) return false;
  warming_up_ = false;
  return true;
}

void BackgroundWriter::process(ImageJob& job) {
  const std::uint64_t begin_ns = monotonic_ns();
  std::vector<ReducedRegion> reduced;
  auto result = writer_.write(job, reduced, dropping_);
  const bool committed = result.has_value();
  {
    // Resolved and no longer in flight are one step for those who hold the mutex: a label, a count and a failure are
    // never seen half.
    MutexLock lock(mutex_);
    job.ticket->resolve(std::move(result));
    if (!committed) {
      ++failed_;
      std::erase_if(failures_, [](const auto& ticket) { return ticket->asked(); });
      if (failures_.size() >= kFailuresMax) failures_.erase(failures_.begin() + kFailuresMax / 2);
      failures_.push_back(job.ticket);
    }
    ++resolved_;
    changed_.notify_all();
  }
  if (committed && !dropping_.load()) cooler_.after_commit(job, reduced);
  {
    MutexLock lock(mutex_);
    give_back(job);
    queue_.pop_front();
    changed_.notify_all();
  }
  warm_up();  // for the cuts to come: what they will need, and no more, while nothing waits
  if (committed) maintenance_.go_on(writer_.line().parent, monotonic_ns() - begin_ns, [this] { return demand(); });
}

Maintenance::Demand BackgroundWriter::demand() {
  MutexLock lock(mutex_);
  if (stopping_ || waiting_for_idle_ != 0) return Maintenance::Demand::all;
  return queue_.empty() ? Maintenance::Demand::none : Maintenance::Demand::image;
}

void BackgroundWriter::give_back(ImageJob& job) {
  for (auto& cut : job.regions) {
    if (cut.suspects.capacity() == 0 || spare_runs_.size() >= kSpareRunsMax) continue;
    cut.suspects.clear();
    spare_runs_.push_back(std::move(cut.suspects));
  }
}

}  // namespace varve
