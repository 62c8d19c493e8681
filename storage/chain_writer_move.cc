// SPDX-License-Identifier: Apache-2.0
//
// What garbage collection moves to another segment: frames and chunks, images, notes.
#include <algorithm>
#include <cstring>

#include "base/bytes.h"
#include "base/check.h"
#include "base/try.h"
#include "storage/chain_writer.h"

namespace varve::storage {

Result<std::unique_ptr<ChainWriterImplementation>> ChainWriterImplementation::make_sibling() {
  VARVE_CHECK(lock_ != nullptr);
  VARVE_TRY_ASSIGN(std::unique_ptr<WriteBuffers> buffers, WriteBuffers::create());
  return std::make_unique<ChainWriterImplementation>(store_, chain_, lock_, std::move(buffers));
}

Status ChainWriterImplementation::move_frame(std::span<const std::byte> payload, std::span<const ChunkName> names,
                                             bool difference) {
  VARVE_CHECK(begun_);
  if (broken_) return *broken_;
  if (!filling().in_place.empty()) VARVE_TRY(flush_frame());  // it lies where this one goes
  VARVE_TRY(check_room());
  const std::size_t bytes = round_up(kRecordHeaderBytes + payload.size(), kRecordAlignment);
  auto room = segment_->room(bytes);
  if (!room) {
    broken_ = room.error();
    return room.error();
  }
  std::ranges::copy(payload, room->begin() + kRecordHeaderBytes);
  content_.names.insert(content_.names.end(), names.begin(), names.end());
  counts_.new_chunks += names.size();
  enter_frame(*room, payload.size(), names.size(), difference);
  return {};
}

Status ChainWriterImplementation::move_chunk(const ChunkName& name, std::span<const std::byte> content,
                                             std::uint32_t element_bytes, bool difference, const ChunkName& base) {
  VARVE_CHECK(begun_ && !content.empty() && content.size() <= store_.chunk_bytes());
  if (broken_) return *broken_;
  auto appended = append_chunk(name, content, element_bytes, base, difference);
  if (!appended) broken_ = appended.error();
  return appended;
}

Status ChainWriterImplementation::commit_moved(std::span<const SegmentName> sources) {
  return commit_note({NoteKind::moved, 0, chain_, {}, {}, {}, {sources.begin(), sources.end()}});
}

Status ChainWriterImplementation::move_image(const Manifest& manifest) {
  VARVE_TRY(begin());
  CommitBlock block;
  std::uint64_t offset = 0;
  const EncodedManifest content = encode_manifest_in_parts(manifest);
  auto written = write_closing(RecordType::manifest, content.parts(), block, offset);
  if (!written) {
    broken_ = written.error();
    drop_image();
  } else {
    accept_commit();
    content_.images.push_back(summarize(manifest, block, offset));
    store_.committed_image(ordinal_, content_.images.back(), content_.end);
  }
  end_image();
  return written;
}

}  // namespace varve::storage
