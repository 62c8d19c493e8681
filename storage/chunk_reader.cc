// SPDX-License-Identifier: Apache-2.0
#include "storage/chunk_reader.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <map>
#include <optional>
#include <set>
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
constexpr unsigned kReadersMost = 8;                        // keep a disk busy
constexpr std::size_t kWindowsReady = 4;                    // read, and not yet taken to be unpacked
constexpr std::size_t kLookUpAtOnce = 64;                   // chunks
constexpr std::size_t kPartsAhead = 2;                      // that are read, or planned
constexpr std::size_t kPartsMost = 4;                       // with those of which the last windows are under way
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

// What is not marked otherwise belongs to the thread that runs.
struct ChunkReader::Part {
  std::vector<ChunkRequest> room;
  std::span<const ChunkRequest> requests;
  OpenMode mode = OpenMode::read;
  std::vector<Wanted> plan;                                // read by others; changes when nothing is under way
  std::size_t next = 0;                                    // of plan; under mutex_
  std::size_t under_way = 0;                               // windows; under mutex_
  std::map<std::uint32_t, std::vector<ChunkPlace>> tried;  // by request
  std::set<std::uint32_t> looked_again;                    // requests whose base had been collected

  bool is_begun() const { return next == plan.size(); }
  bool is_done() const { return is_begun() && under_way == 0; }
  void drop_begun() { plan.erase(plan.begin(), plan.begin() + static_cast<std::ptrdiff_t>(std::exchange(next, 0))); }
  void sort() {
    // A full image is asked for as it was written.
    if (!std::ranges::is_sorted(plan, {}, &Wanted::place)) std::ranges::sort(plan, {}, &Wanted::place);
  }
  void clear() {
    room.clear();
    requests = {};
    plan.clear();
    next = 0;
    tried.clear();
    looked_again.clear();
  }
};

struct ChunkReader::Window {
  Part* part = nullptr;
  SegmentView segment;
  std::uint32_t ordinal = 0;
  std::uint64_t begin = 0;
  std::size_t wanted_bytes = 0;
  std::span<const Wanted> items;
  std::span<std::byte> memory;  // taken for it; none: the buffer is the thread's own
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

// What a thread that reads keeps from one window to the next.
class ChunkReader::WindowReader {
 public:
  explicit WindowReader(ChunkReader& reader) : reader_(reader) {}

  /// False: it failed, which was told.
  bool read(Window& window) {
    const auto got = fill(window);
    if (got) {
      window.got = *got;
      return true;
    }
    if (file_ != nullptr && medium_failed(got.error())) {
      window.read_around(*file_);
      return true;
    }
    reader_.failed(window, window.items, got.error());
    return false;
  }

 private:
  Result<std::size_t> fill(Window& window) {
    if (window.memory.empty()) VARVE_TRY(make_own(window.wanted_bytes));
    window.buffer = (window.memory.empty() ? own_->bytes() : window.memory).first(window.wanted_bytes);
    VARVE_TRY(open_file_of(window));
    return file_->read(window.begin, window.buffer);
  }
  Status make_own(std::size_t bytes) {
    if (own_ != nullptr && own_->bytes().size() >= bytes) return {};
    // Sized for what is wanted at first: a single chunk does not cost a whole window of memory.
    const bool first = own_ == nullptr;
    own_.reset();
    VARVE_TRY_ASSIGN(own_, ReadBuffer::create(first ? bytes : kWindowBytes));
    return {};
  }
  Status open_file_of(const Window& window) {
    if (file_ != nullptr && ordinal_ == window.ordinal) return {};
    file_.reset();
    const std::string& name = window.segment.file;
    if (name.empty()) return os_error("reading a collected segment failed", ENOENT);
    VARVE_TRY_ASSIGN(file_, reader_.store_.io().open(name, window.part->mode));
    ordinal_ = window.ordinal;
    return {};
  }

