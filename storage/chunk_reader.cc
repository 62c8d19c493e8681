// SPDX-License-Identifier: Apache-2.0
#include "storage/chunk_reader.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "base/bytes.h"
#include "base/check.h"
#include "base/huge_memory.h"
#include "base/os_error.h"
#include "base/processors.h"
#include "base/try.h"
#include "storage/aligned_buffer.h"

namespace varve::storage {
namespace {

constexpr std::size_t kWindowBytes = std::size_t{1} << 20;
constexpr std::uint64_t kMaxGap = std::uint64_t{64} << 10;  // read over rather than begin another window
constexpr std::size_t kWindowsPerThread = 2;                // less is not worth starting one
constexpr unsigned kReadersMost = 16;                       // half of them keep a disk busy while the others unpack
constexpr std::size_t kLookUpAtOnce = 64;                   // chunks
constexpr std::size_t kBaseFrames = 4;                      // that each thread keeps
constexpr std::size_t kHeapBytes = std::size_t{128} << 10;  // not worth a mapping

}  // namespace

/// Memory for windows: in huge pages; a small one is of the heap, which is warm.
class ChunkReader::ReadBuffer {
 public:
  static Result<std::unique_ptr<ReadBuffer>> create(std::size_t bytes) {
    if (bytes <= kHeapBytes) return std::unique_ptr<ReadBuffer>(new ReadBuffer(AlignedBuffer(bytes)));
    const std::size_t mapped = round_up(bytes, kHugePageBytes);
    std::byte* const memory = map_huge(mapped, PROT_READ | PROT_WRITE);
    if (memory == nullptr) return os_error("allocating a buffer to read chunks failed", errno);
    return std::unique_ptr<ReadBuffer>(new ReadBuffer({memory, mapped}));
  }
  ~ReadBuffer() {
    if (heap_.data() == nullptr) munmap(bytes_.data(), bytes_.size());
  }
  ReadBuffer(const ReadBuffer&) = delete;
  ReadBuffer& operator=(const ReadBuffer&) = delete;

  std::span<std::byte> bytes() const { return bytes_; }

 private:
  explicit ReadBuffer(std::span<std::byte> bytes) : bytes_(bytes) {}
  explicit ReadBuffer(AlignedBuffer heap) : heap_(std::move(heap)), bytes_(heap_.span()) {}
  AlignedBuffer heap_;  // empty: `bytes_` is a mapping
  std::span<std::byte> bytes_;
};

struct ChunkReader::Window {
  SegmentView segment;
  std::uint32_t ordinal = 0;
  std::uint64_t begin = 0;
  std::size_t wanted_bytes = 0;
  std::span<const Wanted> items;
  std::span<std::byte> buffer;
  std::size_t got = 0;
  std::vector<std::pair<std::uint64_t, Error>> bad;  // blocks that the medium can't give, ascending

  /// Why a frame at this offset may be wrong.
  const Error* failure_at(std::uint64_t offset) const {
    for (const auto& [block, error] : bad)
      if (block + kIoAlignment > offset && block < offset + kMaxFrameRecord) return &error;
    return nullptr;
  }
  /// Block by block, when it failed as a whole: what lies beside a bad block is good.
  void read_around(File& file) {
    got = 0;
    bad.clear();
    for (std::size_t at = 0; at < buffer.size(); at += kIoAlignment) {
      const auto block = buffer.subspan(at, std::min(kIoAlignment, buffer.size() - at));
      const auto bytes = file.read(begin + at, block);
      if (!bytes) {
        std::ranges::fill(block, std::byte{0});
        bad.emplace_back(begin + at, bytes.error());
      }
      got = at + (bytes ? *bytes : block.size());
      if (bytes && *bytes < block.size()) return;
    }
  }
};

// What a thread keeps from one window to the next.
class ChunkReader::Worker {
 public:
  /// `memory`: for its windows, or none.
  Worker(ChunkReader& reader, std::span<std::byte> memory)
      : reader_(reader), memory_(memory), bases_(reader.store_, kBaseFrames) {}

  void run(Window& window) {
    if (auto buffer = memory_for(window); !buffer) return reader_.failed(window.items, buffer.error());
    if (auto file = file_of(window); !file) return reader_.failed(window.items, file.error());
    const auto got = file_->read(window.begin, window.buffer);
    if (got)
      window.got = *got;
    else if (medium_failed(got.error()))
      window.read_around(*file_);
    else
      return reader_.failed(window.items, got.error());
    reader_.decode(window, scratch_, bases_);
  }

