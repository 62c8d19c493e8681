// SPDX-License-Identifier: Apache-2.0
//
// Differences: new chunks stored as what changed since an earlier one (docs/formats/segment.md, frame).
//
//     image n      root          plain frame: what the others are differences to
//     image n+1    root ^ A      previous of A: root
//     image n+2    root ^ B      previous of B: A, in a difference: its base, root
//
// A base is as safe as any chunk that a new image may name, and stays so until the commit, since the store's byte is
// held. What can't be read is no base: the frame is written plainly, and the image is as good.
#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "storage/chain_writer.h"

namespace varve::storage {

ChunkName ChainWriterImplementation::root_of(const ChunkName& previous) {
  if (previous == kNoBase) return kNoBase;
  ChunkName root;
  if (!roots_.find(previous, root)) {
    const auto place = store_.find_reusable(previous, ordinal_);
    if (!place) return kNoBase;
    if (!place->difference) return previous;
    const auto base = stored_.base_of(previous, *place, own());
    if (!base) {
      log::debug("storage", "no difference is tried: {}", base.error().message());
      return kNoBase;
    }
    root = *base;
    roots_.put(previous, root);
  }
  return root != kNoBase && store_.find_reusable_base(root, ordinal_) ? root : kNoBase;
}

bool ChainWriterImplementation::base_stays(const ChunkName& name, const ChunkPlace& place) {
  // Of this image's own differences the bases were looked at, and can't have gone since.
  if (!place.difference || (place.segment == ordinal_ && place.offset >= content_.end)) return true;
  const auto base = stored_.base_of(name, place, own());  // of this very place: another may have another
  if (!base) {
    log::debug("storage", "a chunk is written once more: {}", base.error().message());
    return false;
  }
  if (*base == kNoBase || store_.find_reusable_base(*base, ordinal_)) return true;
  if (!store_.find_base(*base, {})) store_.unindex(name, place);  // nobody can read it any more
  return false;
}

void ChainWriterImplementation::read_bases(FrameJob& job) {
  if (job.difference_memory == nullptr) job.difference_memory.reset(new std::byte[kFrameRawBytes]);
  std::byte* into = job.difference_memory.get();
  std::span<const std::byte> raw = job.content();
  for (std::size_t i = 0; i < job.chunks.size(); ++i) {
    const std::span<const std::byte> content = raw.first(job.chunks[i].bytes);
    raw = raw.subspan(content.size());
    ChunkName& base = job.bases[i];
    if (base != kNoBase) {
      if (const auto earlier = stored_.base(base, content.size(), own())) {
        xor_bytes(content, *earlier, {into, content.size()});
      } else {
        log::debug("storage", "no difference is made: {}", earlier.error().message());
        base = kNoBase;
      }
    }
    if (base == kNoBase) std::memcpy(into, content.data(), content.size());
    into += content.size();
  }
}

std::span<const std::byte> ChainWriterImplementation::make_difference(FrameJob& job) {
  if (job.asked_for_difference) return job.difference().content;
  job.asked_for_difference = true;
  const std::uint64_t begin_ns = monotonic_ns();
  // Half of the content at least: else the rest had better be stored so that others can be differences to it.
  const auto enough = [&] {
    std::size_t bytes = 0;
    for (std::size_t i = 0; i < job.chunks.size(); ++i) bytes += job.bases[i] == kNoBase ? 0 : job.chunks[i].bytes;
    return 2 * bytes >= job.raw_bytes;
  };
  job.bases.resize(job.chunks.size());
  for (std::size_t i = 0; i < job.chunks.size(); ++i) {
    job.bases[i] = root_of(job.previous[i]);
    if (job.bases[i] == job.chunks[i].name) job.bases[i] = kNoBase;
  }
  const bool some = enough();
  if (some) read_bases(job);
  if (!some || !enough()) job.bases.clear();
  job.base_ns = monotonic_ns() - begin_ns;
  return job.difference().content;
}

bool ChainWriterImplementation::choose_moved(FrameJob& job) {
  if (!job.moved_difference) return false;
  job.asked_for_difference = true;
  job.bases = job.previous;
  read_bases(job);
  const bool any = std::ranges::any_of(job.bases, [](const ChunkName& base) { return base != kNoBase; });
  if (!any) job.bases.clear();
  if (!any) return false;
  job.choice = {Codec::lz4, Filter::difference, static_cast<std::uint16_t>(job.element_bytes)};
  return true;
}

void ChainWriterImplementation::remember_bases(const FrameJob& job) {
  for (std::size_t i = 0; i < job.chunks.size(); ++i) roots_.put(job.chunks[i].name, job.bases[i]);
}

}  // namespace varve::storage
