// SPDX-License-Identifier: Apache-2.0
#include "storage/frame_workers.h"

#include "base/clock.h"

namespace varve::storage {

std::unique_ptr<FrameScratch> ScratchPool::take() {
  {
    const MutexLock lock(mutex_);
    if (!free_.empty()) {
      std::unique_ptr<FrameScratch> scratch = std::move(free_.back());
      free_.pop_back();
      return scratch;
    }
  }
  return std::make_unique<FrameScratch>();
}

void ScratchPool::give(std::unique_ptr<FrameScratch> scratch) {
  const MutexLock lock(mutex_);
  free_.push_back(std::move(scratch));
}

FrameJob::FrameJob() : memory(new std::byte[kFrameRawBytes]), raw(memory.get()) { chunks.reserve(kFrameChunks); }

void FrameJob::clear() {
  raw = memory.get();
  raw_bytes = 0;
  most_chunks = kFrameChunks;
  in_place = {};
  chunks.clear();
  previous.clear();
  replaces = false;
  moved_difference = false;
  asked_for_difference = false;
  bases.clear();
  base_ns = 0;
}

FrameEncoder::FrameEncoder(unsigned threads, std::optional<int> niceness)
    : threads_(IoThreads::share(threads, niceness)) {}

FrameEncoder::~FrameEncoder() = default;

void FrameEncoder::start(FrameJob& job) {
  if (job.payload == nullptr) job.payload.reset(new std::byte[max_frame_payload(kFrameChunks, kFrameRawBytes)]);
  {
    const MutexLock lock(mutex_);
    job.running = true;
  }
  const auto argument = reinterpret_cast<std::uintptr_t>(&job);
  if (!threads_->submit({&run, this, argument})) run(this, argument);
}

void FrameEncoder::run(void* encoder, std::uint64_t argument) {
  auto& self = *static_cast<FrameEncoder*>(encoder);
  // SAFETY: start() made this number of a job that lives until wait() has returned.
  auto& job = *reinterpret_cast<FrameJob*>(static_cast<std::uintptr_t>(argument));
  std::unique_ptr<FrameScratch> scratch = self.scratches_.take();
  const std::size_t room = max_frame_payload(job.chunks.size(), job.raw_bytes);
  const std::uint64_t begin_ns = monotonic_ns();
  job.payload_bytes = encode_frame(job.content(), job.chunks, job.choice, *scratch, {job.payload.get(), room},
                                   job.compressed, job.difference());
  job.encode_ns = monotonic_ns() - begin_ns;
  self.scratches_.give(std::move(scratch));
  const MutexLock lock(self.mutex_);
  job.running = false;
  self.changed_.notify_all();
}

void FrameEncoder::wait(FrameJob& job) {
  const MutexLock lock(mutex_);
  while (job.running) changed_.wait(mutex_);
}

}  // namespace varve::storage