  ChunkReader& reader_;
  std::unique_ptr<ReadBuffer> own_;
  std::unique_ptr<File> file_;
  std::uint32_t ordinal_ = 0;  // of file_
};

// What a thread that unpacks keeps.
struct ChunkReader::Unpacking {
  explicit Unpacking(ChunkReader& reader) : bases(reader.store_, kBaseFrames) {}
  FrameScratch scratch;
  StoredFrames bases;
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

ChunkReader::ChunkReader(StoreImplementation& store, RequestSource& source, unsigned threads,
                         const DeliverChunk& deliver)
    : store_(store),
      source_(source),
      readers_most_(threads == kAllProcessors ? kReadersMost : std::min(threads + 1, kReadersMost)),
      unpackers_most_(threads == kAllProcessors ? usable_processors() : threads + 1),
      deliver_(deliver) {}

ChunkReader::~ChunkReader() = default;

Status ChunkReader::run() {
  Status status = read_parts();
  const MutexLock lock(mutex_);
  ending_ = true;
  to_read_.notify_all();
  to_unpack_.notify_all();
  while (helpers_ != 0) changed_.wait(mutex_);
  return status;
}

Status ChunkReader::read_parts() {
  WindowReader reader(*this);
  Unpacking unpacking(*this);
  for (Window window;;) {
    switch (next_step(window)) {
      case Step::plan_again: VARVE_TRY(plan_again()); break;
      case Step::plan_part: VARVE_TRY(plan_part()); break;
      case Step::read:
        if (reader.read(window)) unpack(window, unpacking);
        done(window);
        break;
      case Step::unpack:
        unpack(window, unpacking);
        done(window);
        break;
      case Step::finish_part: finish_part(); break;
      case Step::end: return {};
    }
  }
}

ChunkReader::Step ChunkReader::next_step(Window& window) {
  const MutexLock lock(mutex_);
  for (;; changed_.wait(mutex_)) {
    if (!stopped_ && !parts_.empty() && parts_.front()->is_done()) return Step::finish_part;
    if (!stopped_ && wants_part()) return Step::plan_part;
    if (take_read(window)) return Step::unpack;
    if (readers_ == 0 && take(window)) return Step::read;
    if (stopped_ && !is_under_way()) return Step::plan_again;
    if (!stopped_ && parts_.empty()) return Step::end;
  }
}

bool ChunkReader::is_under_way() const {
  return std::ranges::any_of(parts_, [](const auto& part) { return part->under_way != 0; });
}

bool ChunkReader::wants_part() const {
  const auto ahead = std::ranges::count_if(parts_, [](const auto& part) { return !part->is_begun(); });
  return !exhausted_ && static_cast<std::size_t>(ahead) < kPartsAhead && parts_.size() < kPartsMost;
}

bool ChunkReader::take(Window& window) {
  if (stopped_ || ending_ || (readers_ != 0 && free_memory_.empty())) return false;
  const auto part = std::ranges::find_if(parts_, [](const auto& one) { return !one->is_begun(); });
  if (part == parts_.end()) return false;
  window = plan_window(**part, (*part)->next);
  (*part)->next += window.items.size();
  ++(*part)->under_way;
  if (readers_ != 0) {
    window.memory = free_memory_.back();
    free_memory_.pop_back();
  }
  return true;
}

bool ChunkReader::take_read(Window& window) {
  if (read_.empty()) return false;
  window = std::move(read_.front());
  read_.erase(read_.begin());
  return true;
}

void ChunkReader::done(const Window& window) {
  const MutexLock lock(mutex_);
  if (!window.memory.empty()) {
    free_memory_.push_back(window.memory);
    to_read_.notify_one();
  }
  --window.part->under_way;
  if (window.part->is_done() || stopped_) changed_.notify_one();
}

bool ChunkReader::wait_for(Role role, Window& window) {
  const MutexLock lock(mutex_);
  for (; !ending_; (role == Role::read ? to_read_ : to_unpack_).wait(mutex_))
    if (role == Role::read ? take(window) : take_read(window)) return true;
  return false;
}

void ChunkReader::help_read() {
  WindowReader reader(*this);
  for (Window window; wait_for(Role::read, window);) {
    if (!reader.read(window)) {
      done(window);
      continue;
    }
    const MutexLock lock(mutex_);
    read_.push_back(std::move(window));
    to_unpack_.notify_one();
    changed_.notify_one();
  }
}

void ChunkReader::help_unpack() {
  Unpacking unpacking(*this);
  for (Window window; wait_for(Role::unpack, window);) {
    unpack(window, unpacking);
    done(window);
  }
}

Status ChunkReader::plan_part() {
  std::unique_ptr<Part> part;
  if (spare_parts_.empty()) {
    part = std::make_unique<Part>();
  } else {
    part = std::move(spare_parts_.back());
    spare_parts_.pop_back();
  }
  part->requests = source_.next(part->room);
  if (part->requests.empty()) {
    const MutexLock lock(mutex_);
    exhausted_ = true;
    return {};
  }
  VARVE_TRY(look_up(*part));
  const unsigned helpers = helpers_for(*part);
  part->mode = helpers > 1 ? OpenMode::read_direct : OpenMode::read;
  {
    const MutexLock lock(mutex_);
    parts_.push_back(std::move(part));
    to_read_.notify_all();
  }
  if (helpers > 1) start_helpers(helpers);
  return {};
}

Status ChunkReader::look_up(Part& part) {
  VARVE_CHECK(part.requests.size() < std::uint64_t{1} << 32);
  part.plan.reserve(part.requests.size());
  std::array<std::optional<ChunkPlace>, kLookUpAtOnce> places;
  for (std::size_t first = 0; first < part.requests.size(); first += places.size()) {
    const auto some = part.requests.subspan(first, std::min(places.size(), part.requests.size() - first));
    store_.find_chunks(some, places);
    for (std::size_t i = 0; i < some.size(); ++i) {
      if (!places[i]) return not_stored(some[i]);
      part.plan.push_back({*places[i], static_cast<std::uint32_t>(first + i)});
    }
  }
  part.sort();
  return {};
}

void ChunkReader::finish_part() {
  std::unique_ptr<Part> part;
  {
    const MutexLock lock(mutex_);
    part = std::move(parts_.front());
    parts_.pop_front();
  }
  source_.finished(part->requests);
  part->clear();
  spare_parts_.push_back(std::move(part));
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

Status ChunkReader::plan_again() {
  std::vector<Failure> failures;
  {
    const MutexLock lock(mutex_);
    failures.swap(failures_);
  }
  const bool collected = std::ranges::any_of(
      failures, [](const Failure& failure) { return failure.error.code() == ErrorCode::not_found; });
  if (collected) VARVE_TRY(store_.refresh());  // garbage collection moved it: look again
  for (const Failure& failure : failures) failure.part->drop_begun();
  for (const Failure& failure : failures) {
    VARVE_TRY_ASSIGN(const ChunkPlace place, other_place(failure));
    failure.part->plan.push_back({place, failure.wanted.request});
  }
  for (const Failure& failure : failures) failure.part->sort();
  const MutexLock lock(mutex_);
  stopped_ = false;
  to_read_.notify_all();
  return {};
}

Result<ChunkPlace> ChunkReader::other_place(const Failure& failure) const {
  const auto& [part, wanted, error, of_base] = failure;
  const bool collected = error.code() == ErrorCode::not_found;
  if (of_base && collected && part->looked_again.insert(wanted.request).second) return wanted.place;
  const ChunkRequest& request = part->requests[wanted.request];
  std::vector<ChunkPlace>& tried = part->tried[wanted.request];
  tried.push_back(wanted.place);
  const auto place = store_.find_chunk(request.name, tried);
  if (place) return *place;
  return collected ? not_stored(request) : error;
}

unsigned ChunkReader::helpers_for(Part& part) {
  // Windows are counted only as far as it matters.
  const std::size_t enough = std::max(readers_most_, unpackers_most_) * kWindowsPerThread;
  for (std::size_t next = 0; next < part.plan.size() && windows_planned_ < enough; ++windows_planned_)
    next += plan_window(part, next).items.size();
  return static_cast<unsigned>(windows_planned_ / kWindowsPerThread);
}

void ChunkReader::start_helpers(unsigned wanted) {
  if (threads_ == nullptr) {
    const std::size_t windows = readers_most_ + unpackers_most_ + kWindowsReady;
    auto made = ReadBuffer::create(windows * kWindowBytes);
    if (!made) return;  // this thread alone, with memory of its own, if it gets some
    window_memory_ = std::move(*made);
    threads_ = IoThreads::share(readers_most_ + unpackers_most_ - 1);
    const MutexLock lock(mutex_);
    for (std::size_t i = 0; i < windows; ++i)
      free_memory_.push_back(window_memory_->bytes().subspan(i * kWindowBytes, kWindowBytes));
  }
  while (readers_started_ < std::min(wanted, readers_most_) && start_helper(Role::read)) ++readers_started_;
  if (readers_started_ == 0) return;  // it reads itself
  while (unpackers_started_ < std::min(wanted, unpackers_most_) && start_helper(Role::unpack)) ++unpackers_started_;
}

bool ChunkReader::start_helper(Role role) {
  {
    const MutexLock lock(mutex_);
    ++helpers_;
    if (role == Role::read) ++readers_;
  }
  if (threads_->submit({&help, this, static_cast<std::uint64_t>(role)})) return true;
  const MutexLock lock(mutex_);
  --helpers_;
  if (role == Role::read) --readers_;
  return false;
}

void ChunkReader::help(void* context, std::uint64_t role) {
  auto* reader = static_cast<ChunkReader*>(context);
  if (static_cast<Role>(role) == Role::read)
    reader->help_read();
  else
    reader->help_unpack();
  const MutexLock lock(reader->mutex_);
  --reader->helpers_;
  // SAFETY: notified under the lock: the reader ends when run() has the lock again.
  reader->changed_.notify_one();
}

ChunkReader::Window ChunkReader::plan_window(Part& part, std::size_t first) const {
  const std::vector<Wanted>& plan = part.plan;
  Window window;
  window.part = &part;
  window.ordinal = plan[first].place.segment;
  window.segment = store_.view(window.ordinal);
  window.begin = round_down(plan[first].place.offset, kIoAlignment);
  std::uint64_t end = plan[first].place.offset + kMaxFrameRecord;  // at most: how long a frame is stands in itself
  std::size_t last = first + 1;
  for (; last < plan.size(); ++last) {
    const ChunkPlace& place = plan[last].place;
    if (place.segment != window.ordinal || place.offset > end + kMaxGap) break;
    const std::uint64_t place_end = place.offset + kMaxFrameRecord;
    if (place_end - window.begin > kWindowBytes) {
      end = std::min(end, place.offset);  // it is another frame, and the one before ends there
      break;
    }
    end = place_end;
  }
  end = std::max(std::min(end, window.segment.end), window.begin);  // a view that is gone ends at 0
  window.wanted_bytes = static_cast<std::size_t>(round_up(end - window.begin, kIoAlignment));
  window.items = std::span(plan).subspan(first, last - first);
  return window;
}

void ChunkReader::unpack(const Window& window, Unpacking& unpacking) {
  std::span<const Wanted> items = window.items;
  while (!items.empty()) {
    const std::uint64_t offset = items.front().place.offset;
    const auto other = std::ranges::find_if(items, [&](const Wanted& item) { return item.place.offset != offset; });
    const std::span<const Wanted> of_frame(items.begin(), other);
    items = items.subspan(of_frame.size());
    const StoredAt at{window.segment.file, offset};
    const std::size_t from = std::min(static_cast<std::size_t>(offset - window.begin), window.got);
    auto unpacked = unpack_frame_record(std::span<const std::byte>(window.buffer).subspan(from, window.got - from),
                                        window.segment.key, at, store_.chunk_bytes(), unpacking.scratch);
    const Error* const unread = window.failure_at(offset);
    if (unpacked)
      deliver_frame(window, of_frame, *unpacked, at, unpacking.bases);
    else
      failed(window, of_frame, unread != nullptr ? *unread : unpacked.error());
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

void ChunkReader::deliver_frame(const Window& window, std::span<const Wanted> items, const UnpackedFrame& unpacked,
                                const StoredAt& at, StoredFrames& bases) {
  std::size_t next = 0;
  const auto fail_rest = [&](std::string cause) {
    failed(window, items.subspan(next), damaged("the frame", at, std::move(cause)));
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
          failed(window, items.subspan(next, 1), made.error(), true);
        continue;
      }
      content = *made;
    }
    if (store_.name_of(content) != chunk.name)
      return fail_rest(fmt::format("the content of chunk {} of it has another name", slot));
    for (; next < items.size() && items[next].place.slot == slot; ++next) {
      const ChunkRequest& request = window.part->requests[items[next].request];
      if (chunk.name != request.name || chunk.bytes != request.bytes)
        return fail_rest(fmt::format("chunk {} of it has {} bytes and the name {}, and {} bytes of {} were asked for",
                                     slot, chunk.bytes, to_string(chunk.name), request.bytes, to_string(request.name)));
      deliver_(request.tag, content);
    }
  }
  if (next != items.size()) fail_rest("it has fewer chunks than the index says");
}

void ChunkReader::failed(const Window& window, std::span<const Wanted> items, const Error& error, bool of_base) {
  const MutexLock lock(mutex_);
  for (const Wanted& item : items) failures_.push_back({window.part, item, error, of_base});
  stopped_ = true;
}

}  // namespace varve::storage
