// SPDX-License-Identifier: Apache-2.0
#include "storage/io_threads.h"

#include "base/niceness.h"
#include "base/signals.h"

namespace varve::storage {

std::shared_ptr<IoThreads> IoThreads::share(unsigned threads_max, std::optional<int> niceness) {
  return std::shared_ptr<IoThreads>(new IoThreads(threads_max, niceness), [](IoThreads* threads) {
    if (threads->owner_.is_this()) delete threads;
  });
}

IoThreads::~IoThreads() {
  std::vector<pthread_t> threads;
  {
    MutexLock lock(mutex_);
    ending_ = true;
    threads.swap(threads_);
  }
  changed_.notify_all();
  for (const pthread_t thread : threads) pthread_join(thread, nullptr);
}

bool IoThreads::submit(const Job& job) {
  {
    MutexLock lock(mutex_);
    if (idle_ <= queue_.size() && threads_.size() < threads_max_) start_thread();
    if (threads_.empty()) return false;
    queue_.push_back(job);
  }
  changed_.notify_one();
  return true;
}

void IoThreads::start_thread() {
  const BlockedSignals blocked;  // from the thread's first instant
  pthread_t thread{};
  if (pthread_create(&thread, nullptr, &main, this) == 0) {
    pthread_setname_np(thread, "varve-io");
    threads_.push_back(thread);
  }
}

void* IoThreads::main(void* self) {
  static_cast<IoThreads*>(self)->run();
  return nullptr;
}

void IoThreads::run() {
  if (niceness_) static_cast<void>(raise_niceness(*niceness_));  // whoever asked for it finds out in its own thread
  MutexLock lock(mutex_);
  while (true) {
    ++idle_;
    while (queue_.empty() && !ending_) changed_.wait(mutex_);
    --idle_;
    if (queue_.empty()) return;
    const Job job = queue_.front();
    queue_.pop_front();
    mutex_.unlock();
    job.run(job.context, job.argument);
    mutex_.lock();
  }
}

}  // namespace varve::storage