 private:
  Status memory_for(Window& window) {
    if (memory_.size() < window.wanted_bytes) {
      // Sized for what is wanted at first: a single chunk does not cost a whole window of memory.
      own_.reset();
      VARVE_TRY_ASSIGN(own_, ReadBuffer::create(memory_.empty() ? window.wanted_bytes : kWindowBytes));
      memory_ = own_->bytes();
    }
    window.buffer = memory_.first(window.wanted_bytes);
    return {};
  }
  Status file_of(const Window& window) {
    if (file_ != nullptr && ordinal_ == window.ordinal) return {};
    file_.reset();
    const std::string& name = window.segment.file;
    if (name.empty()) return os_error("reading a collected segment failed", ENOENT);
    VARVE_TRY_ASSIGN(file_, reader_.store_.io().open(name, reader_.mode_));
    ordinal_ = window.ordinal;
    return {};
  }

  ChunkReader& reader_;
  std::span<std::byte> memory_;
  std::unique_ptr<ReadBuffer> own_;
  std::unique_ptr<File> file_;
  std::uint32_t ordinal_ = 0;  // of file_
  FrameScratch scratch_;
  StoredFrames bases_;
};

Result<UnpackedFrame> unpack_frame_record(std::span<const std::byte> bytes, std::uint64_t key, const StoredAt& at,
                                          std::uint32_t chunk_bytes, FrameScratch& scratch) {
  if (bytes.size() < kRecordHeaderBytes) return damaged("the frame", at, "the file ends before it");
  VARVE_TRY_ASSIGN(const RecordHeader header, decode_record_header(std::span<const std::byte, kRecordHeaderBytes>(
                                                                       bytes.data(), kRecordHeaderBytes),
                                                                   key, at, bytes.size() - kRecordHeaderBytes));
  if (header.type != RecordType::frame) return damaged("the frame", at, "there is another record at its place");
  const auto payload = bytes.subspan(kRecordHeaderBytes, static_cast<std::size_t>(header.payload_bytes));
  if (!payload_matches(header, payload, key)) return damaged("the frame", at, "its checksum is wrong");
  UnpackedFrame unpacked;
  VARVE_TRY_ASSIGN(unpacked.frame, parse_frame(payload, chunk_bytes, at));
  VARVE_TRY_ASSIGN(unpacked.raw, unpack_frame(unpacked.frame, scratch, at));
  return unpacked;
}

ChunkReader::ChunkReader(StoreImplementation& store, std::span<const ChunkRequest> requests, unsigned threads,
                         const DeliverChunk& deliver, const ReadProgress& progress)
    : store_(store),
      requests_(requests),
      threads_max_(threads != kAllProcessors ? threads + 1 : std::max(usable_processors(), kReadersMost)),
      deliver_(deliver),
      progress_(progress) {}

ChunkReader::~ChunkReader() = default;

Status ChunkReader::run() {
  VARVE_TRY(first_plan());
  if (progress_.planned) progress_.planned();
  while (!plan_.empty()) {
    const std::size_t done = run_plan();
    VARVE_TRY(next_plan({plan_.begin() + static_cast<std::ptrdiff_t>(done), plan_.end()}));
  }
  return {};
}

Error ChunkReader::not_stored(const ChunkRequest& request) const {
  // What can't be read is not known to be damaged: a later try may succeed.
  if (const auto failure = store_.read_failure())
    return fail(failure->code(),
                {fmt::format("reading chunk {} of store {} failed", to_string(request.name), store_.io().directory()),
                 fmt::format("{}: {}", failure->what(), failure->cause()), failure->remedy()},
                failure->os_errno());
  return fail(ErrorCode::corruption,
              {fmt::format("reading chunk {} of store {} failed", to_string(request.name), store_.io().directory()),
               "no readable segment holds it",
               "run `varve verify` on the store to see what is damaged or missing, and restore another image"});
}

Status ChunkReader::first_plan() {
  VARVE_CHECK(requests_.size() < std::uint64_t{1} << 32);
  plan_.reserve(requests_.size());
  std::array<std::optional<ChunkPlace>, kLookUpAtOnce> places;
  for (std::size_t first = 0; first < requests_.size(); first += places.size()) {
    const auto some = requests_.subspan(first, std::min(places.size(), requests_.size() - first));
    store_.find_chunks(some, places);
    for (std::size_t i = 0; i < some.size(); ++i) {
      if (!places[i]) return not_stored(some[i]);
      plan_.push_back({*places[i], static_cast<std::uint32_t>(first + i)});
    }
  }
  // A full image is asked for as it was written.
  if (!std::ranges::is_sorted(plan_, {}, &Wanted::place)) std::ranges::sort(plan_, {}, &Wanted::place);
  return {};
}

Status ChunkReader::next_plan(std::vector<Wanted> rest) {
  plan_ = std::move(rest);
  std::vector<Failure> failures;
  {
    const MutexLock lock(mutex_);
    failures.swap(failures_);
  }
  const bool collected = std::ranges::any_of(
      failures, [](const Failure& failure) { return failure.error.code() == ErrorCode::not_found; });
  if (collected) VARVE_TRY(store_.refresh());  // garbage collection moved it: look again
  for (const Failure& failure : failures) {
    if (failure.of_base && failure.error.code() == ErrorCode::not_found &&
        looked_again_.insert(failure.wanted.request).second) {
      plan_.push_back(failure.wanted);
      continue;
    }
    std::vector<ChunkPlace>& tried = tried_[failure.wanted.request];
    tried.push_back(failure.wanted.place);
    const auto place = store_.find_chunk(requests_[failure.wanted.request].name, tried);
    if (!place && failure.error.code() == ErrorCode::not_found) return not_stored(requests_[failure.wanted.request]);
    if (!place) return failure.error;
    plan_.push_back({*place, failure.wanted.request});
  }
  std::ranges::sort(plan_, {}, &Wanted::place);
  return {};
}

std::size_t ChunkReader::run_plan() {
  {
    const MutexLock lock(mutex_);
    next_ = 0;
    workers_ = 0;
  }
  start_helpers();
  work();
  const MutexLock lock(mutex_);
  while (helpers_ != 0) changed_.wait(mutex_);
  return next_;
}

void ChunkReader::start_helpers() {
  // Windows are counted only as far as it matters.
  const std::size_t enough = std::size_t{threads_max_} * kWindowsPerThread;
  std::size_t windows = 0;
  for (std::size_t next = 0; next < plan_.size() && windows < enough; ++windows) next += plan_window(next).items.size();
  const auto wanted = static_cast<unsigned>(windows / kWindowsPerThread);
  mode_ = wanted > 1 ? OpenMode::read_direct : OpenMode::read;
  if (wanted > 1 && (windows_ == nullptr || windows_->bytes().size() < wanted * kWindowBytes)) {
    windows_.reset();
    auto made = ReadBuffer::create(wanted * kWindowBytes);
    if (!made) return;  // one thread, with memory of its own, if it gets some
    windows_ = std::move(*made);
  }
  for (unsigned i = 1; i < wanted; ++i) {
    if (threads_ == nullptr) threads_ = IoThreads::share(threads_max_ - 1);
    {
      const MutexLock lock(mutex_);
      ++helpers_;
    }
    if (threads_->submit({&help, this, 0})) continue;
    const MutexLock lock(mutex_);
    --helpers_;
    return;
  }
}

void ChunkReader::help(void* context, std::uint64_t) {
  auto* reader = static_cast<ChunkReader*>(context);
  reader->work();
  const MutexLock lock(reader->mutex_);
  --reader->helpers_;
  // SAFETY: notified under the lock: the reader ends when run_plan() has the lock again.
  reader->changed_.notify_all();
}

void ChunkReader::work() {
  std::span<std::byte> memory;
  if (windows_ != nullptr) {
    const MutexLock lock(mutex_);
    memory = windows_->bytes().subspan(workers_++ * kWindowBytes, kWindowBytes);
  }
  Worker worker(*this, memory);
  for (Window window; take(window);) worker.run(window);
}

bool ChunkReader::take(Window& window) {
  bool is_last = false;
  {
    const MutexLock lock(mutex_);
    if (next_ == plan_.size() || !failures_.empty()) return false;
    window = plan_window(next_);
    next_ += window.items.size();
    is_last = next_ == plan_.size() && !std::exchange(told_last_begun_, true);
  }
  if (is_last && progress_.last_begun) progress_.last_begun();
  return true;
}

ChunkReader::Window ChunkReader::plan_window(std::size_t first) const {
  Window window;
  window.ordinal = plan_[first].place.segment;
  window.segment = store_.view(window.ordinal);
  window.begin = round_down(plan_[first].place.offset, kIoAlignment);
  std::uint64_t end = plan_[first].place.offset + kMaxFrameRecord;
  std::size_t last = first + 1;
  for (; last < plan_.size(); ++last) {
    const ChunkPlace& place = plan_[last].place;
    const std::uint64_t place_end = place.offset + kMaxFrameRecord;
    if (place.segment != window.ordinal || place.offset > end + kMaxGap || place_end - window.begin > kWindowBytes)
      break;
    end = place_end;
  }
  end = std::max(std::min(end, window.segment.end), window.begin);  // a view that is gone ends at 0
  window.wanted_bytes = static_cast<std::size_t>(round_up(end - window.begin, kIoAlignment));
  window.items = std::span(plan_).subspan(first, last - first);
  return window;
}

void ChunkReader::decode(const Window& window, FrameScratch& scratch, StoredFrames& bases) {
  std::span<const Wanted> items = window.items;
  while (!items.empty()) {
    const std::uint64_t offset = items.front().place.offset;
    const auto other = std::ranges::find_if(items, [&](const Wanted& item) { return item.place.offset != offset; });
    const std::span<const Wanted> of_frame(items.begin(), other);
    items = items.subspan(of_frame.size());
    const StoredAt at{window.segment.file, offset};
    const std::size_t from = std::min(static_cast<std::size_t>(offset - window.begin), window.got);
    auto unpacked = unpack_frame_record(std::span<const std::byte>(window.buffer).subspan(from, window.got - from),
                                        window.segment.key, at, store_.chunk_bytes(), scratch);
    const Error* const unread = window.failure_at(offset);
    if (unpacked)
      deliver_frame(of_frame, *unpacked, at, bases);
    else
      failed(of_frame, unread != nullptr ? *unread : unpacked.error());
  }
}

Result<std::span<const std::byte>> ChunkReader::undo(const FrameView& frame, std::uint32_t slot,
                                                     std::span<const std::byte> raw, const StoredAt& at,
                                                     StoredFrames& bases, std::span<std::byte> into) const {
  const ChunkName base = frame.base(slot);
  if (base == kNoBase) return raw;
  const auto content = bases.base(base, raw.size(), {});
  if (!content) {
    const Error& error = content.error();
    return fail(
        error.code(),
        {fmt::format("reading chunk {} in {} failed", to_string(frame.chunk(slot).name), to_string(at)),
         fmt::format("it is stored as a difference to another: {}: {}", error.what(), error.cause()), error.remedy()},
        error.os_errno());
  }
  xor_bytes(raw, *content, into.first(raw.size()));
  return std::span<const std::byte>(into.first(raw.size()));
}

void ChunkReader::deliver_frame(std::span<const Wanted> items, const UnpackedFrame& unpacked, const StoredAt& at,
                                StoredFrames& bases) {
  std::size_t next = 0;
  const auto fail_rest = [&](std::string cause) {
    failed(items.subspan(next), damaged("the frame", at, std::move(cause)));
  };
  std::span<const std::byte> raw = unpacked.raw;
  std::vector<std::byte> undone(unpacked.frame.is_difference() ? store_.chunk_bytes() : 0);
  for (std::uint32_t slot = 0; slot < unpacked.frame.chunks && next < items.size(); ++slot) {
    const FrameChunk chunk = unpacked.frame.chunk(slot);
    std::span<const std::byte> content = raw.first(chunk.bytes);
    raw = raw.subspan(chunk.bytes);
    if (items[next].place.slot != slot) continue;
    if (unpacked.frame.is_difference()) {
      const auto made = undo(unpacked.frame, slot, content, at, bases, undone);
      if (!made) {
        for (; next < items.size() && items[next].place.slot == slot; ++next)
          failed(items.subspan(next, 1), made.error(), true);
        continue;
      }
      content = *made;
    }
    if (store_.name_of(content) != chunk.name)
      return fail_rest(fmt::format("the content of chunk {} of it has another name", slot));
    for (; next < items.size() && items[next].place.slot == slot; ++next) {
      const ChunkRequest& request = requests_[items[next].request];
      if (chunk.name != request.name || chunk.bytes != request.bytes)
        return fail_rest(fmt::format("chunk {} of it has {} bytes and the name {}, and {} bytes of {} were asked for",
                                     slot, chunk.bytes, to_string(chunk.name), request.bytes, to_string(request.name)));
      deliver_(request.tag, content);
    }
  }
  if (next != items.size()) fail_rest("it has fewer chunks than the index says");
}

void ChunkReader::failed(std::span<const Wanted> items, const Error& error, bool of_base) {
  const MutexLock lock(mutex_);
  for (const Wanted& item : items) failures_.push_back({item, error, of_base});
}

}  // namespace varve::storage
