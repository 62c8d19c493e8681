// SPDX-License-Identifier: Apache-2.0
#include "storage/store.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "base/bytes.h"
#include "base/check.h"
#include "base/fault_point.h"
#include "base/log.h"
#include "base/os_error.h"
#include "base/try.h"
#include "storage/chain_lock.h"
#include "storage/chain_writer.h"
#include "storage/chunk_reader.h"
#include "storage/manifest_reader.h"
#include "storage/store_implementation.h"

namespace varve::storage {
namespace {

constexpr std::string_view kNewStoreRemedy = "name an empty or a new directory for a new store";

/// Whether the directory holds what only a store leaves that was in use: then a missing varve.store is damage.
Result<bool> was_used(Io& io, const std::vector<std::string>& entries) {
  if (std::ranges::find(entries, kSegmentFolder) != entries.end()) {
    VARVE_TRY_ASSIGN(const std::vector<SegmentName> segments, list_segments(io));
    if (!segments.empty()) return true;
  }
  if (std::ranges::find(entries, kInventoryFile) == entries.end()) return false;
  auto content = read_file(io, kInventoryFile, std::uint64_t{64} << 20);
  if (!content) return content.error();
  auto inventory = decode_inventory(*content);
  return inventory && inventory->generation > 1;  // else: the creation of a store was cut short
}

/// Refuses to make a store where something else is.
Status check_empty(Io& io) {
  VARVE_TRY_ASSIGN(const std::vector<std::string> entries, io.list(""));
  for (const std::string& entry : entries) {
    const bool ours = entry == kSegmentFolder || entry == kLockFile || entry == kInventoryFile ||
                      entry == kInventoryFileNew || entry == kStoreFileNew || entry == "lost+found";  // a mount point
    if (!ours)
      return fail(
          ErrorCode::invalid_argument,
          {fmt::format("making a store in {} refused", io.directory()),
           fmt::format("the directory holds other files ('{}') and no store", entry), std::string(kNewStoreRemedy)});
  }
  VARVE_TRY_ASSIGN(const bool used, was_used(io, entries));
  if (used)
    return damaged(fmt::format("the store {}", io.directory()), {kStoreFile, 0},
                   "the file is missing, and there are segments");
  return {};
}

Error no_store(const Io& io) {
  return fail(ErrorCode::not_found, {fmt::format("opening the store {} failed", io.directory()),
                                     "there is no store in this directory", "check the path"});
}

Result<StoreIdentity> create_store(Io& io, const StoreOptions& options) {
  StoreIdentity identity;
  identity.chunk_bytes = options.chunk_bytes == 0 ? kMinChunkBytes : options.chunk_bytes;
  if (!is_power_of_two(identity.chunk_bytes) || identity.chunk_bytes < kMinChunkBytes ||
      identity.chunk_bytes > kMaxChunkBytes)
    return fail(ErrorCode::invalid_argument,
                {fmt::format("making a store in {} refused", io.directory()),
                 fmt::format("a chunk size of {} bytes is not possible", options.chunk_bytes),
                 "use a power of two from 4096 to 65536"});
  VARVE_TRY(check_empty(io));
  io.fill_random(identity.id);
  io.fill_random(identity.secret);
  VARVE_TRY(io.make_directory(kSegmentFolder));
  VARVE_TRY(io.sync_directory(""));
  VARVE_FAULT_POINT(store_created_directory);
  Inventory inventory;
  inventory.store = identity.id;
  VARVE_TRY(write_inventory(io, inventory));
  VARVE_TRY(write_store_file(io, identity));
  VARVE_FAULT_POINT(store_created_file);
  return identity;
}

Result<StoreIdentity> open_identity(Io& io, const StoreOptions& options) {
  auto identity = read_store_file(io);
  if (identity || identity.error().code() != ErrorCode::not_found) return identity;
  if (!options.create) {
    VARVE_TRY_ASSIGN(const std::vector<std::string> entries, io.list(""));
    VARVE_TRY_ASSIGN(const bool used, was_used(io, entries));
    if (!used) return no_store(io);
    return damaged(fmt::format("the store {}", io.directory()), {kStoreFile, 0},
                   "the file is missing, and there are segments");
  }
  VARVE_TRY_ASSIGN(const std::unique_ptr<Lock> table, lock_table(io));
  identity = read_store_file(io);  // somebody may have made it meanwhile
  if (identity || identity.error().code() != ErrorCode::not_found) return identity;
  return create_store(io, options);
}

}  // namespace

Result<std::unique_ptr<Store>> Store::open(std::unique_ptr<Io> io, const StoreOptions& options) {
  VARVE_TRY_ASSIGN(const StoreIdentity identity, open_identity(*io, options));
  auto store = std::make_unique<StoreImplementation>(std::move(io), options, identity);
  VARVE_TRY(store->load_file_system());
  VARVE_TRY(store->refresh());
  return std::unique_ptr<Store>(std::move(store));
}

StoreImplementation::StoreImplementation(std::unique_ptr<Io> io, const StoreOptions& options,
                                         const StoreIdentity& identity)
    : io_(std::move(io)), options_(options), identity_(identity) {}

std::string StoreImplementation::id() const { return to_hex(identity_.id); }

Status StoreImplementation::load_file_system() {
  VARVE_TRY_ASSIGN(file_system_, io_->file_system());
  return {};
}

ImageSummary StoreImplementation::summary(const std::string& chain, const Catalogue::Image& image,
                                          const std::string& label, bool pinned) {
  ImageSummary line;
  line.chain = chain;
  line.number = image.summary.number;
  line.parent = image.summary.parent;
  line.revision = image.summary.revision;
  line.kind = image.summary.kind;
  line.time_ns = image.summary.time_ns;
  line.label = label;
  line.region_bytes = image.summary.region_bytes;
  line.written_bytes = image.summary.written_bytes;
  line.segment = to_string(segment(image.segment).name);
  line.offset = image.summary.offset;
  line.pinned = pinned;
  return line;
}

std::vector<ImageSummary> StoreImplementation::images() {
  std::vector<ImageSummary> lines;
  const MutexLock lock(mutex_);
  catalogue_.each([&](const std::string& chain, const Catalogue::Image& image, const std::string& label, bool pinned)
                      VARVE_NO_THREAD_SAFETY_ANALYSIS { lines.push_back(summary(chain, image, label, pinned)); });
  return lines;
}

Result<ImageSummary> StoreImplementation::newest_image(std::string_view chain) {
  const auto hidden = [&](std::string cause, int read_errno) {
    return fail(read_errno == 0 ? ErrorCode::corruption : ErrorCode::io,
                {fmt::format("looking for the newest image of chain '{}' of store {} failed", chain, io_->directory()),
                 std::move(cause),
                 read_errno == 0 ? "run `varve verify`, and restore an older image by its number"
                                 : "check the device (dmesg); `varve verify` lists the images that can still be read: "
                                   "restore one of them by its number"},
                read_errno);
  };
  std::uint64_t newest = 0;
  {
    const MutexLock lock(mutex_);
    newest = catalogue_.newest_number(chain);
    const auto line = inventory_.chains.find(std::string(chain));
    if (line != inventory_.chains.end() && line->second.newest_number > newest &&
        !catalogue_.retired(chain, line->second.newest_number))
      return hidden(fmt::format("image {} was recorded and can't be found", line->second.newest_number), 0);
    for (const Segment& known : segments_)
      if (known.unreadable && may_hide(known, chain))  // not what a living writer has open and we may not flush
        return hidden(fmt::format("{} can't be read{}, and may hold a newer one", to_string(known.name),
                                  known.read_errno == 0 ? "" : ": " + describe_errno(known.read_errno)),
                      known.read_errno);
  }
  std::vector<ImageSummary> all = images();
  for (ImageSummary& line : all)
    if (line.chain == chain && line.number == newest) return std::move(line);
  return fail(ErrorCode::not_found,
              {fmt::format("looking for the newest image of chain '{}' of store {} failed", chain, io_->directory()),
               "the chain has no image", "check the chain's name, or make a checkpoint first"});
}

std::optional<Error> StoreImplementation::read_failure() {
  const MutexLock lock(mutex_);
  for (const Segment& known : segments_)
    if (known.unreadable && !known.gone && known.read_errno != 0)
      return os_error(fmt::format("read of {}/{} failed", io_->directory(), to_string(known.name)), known.read_errno,
                      "check the device (dmesg); `varve verify` lists the images that can still be read");
  return std::nullopt;
}

std::vector<std::string> StoreImplementation::damage() {
  const MutexLock lock(mutex_);
  std::vector<std::string> all = damage_;
  for (const Segment& known : segments_) all.insert(all.end(), known.damage.begin(), known.damage.end());
  return all;
}

Result<std::shared_ptr<Lock>> StoreImplementation::hold() {
  // One for all in this process: who has it is never kept waiting by a collector that waits for it.
  const MutexLock lock(share_mutex_);
  if (std::shared_ptr<Lock> shared = shared_.lock()) return shared;
  VARVE_TRY_ASSIGN(std::unique_ptr<Lock> taken, lock_store_shared(*io_));
  std::shared_ptr<Lock> shared(std::move(taken));
  shared_ = shared;
  return shared;
}

std::string StoreImplementation::hiding_segment(std::string_view chain) {
  const MutexLock lock(mutex_);
  const auto found = std::ranges::find_if(segments_, [&](const Segment& known) { return may_hide(known, chain); });
  return found == segments_.end() ? std::string() : to_string(found->name);
}

Result<Manifest> StoreImplementation::read_manifest(std::string_view chain, std::uint64_t number) {
  VARVE_TRY_ASSIGN(const std::shared_ptr<Lock> shared, hold());
  VARVE_TRY(refresh_if_collected());
  FooterImage image;
  SegmentView where;
  {
    const MutexLock lock(mutex_);
    const Catalogue::Image* found = catalogue_.find(chain, number);
    if (found == nullptr)
      return fail(ErrorCode::not_found,
                  {fmt::format("reading image {} of chain '{}' of store {} failed", number, chain, io_->directory()),
                   "there is no such image", "look at `varve list` for those that exist"});
    image = found->summary;
    const Segment& known = segment(found->segment);
    where = {to_string(known.name), known.key, known.end};
  }
  VARVE_TRY_ASSIGN(Manifest manifest, read_manifest_record(*io_, where, image.offset));
  if (manifest.chain != chain || manifest.number != number || manifest.chunk_bytes != identity_.chunk_bytes)
    return damaged("the manifest", {where.file, image.offset},
                   fmt::format("it is of image {} of chain '{}'", manifest.number, manifest.chain));
  return manifest;
}

namespace {

class ListedRequests final : public RequestSource {
 public:
  explicit ListedRequests(std::span<const ChunkRequest> requests) : requests_(requests) {}
  std::span<const ChunkRequest> next(std::vector<ChunkRequest>&) override { return std::exchange(requests_, {}); }
  void finished(std::span<const ChunkRequest>) override {}

