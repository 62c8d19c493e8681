// SPDX-License-Identifier: Apache-2.0
#include "storage/segment_writer.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>

#include "base/bytes.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/fault_point.h"
#include "base/huge_memory.h"
#include "base/os_error.h"
#include "base/try.h"

namespace varve::storage {
namespace {

constexpr std::string_view kTemporarySuffix = ".new";
// Preallocation never takes more than this part of what is free, and is not worth it in small steps.
constexpr std::uint64_t kFreePart = 8;
constexpr std::uint64_t kMinStep = std::uint64_t{1} << 20;
constexpr std::uint64_t kKeptPart = 8;  // of the largest step, behind what was synced
// Each step waits for all that is in flight. A part of what is expected to begin with costs a large image less of that,
// and one that turns out smaller little.
constexpr std::uint64_t kFirstPart = 64;
constexpr std::uint64_t kLargestFirstStep = std::uint64_t{64} << 20;

}  // namespace

Result<std::unique_ptr<WriteBuffers>> WriteBuffers::create() {
  static_assert((kBytes + kMoreBytes) * kCount <= kMemoryBytes && kMemoryBytes % kHugePageBytes == 0);
  std::byte* const memory = map_huge(kMemoryBytes, PROT_READ | PROT_WRITE);
  if (memory == nullptr) return os_error("allocating buffers to write a segment failed", errno);
  return std::unique_ptr<WriteBuffers>(new WriteBuffers(memory));
}

WriteBuffers::~WriteBuffers() { munmap(memory_, kMemoryBytes); }

bool WriteBuffers::warm_up() {
  // The first use says what is wrong.
  if (warm_bytes_ == kMemoryBytes || !populate(memory_ + warm_bytes_, kHugePageBytes)) return false;
  warm_bytes_ += kHugePageBytes;
  return true;
}

SegmentWriter::SegmentWriter(Io& io, WriteBuffers& buffers, std::string name, const SegmentWriterOptions& options)
    : io_(io), name_(std::move(name)), options_(options), buffers_(buffers) {}

SegmentWriter::~SegmentWriter() = default;

Result<std::unique_ptr<SegmentWriter>> SegmentWriter::create(Io& io, WriteBuffers& buffers, const SegmentHeader& header,
                                                             std::span<const std::byte> notes,
                                                             const SegmentWriterOptions& options) {
  VARVE_CHECK(notes.size() % kBlockBytes == 0);
  const std::string name = to_string(header.name);
  const std::string temporary = name.substr(0, name.rfind('.')).append(kTemporarySuffix);
  {
    VARVE_TRY_ASSIGN(const std::unique_ptr<File> file, io.open(temporary, OpenMode::create));
    std::vector<std::byte> content = encode_segment_header(header);
    content.insert(content.end(), notes.begin(), notes.end());
    VARVE_TRY(file->submit_write(0, content));
    VARVE_TRY(file->sync());
  }
  VARVE_FAULT_POINT(segment_created);
  VARVE_TRY(io.rename(temporary, name));
  VARVE_TRY(io.sync_directory(kSegmentFolder));
  VARVE_FAULT_POINT(segment_directory_synced);
  std::unique_ptr<SegmentWriter> writer(new SegmentWriter(io, buffers, name, options));
  VARVE_TRY_ASSIGN(writer->file_, io.open(name, OpenMode::write_direct));
  writer->restart_buffer(kSegmentHeaderBytes + notes.size());
  writer->allocated_ = writer->buffer_begin_;
  return writer;
}

void SegmentWriter::restart_buffer(std::uint64_t offset) {
  buffer_begin_ = offset;
  fill_ = 0;
  full_ = WriteBuffers::kBytes - static_cast<std::size_t>(offset % WriteBuffers::kBytes);
  submitted_ = 0;
}

void SegmentWriter::expect(std::uint64_t bytes) {
  const std::uint64_t first = round_down(std::min(bytes / kFirstPart, kLargestFirstStep), kBlockBytes);
  next_step_ = std::max(next_step_, std::min(first, options_.preallocate_bytes));
}

Result<std::span<std::byte>> SegmentWriter::room(std::size_t bytes) {
  VARVE_CHECK(bytes <= kMaxRoom);
  watch_disk();
  VARVE_TRY(submit_held(WriteBuffers::kInFlight));
  if (fill_ >= full_) VARVE_TRY(next_buffer());
  return buffers_.at(current_).subspan(fill_);
}

void SegmentWriter::advance(std::size_t bytes) {
  VARVE_CHECK(bytes <= buffers_.at(current_).size() - fill_);
  fill_ += bytes;
}

Status SegmentWriter::append(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    if (fill_ >= full_) VARVE_TRY(next_buffer());
    const std::size_t part = std::min(bytes.size(), full_ - fill_);
    std::memcpy(buffers_.at(current_).data() + fill_, bytes.data(), part);
    fill_ += part;
    bytes = bytes.subspan(part);
  }
  return {};
}

Status SegmentWriter::pad(std::size_t alignment) {
  static constexpr std::array<std::byte, kBlockBytes> kZeros{};
  const std::uint64_t padding = round_up(offset(), alignment) - offset();
  return append(std::span(kZeros).first(static_cast<std::size_t>(padding)));
}

void SegmentWriter::preallocate(std::uint64_t until) {
  while (options_.preallocate_bytes != 0 && until > allocated_) {
    auto traits = io_.file_system();
    const std::uint64_t free_bytes = traits ? traits->free_bytes : 0;
    const std::uint64_t step =
        round_down(std::min({next_step_, options_.preallocate_bytes, free_bytes / kFreePart}), kBlockBytes);
    // Where space is short or the file system can't, the writes themselves take what they need, or say what is wrong.
    if (step < kMinStep || !file_->allocate(allocated_, step)) {
      options_.preallocate_bytes = 0;
      return;
    }
    allocated_ += step;
    next_step_ = std::min(next_step_ * 2, options_.preallocate_bytes);
  }
}

void SegmentWriter::give_back() {
  const std::uint64_t kept = round_up(std::max(options_.preallocate_bytes / kKeptPart, kMinStep), kBlockBytes);
  if (allocated_ <= buffer_begin_ + kept) return;
  if (!file_->truncate(buffer_begin_ + kept)) return;  // it stays until the segment is sealed
  allocated_ = buffer_begin_ + kept;
  next_step_ = kFirstStep;
}

Status SegmentWriter::submit_up_to(std::size_t bytes) {
  VARVE_CHECK(bytes % kIoAlignment == 0 && bytes <= fill_);
  if (bytes <= submitted_) return {};
  preallocate(buffer_begin_ + bytes);
  held_.push_back({buffer_begin_ + submitted_, buffers_.at(current_).subspan(submitted_, bytes - submitted_)});
  submitted_ = bytes;
  last_write_[current_] = ++writes_;
  return submit_held(WriteBuffers::kInFlight);
}

Status SegmentWriter::submit_held(std::uint64_t in_flight) {
  while (!held_.empty()) {
    const std::uint64_t submitted = writes_ - held_.size();
    if (submitted - file_->completed_writes() >= in_flight) return {};
    const Held next = held_.front();
    held_.pop_front();
    if (busy_since_ns_ == 0) busy_since_ns_ = monotonic_ns();  // before: a write that is paced waits within
    VARVE_TRY(file_->submit_write(next.offset, next.bytes));
    busy_bytes_ += next.bytes.size();
  }
  return {};
}

Status SegmentWriter::submit_all_held() { return submit_held(std::numeric_limits<std::uint64_t>::max()); }

// At each frame: a write of a buffer takes some times as long, so that its end is seen soon enough.
void SegmentWriter::watch_disk() {
  if (busy_since_ns_ == 0 || file_->completed_writes() < writes_ - held_.size()) return;
  busy_ns_ += monotonic_ns() - std::exchange(busy_since_ns_, 0);
  // Without O_DIRECT writes end in the page cache: only the flush says what the disk takes.
  if (file_->direct() && busy_bytes_ >= DiskSpeed::kFewestBytes) count_disk();
}

void SegmentWriter::count_disk() {
  buffers_.disk_speed().add(busy_bytes_, busy_ns_);
  forget_disk();
}

void SegmentWriter::forget_disk() { busy_since_ns_ = busy_ns_ = busy_bytes_ = 0; }

Status SegmentWriter::next_buffer() {
  const std::size_t whole = std::max(full_, submitted_);
  const std::size_t rest = fill_ - whole;
  VARVE_TRY(submit_up_to(whole));
  // The lowest free one: a small image stays in memory that is warm already.
  const std::uint64_t ended = file_->completed_writes();
  std::size_t next = current_;
  std::size_t oldest = current_;
  for (std::size_t i = 0; i < WriteBuffers::kCount; ++i) {
    if (i == current_) continue;
    if (next == current_ && last_write_[i] <= ended) next = i;
    if (oldest == current_ || last_write_[i] < last_write_[oldest]) oldest = i;
  }
  if (next == current_) {
    VARVE_TRY(file_->wait_writes(last_write_[oldest]));
    VARVE_TRY(submit_held(WriteBuffers::kInFlight));
    next = oldest;
  }
  std::memcpy(buffers_.at(next).data(), buffers_.at(current_).data() + whole, rest);
  current_ = next;
  restart_buffer(buffer_begin_ + whole);
  fill_ = rest;
  return {};
}

Status SegmentWriter::submit() {
  VARVE_CHECK(offset() % kBlockBytes == 0);
  return submit_up_to(fill_);
}

Status SegmentWriter::sync() {
  VARVE_TRY(submit());
  VARVE_TRY(submit_all_held());
  if (busy_since_ns_ == 0) busy_since_ns_ = monotonic_ns();
  VARVE_TRY(file_->sync());
  busy_ns_ += monotonic_ns() - busy_since_ns_;
  count_disk();
  restart_buffer(offset());  // everything has ended: the same buffer again
  give_back();
  return {};
}

Status SegmentWriter::rewind(std::uint64_t offset) {
  VARVE_CHECK(offset % kBlockBytes == 0 && offset <= this->offset());
  VARVE_TRY(submit_all_held());  // numbers of writes go on
  VARVE_TRY(file_->drain());
  forget_disk();
  restart_buffer(offset);
  return {};
}

Status SegmentWriter::truncate() {
  VARVE_TRY(submit());
  VARVE_TRY(submit_all_held());
  VARVE_TRY(file_->drain());
  VARVE_TRY(file_->truncate(offset()));
  allocated_ = offset();
  return {};
}

Status SegmentWriter::read_back(std::uint64_t offset, std::span<std::byte> into) {
  VARVE_CHECK(offset + into.size() <= this->offset());
  if (offset < buffer_begin_) {
    const std::size_t part = static_cast<std::size_t>(std::min<std::uint64_t>(into.size(), buffer_begin_ - offset));
    VARVE_TRY(submit_all_held());
    VARVE_TRY(file_->wait_writes(writes_));
    VARVE_TRY_ASSIGN(const std::size_t got, file_->read(offset, into.first(part)));
    if (got != part) return damaged("the frame", {name_, offset}, "the file ends before it");
    offset += part;
    into = into.subspan(part);
  }
  if (!into.empty()) std::memcpy(into.data(), buffers_.at(current_).data() + (offset - buffer_begin_), into.size());
  return {};
}

}  // namespace varve::storage