 private:
  std::span<const ChunkRequest> requests_;
};

}  // namespace

Status Store::read_chunks(std::span<const ChunkRequest> requests, unsigned threads, const DeliverChunk& deliver) {
  if (requests.empty()) return {};
  ListedRequests source(requests);
  return read_chunks(source, threads, deliver);
}

Status StoreImplementation::read_chunks(RequestSource& source, unsigned threads, const DeliverChunk& deliver) {
  VARVE_TRY_ASSIGN(const std::shared_ptr<Lock> shared, hold());
  VARVE_TRY(refresh_if_collected());
  ChunkReader reader(*this, source, threads, deliver);
  return reader.run();
}

Result<std::unique_ptr<ChainWriter>> StoreImplementation::open_chain(std::string_view chain) {
  VARVE_TRY(check_chain_name(chain));
  VARVE_TRY_ASSIGN(std::unique_ptr<ChainLock> lock, ChainLock::acquire(*io_, chain));
  // Whoever made the store, or renewed its inventory, may have died between the rename and the flush of the name. What
  // this writer commits is to be found again.
  VARVE_TRY(io_->sync_directory(""));
  VARVE_TRY(refresh());  // what others wrote to this chain since
  VARVE_TRY(check_inventory_was_read());
  settle_inventory();
  VARVE_TRY(recover_chain(std::string(chain)));
  return make_chain_writer(*this, std::string(chain), std::move(lock));
}

StoreStatistics StoreImplementation::statistics() {
  const MutexLock lock(mutex_);
  StoreStatistics statistics;
  statistics.indexed_chunks = index_.size();
  statistics.index_bytes = index_.memory_bytes();
  for (const Segment& known : segments_) {
    if (known.gone) continue;
    ++statistics.segments;
    statistics.stored_bytes += std::max(known.file_bytes, known.end);
  }
  statistics.writer_bytes = writer_bytes_;
  return statistics;
}

template <class Accept>
std::optional<ChunkPlace> StoreImplementation::find_plain_first(const ChunkName& name, Accept&& accept) {
  std::optional<ChunkPlace> difference;
  const auto plain = index_.find(name, [&](const ChunkPlace& place) {
    if (!accept(place)) return false;
    if (place.difference && !difference) difference = place;
    return !place.difference;
  });
  return plain ? plain : difference;
}

bool StoreImplementation::reusable(const ChunkPlace& place, std::uint32_t own) {
  const Segment& known = segment(place.segment);
  return place.segment == own || (place.offset < known.durable_end && !known.leaving);
}

std::optional<ChunkPlace> StoreImplementation::find_chunk(const ChunkName& name, std::span<const ChunkPlace> tried) {
  const MutexLock lock(mutex_);
  return find_plain_first(name,
                          [&](const ChunkPlace& place) { return std::ranges::find(tried, place) == tried.end(); });
}

void StoreImplementation::find_chunks(std::span<const ChunkRequest> requests,
                                      std::span<std::optional<ChunkPlace>> places) {
  const MutexLock lock(mutex_);
  for (const ChunkRequest& request : requests) index_.prefetch(request.name);
  for (std::size_t i = 0; i < requests.size(); ++i)
    places[i] = find_plain_first(requests[i].name, [](const ChunkPlace&) { return true; });
}

std::optional<ChunkPlace> StoreImplementation::find_base(const ChunkName& name, std::span<const ChunkPlace> tried) {
  const MutexLock lock(mutex_);
  return index_.find(name, [&](const ChunkPlace& place) {
    return !place.difference && std::ranges::find(tried, place) == tried.end();
  });
}

std::optional<ChunkPlace> StoreImplementation::find_reusable(const ChunkName& name, std::uint32_t own) {
  const MutexLock lock(mutex_);
  return find_plain_first(
      name, [&](const ChunkPlace& place) VARVE_NO_THREAD_SAFETY_ANALYSIS { return reusable(place, own); });
}

std::optional<ChunkPlace> StoreImplementation::find_reusable_base(const ChunkName& name, std::uint32_t own) {
  const MutexLock lock(mutex_);
  return index_.find(name, [&](const ChunkPlace& place)
                               VARVE_NO_THREAD_SAFETY_ANALYSIS { return !place.difference && reusable(place, own); });
}

std::vector<ChunkPlace> StoreImplementation::places(const ChunkName& name) {
  std::vector<ChunkPlace> all;
  const MutexLock lock(mutex_);
  index_.find(name, [&](const ChunkPlace& place) {
    all.push_back(place);
    return false;
  });
  return all;
}

void StoreImplementation::find_reusable(std::span<const ChunkName> names, std::uint32_t own,
                                        std::span<std::optional<ChunkPlace>> places) {
  const MutexLock lock(mutex_);
  for (const ChunkName& name : names) index_.prefetch(name);
  for (std::size_t i = 0; i < names.size(); ++i)
    places[i] = find_plain_first(
        names[i], [&](const ChunkPlace& place) VARVE_NO_THREAD_SAFETY_ANALYSIS { return reusable(place, own); });
}

void StoreImplementation::reserve(std::uint64_t chunks) {
  const MutexLock lock(mutex_);
  if (chunks > index_.size()) index_.reserve(chunks);
}

void StoreImplementation::expect(std::uint64_t chunks) {
  const MutexLock lock(mutex_);
  index_.expect(chunks);
}

SegmentView StoreImplementation::view(std::uint32_t ordinal) {
  const MutexLock lock(mutex_);
  const Segment& known = segment(ordinal);
  if (known.gone) return {};
  return {to_string(known.name), known.key, known.end};
}

std::uint32_t StoreImplementation::add_own_segment(const SegmentHeader& header, std::vector<FooterNote> notes,
                                                   std::uint64_t end) {
  const MutexLock lock(mutex_);
  VARVE_CHECK(segments_.size() < kMaxSegments);
  // A refresh in another thread may have come across the file already, and have taken it for a stranger's.
  if (const auto seen = by_name_.find(header.name); seen != by_name_.end()) drop(seen->second);
  Segment& added = segments_.emplace_back();
  added.ordinal = static_cast<std::uint32_t>(segments_.size());
  added.name = header.name;
  added.header = header;
  added.key = record_key(header.store, header.incarnation);
  added.ours = true;
  added.end = added.durable_end = end;
  added.notes = std::move(notes);
  by_name_.emplace(header.name, added.ordinal);
  return added.ordinal;
}

void StoreImplementation::index_frame(std::uint32_t ordinal, const FooterFrame& frame,
                                      std::span<const ChunkName> names) {
  const MutexLock lock(mutex_);
  Segment& own = segment(ordinal);
  for (std::uint32_t slot = 0; slot < names.size(); ++slot)
    if (!index_.insert(names[slot], {ordinal, frame.offset, slot, frame.difference})) own.unindexed = true;
  own.chunks += names.size();
}

void StoreImplementation::unindex(const ChunkName& name, const ChunkPlace& place) {
  const MutexLock lock(mutex_);
  index_.erase(name, place);
}

void StoreImplementation::unindex(std::uint32_t ordinal, std::span<const FooterFrame> frames,
                                  std::span<const ChunkName> names) {
  const MutexLock lock(mutex_);
  for (const FooterFrame& frame : frames) {
    for (std::uint32_t slot = 0; slot < frame.chunks; ++slot)
      index_.erase(names[slot], {ordinal, frame.offset, slot, frame.difference});
    names = names.subspan(frame.chunks);
    segment(ordinal).chunks -= frame.chunks;
  }
}

void StoreImplementation::committed_image(std::uint32_t ordinal, const FooterImage& image, std::uint64_t end) {
  const MutexLock lock(mutex_);
  Segment& own = segment(ordinal);
  own.images.push_back(image);
  own.end = own.durable_end = end;
  catalogue_.add_image(own.header.chain, image, ordinal);
}

void StoreImplementation::committed_note(std::uint32_t ordinal, const Note& note, const FooterNote& content,
                                         std::uint64_t end) {
  const MutexLock lock(mutex_);
  Segment& own = segment(ordinal);
  own.notes.push_back(content);
  own.end = own.durable_end = end;
  catalogue_.add_note(note);
}

void StoreImplementation::sealed(std::uint32_t ordinal, std::uint64_t file_bytes, std::uint64_t footer_checksum) {
  const MutexLock lock(mutex_);
  Segment& own = segment(ordinal);
  own.ours = false;
  own.state = footer_checksum != 0 ? SegmentState::sealed : SegmentState::sealed_elsewhere;
  own.file_bytes = file_bytes;
  own.footer_checksum = footer_checksum;
  own.recorded = true;  // either flushed, or never trusted behind this end
}

void StoreImplementation::forget(std::uint32_t ordinal) {
  const MutexLock lock(mutex_);
  drop(ordinal);
}

void StoreImplementation::left_open(std::uint32_t ordinal) {
  const MutexLock lock(mutex_);
  // As another process would see it: not to be built upon before it has been recovered.
  segment(ordinal).ours = false;
  segment(ordinal).durable_end = 0;
}

void StoreImplementation::left_open(const SegmentName& name) {
  const MutexLock lock(mutex_);
  const auto at = by_name_.find(name);
  if (at == by_name_.end()) return;
  Segment& known = segment(at->second);
  known.state = SegmentState::open;
  known.recorded = false;
  known.durable_end = 0;
}

std::uint64_t StoreImplementation::next_number(std::string_view chain) {
  const MutexLock lock(mutex_);
  return catalogue_.next_number(chain);
}

std::uint64_t StoreImplementation::next_sequence(std::string_view chain) {
  const MutexLock lock(mutex_);
  return catalogue_.next_sequence(chain);
}

std::uint64_t StoreImplementation::revision_of(std::string_view chain, std::uint64_t number, bool& listed) {
  const MutexLock lock(mutex_);
  const Catalogue::Image* found = catalogue_.find(chain, number);
  listed = found != nullptr;
  return listed ? found->summary.revision : 0;
}

void StoreImplementation::raise_next_number(const std::string& chain, std::uint64_t next) {
  const MutexLock lock(mutex_);
  catalogue_.raise_next_number(chain, next);
}

void StoreImplementation::count_writer_bytes(std::int64_t change) {
  const MutexLock lock(mutex_);
  writer_bytes_ += static_cast<std::uint64_t>(change);
}

}  // namespace varve::storage
