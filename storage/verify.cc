// SPDX-License-Identifier: Apache-2.0
#include "storage/verify.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/bytes.h"
#include "base/try.h"
#include "storage/chain_lock.h"
#include "storage/verify_run.h"

namespace varve::storage {
namespace {

constexpr std::size_t kMaxFindings = 10'000;

VerifyFinding finding(std::string file, std::uint64_t offset, std::uint64_t bytes, std::string what) {
  VerifyFinding found;
  found.file = std::move(file);
  found.offset = offset;
  found.bytes = bytes;
  found.what = std::move(what);
  return found;
}

}  // namespace

void VerifyRun::found(VerifyFinding one) {
  report_.status = VerifyStatus::damage;
  if (report_.findings.size() < kMaxFindings)
    report_.findings.push_back(std::move(one));
  else
    ++report_.findings_left_out;
}

Result<VerifyReport> VerifyRun::run() {
  const Status done = check_all();
  report_.interrupted = !done && options_.pace != nullptr && options_.pace->stopped();
  if (!done && !report_.interrupted) return done.error();
  if (report_.status == VerifyStatus::good && !report_.unfinished.empty()) report_.status = VerifyStatus::unfinished;
  if (report_.status != VerifyStatus::damage && report_.interrupted) report_.status = VerifyStatus::interrupted;
  return std::move(report_);
}

Status VerifyRun::check_all() {
  VARVE_TRY(check_inventory());
  VARVE_TRY_ASSIGN(std::vector<SegmentName> names, list_segments(io_));
  expect(names);
  if (inventory_)
    for (const auto& entry : inventory_->segments)
      if (!std::ranges::binary_search(names, entry.first)) VARVE_TRY(check_segment(entry.first));  // is it missing?
  std::ranges::reverse(names);  // a writer's later segments first: their notes tell where an earlier one ends
  for (const SegmentName& name : names) VARVE_TRY(check_segment(name));
  VARVE_TRY(judge_images());
  check_newest();
  return {};
}

void VerifyRun::expect(const std::vector<SegmentName>& names) {
  if (options_.pace == nullptr) return;
  for (const SegmentName& name : names) {
    const auto file = io_.open(to_string(name), OpenMode::read);
    const auto bytes = file ? (*file)->size_bytes() : Result<std::uint64_t>(file.error());
    if (bytes) options_.pace->expect(*bytes);  // what can't be opened is looked at later
  }
}

Status VerifyRun::check_inventory() {
  auto inventory = read_inventory(io_, identity_.id);
  if (inventory) {
    first_inventory_ = *inventory;
    inventory_ = std::move(*inventory);
    return {};
  }
  const Error& error = inventory.error();
  if (!is_damage(error) && error.code() != ErrorCode::not_found) return error;
  found(finding(std::string(kInventoryFile), 0, 0,
                error.code() == ErrorCode::not_found ? "the file is missing" : error.cause()));
  return {};
}

Status VerifyRun::renew_inventory() {
  if (!inventory_) return {};  // damaged, and reported
  auto inventory = read_inventory(io_, identity_.id);
  if (!inventory && !is_damage(inventory.error())) return inventory.error();
  if (inventory && inventory->generation > inventory_->generation) inventory_ = std::move(*inventory);
  return {};
}

Status VerifyRun::check_segment(const SegmentName& name) {
  VerifyReport before = std::exchange(report_, {});
  const Status checked = look_until_it_counts(name);
  const VerifyReport here = std::exchange(report_, std::move(before));
  for (const VerifyFinding& one : here.findings) found(one);
  report_.findings_left_out += here.findings_left_out;
  report_.unfinished.insert(report_.unfinished.end(), here.unfinished.begin(), here.unfinished.end());
  report_.segments += here.segments;
  report_.records += here.records;
  report_.chunks += here.chunks;
  report_.bytes_read += here.bytes_read;
  return checked;
}

Status VerifyRun::look_until_it_counts(const SegmentName& name) {
  constexpr int kMaxLooks = 8;  // a segment is made, sealed, recovered, listed and removed once each
  std::vector<VerifyFinding> last;
  for (int looks = 1;; ++looks) {
    Look look;
    look.listed = inventory_ && inventory_->segments.contains(name);
    if (auto looked = look_at(name, look); !looked) {
      if (!look.listed) report_.findings.clear();  // seen once
      return looked;
    }
    const bool twice = looks > 1 && report_.findings == last;
    if (report_.findings.empty() || (look.listed && look.there) || twice || looks == kMaxLooks) {
      if (look.ordinal != 0) take_lists(look.segment, look.ordinal);
      seen_[name] = look.listed;
      return {};
    }
    good_.erase_segment(look.ordinal);
    lost_.erase_segment(look.ordinal);
    std::erase_if(differences_, [&](const ChunkPlace& place) { return place.segment == look.ordinal; });
    last = std::exchange(report_, {}).findings;
    VARVE_TRY(renew_inventory());
  }
}

Result<bool> VerifyRun::catch_up() {
  VARVE_TRY(renew_inventory());
  VARVE_TRY_ASSIGN(std::vector<SegmentName> names, list_segments(io_));
  std::erase_if(names, [&](const SegmentName& name) {
    const auto seen = seen_.find(name);
    return seen != seen_.end() && seen->second;
  });
  if (names.empty()) return false;
  std::ranges::reverse(names);
  const VerifyReport counted = report_;
  chunks_only_ = true;
  for (const SegmentName& name : names) VARVE_TRY(check_segment(name));
  report_.unfinished = counted.unfinished;
  report_.segments = counted.segments;
  report_.records = counted.records;
  report_.chunks = counted.chunks;
  return true;
}

Status VerifyRun::look_at(const SegmentName& name, Look& look) {
  const std::string file_name = to_string(name);
  auto opened = open_segment(io_, identity_.id, name, OpenMode::read);
  if (!opened && opened.error().code() == ErrorCode::not_found) {
    // Where it is not listed: removed since it was seen, and it held nothing.
    if (look.listed) found(finding(file_name, 0, inventory_->segments.at(name).bytes, "the file is missing"));
    return {};
  }
  look.there = true;
  if (!opened && !is_damage(opened.error())) return opened.error();
  ++report_.segments;
  if (!opened) {
    found(finding(file_name, 0, 0, opened.error().cause()));
    return {};
  }
  SegmentFile& file = *opened;
  report_.bytes_read += file.bytes;
  for (const std::string& damage : file.damage) found(finding(file_name, 0, kSegmentHeaderBytes, damage));
  LoadedSegment& segment = look.segment;
  segment.name = name;
  segment.file_bytes = file.bytes;
  if (file.header) segment.header = *file.header;
  auto footer = read_footer(file, identity_.id);
  if (!footer && !is_damage(footer.error())) return footer.error();
  if (footer) {
    segment.state = SegmentState::sealed;
    segment.header.store = identity_.id;
    segment.header.incarnation = footer->trailer.incarnation;
    segment.header.chain = footer->footer.chain;
    segment.content = std::move(footer->footer);
    segment.footer_checksum = footer->trailer.footer_checksum;
  }
  compare_with_inventory(segment);
  if (!footer && look.listed && inventory_->segments.at(name).footer_checksum != 0)
    found(finding(file_name, file.bytes, 0, footer.error().what() + ": " + footer.error().cause()));
  auto checked = check_content(look, file);
  if (!checked && is_damage(checked.error())) {
    found(finding(file_name, 0, file.bytes, checked.error().cause()));
    return {};
  }
  return checked;
}

void VerifyRun::compare_with_inventory(const LoadedSegment& segment) {
  if (!inventory_) return;
  const std::string file = to_string(segment.name);
  if (std::max(segment.header.generation, segment.content.generation) > inventory_->generation)
    found(finding(
        std::string(kInventoryFile), 0, 0,
        fmt::format("it is at generation {}, and {} was written under a later one: an old inventory was put back",
                    inventory_->generation, file)));
  const auto line = inventory_->segments.find(segment.name);
  if (line == inventory_->segments.end()) return;
  const InventorySegment& listed = line->second;
  if (listed.footer_checksum == 0 ? segment.file_bytes < listed.bytes : segment.file_bytes != listed.bytes)
    found(finding(file, std::min(segment.file_bytes, listed.bytes),
                  std::max(segment.file_bytes, listed.bytes) - std::min(segment.file_bytes, listed.bytes),
                  fmt::format("the file has {} bytes, and {} in the inventory", segment.file_bytes, listed.bytes)));
  else if (segment.state == SegmentState::sealed && listed.footer_checksum != 0 &&
           segment.footer_checksum != listed.footer_checksum)
    found(finding(file, segment.content.end, 0, "the file has another footer than the inventory says"));
}

/// Decides up to where the segment counts, scans it, and takes what is good.
Status VerifyRun::check_content(Look& look, SegmentFile& file) {
  LoadedSegment& segment = look.segment;
  std::uint64_t end = segment.content.end;
  bool sealed = segment.state == SegmentState::sealed;
  if (sealed) {
    VARVE_TRY(check_seal_padding(segment, file));
  } else if (const auto seal = seals_.find(segment.name); seal != seals_.end()) {
    const std::string name = to_string(segment.name);
    VARVE_TRY_ASSIGN(segment.content, decode_footer(seal->second.footer, {name, seal->second.end}));
    segment.header.store = identity_.id;
    segment.header.incarnation = seal->second.incarnation;
    segment.header.chain = segment.content.chain;
    end = segment.content.end;
    sealed = true;
  } else {
    if (!file.header) {
      if (!look.listed) report_.unfinished.push_back({to_string(segment.name), 0, file.bytes});
      return {};  // nothing in it can be checked
    }
    end = file.bytes;
    if (look.listed) end = std::min(end, inventory_->segments.at(segment.name).bytes);
    segment.content.chain = segment.header.chain;
  }
  return scan(look, file, end, sealed || look.listed);
}

Status VerifyRun::check_seal_padding(const LoadedSegment& segment, SegmentFile& file) {
  WindowReader reader(*file.file, file.bytes);
  const std::string name = to_string(segment.name);
  VARVE_TRY_ASSIGN(const std::span<const std::byte> block, reader.at(segment.content.end, kRecordHeaderBytes));
  VARVE_TRY_ASSIGN(const RecordHeader header,
                   decode_record_header(
                       std::span<const std::byte, kRecordHeaderBytes>(block.data(), kRecordHeaderBytes),
                       record_key(identity_.id, segment.header.incarnation), {name, segment.content.end}, file.bytes));
  const std::uint64_t from = segment.content.end + kRecordHeaderBytes + header.payload_bytes;
  const std::uint64_t until = file.bytes - kTrailerBytes;
  if (from >= until) return {};
  VARVE_TRY_ASSIGN(const std::span<const std::byte> padding, reader.at(from, until - from));
  if (!is_zero(padding)) found(finding(name, from, until - from, "the padding between footer and trailer is not zero"));
  return {};
}

Status VerifyRun::scan(Look& look, SegmentFile& file, std::uint64_t end, bool sealed) {
  LoadedSegment& segment = look.segment;
  const std::string name = to_string(segment.name);
  const bool has_footer =
      !segment.content.frames.empty() || !segment.content.images.empty() || !segment.content.notes.empty();
  const std::uint64_t key = record_key(identity_.id, segment.header.incarnation);
  segments_.push_back({segment.name, key, std::min(end, file.bytes)});
  const auto ordinal = look.ordinal = static_cast<std::uint32_t>(segments_.size());
  const std::uint64_t scan_end = std::min(end, file.bytes);
  SegmentScanner scanner(*file.file, key, kSegmentHeaderBytes, std::max<std::uint64_t>(scan_end, kSegmentHeaderBytes),
                         {identity_.chunk_bytes, options_.deep ? &identity_.secret : nullptr, true});
  std::vector<VerifyFinding> open_findings;  // damage only if an accepted commit follows
  const auto wrong = [&](VerifyFinding one) {
    if (sealed)
      found(std::move(one));
    else
      open_findings.push_back(std::move(one));
  };
  std::uint64_t accepted_end = kSegmentHeaderBytes;
  std::uint64_t looked_again = 0;
  for (;;) {
    VARVE_TRY_ASSIGN(const std::optional<ScannedCommit> commit, scanner.next());
    if (!commit) break;
    report_.records += commit->records;
    if (commit->gap_begin != commit->begin)
      wrong(finding(name, commit->gap_begin, commit->begin - commit->gap_begin, "there are no valid records"));
    for (const ScanProblem& problem : commit->problems) {
      VerifyFinding one = finding(name, problem.offset, problem.bytes, problem.what);
      if (!problem.unreadable)
        wrong(std::move(one));
      else if (std::ranges::find(report_.findings, one) == report_.findings.end())
        found(std::move(one));  // nobody may take it for a torn end
    }
    if (!commit->accepted()) {
      if (has_footer) take_frames(*commit, &segment.content, ordinal);
      continue;
    }
    if (!open_findings.empty() && looked_again != accepted_end) {
      looked_again = accepted_end;
      open_findings.clear();
      scanner.look_again(accepted_end);
      continue;
    }
    for (VerifyFinding& one : open_findings) found(std::move(one));
    open_findings.clear();
    accepted_end = commit->end;
    take_frames(*commit, has_footer ? &segment.content : nullptr, ordinal);
    if (has_footer) continue;
    if (commit->image) segment.content.images.push_back(*commit->image);
    if (commit->note) segment.content.notes.push_back(*commit->note);
  }
  if (sealed) {
    if (scanner.tail_begin() < scan_end)
      found(finding(name, scanner.tail_begin(), scan_end - scanner.tail_begin(), "there are no valid records"));
  } else {
    report_.unfinished.push_back({name, accepted_end, file.bytes - std::min(file.bytes, accepted_end)});
  }
  take_lost(segment, ordinal);
  return {};
}

void VerifyRun::take_frames(const ScannedCommit& commit, const Footer* footer, std::uint32_t ordinal) {
  std::span<const ChunkName> names(commit.names);
  for (const ScannedFrame& scanned : commit.frames) {
    const FooterFrame& frame = scanned.frame;
    // A frame that the footer does not list is not found when images are restored.
    const auto entry = footer == nullptr
                           ? std::vector<FooterFrame>::const_iterator()
                           : std::ranges::lower_bound(footer->frames, frame.offset, {}, &FooterFrame::offset);
    const bool listed = footer == nullptr || (entry != footer->frames.end() && entry->offset == frame.offset);
    if (scanned.good && listed && footer != nullptr && entry->difference != frame.difference)
      found(finding(to_string(segments_.back().name), frame.offset, frame.bytes,
                    "whether this frame is a difference is not what the footer says"));
    if (scanned.good && !listed)
      found(
          finding(to_string(segments_.back().name), frame.offset, frame.bytes, "the footer does not list this frame"));
    for (std::uint32_t slot = 0; slot < frame.chunks; ++slot)
      if (scanned.good && listed) good_.insert(names[slot], {ordinal, frame.offset, slot, frame.difference});
    if (scanned.good && listed && frame.difference) differences_.push_back({ordinal, frame.offset, 0, true});
    if (scanned.good) report_.chunks += frame.chunks;
    names = names.subspan(frame.chunks);
  }
}

void VerifyRun::take_lost(const LoadedSegment& segment, std::uint32_t ordinal) {
  std::span<const ChunkName> names(segment.content.names);
  for (const FooterFrame& frame : segment.content.frames) {
    for (std::uint32_t slot = 0; slot < frame.chunks; ++slot)
      if (!good_.find(names[slot])) lost_.insert(names[slot], {ordinal, frame.offset, slot, frame.difference});
    names = names.subspan(frame.chunks);
  }
}

void VerifyRun::take_lists(const LoadedSegment& segment, std::uint32_t ordinal) {
  if (chunks_only_) return;
  const std::string file = to_string(segment.name);
  for (const FooterImage& image : segment.content.images) catalogue_.add_image(segment.content.chain, image, ordinal);
  for (const FooterNote& content : segment.content.notes) {
    auto note = decode_note(content.content, {file, content.offset});
    if (!note) {
      found(finding(file, content.offset, content.content.size(), note.error().cause()));
      continue;
    }
    catalogue_.add_note(*note);
    if (note->kind == NoteKind::seal) seals_.insert_or_assign(note->seal.name, std::move(note->seal));
  }
}

namespace {

Result<VerifyReport> verify_store(Io& io, const VerifyOptions& options) {
  auto lock = lock_store_shared(io);
  if (!lock && lock.error().code() == ErrorCode::busy) return lock.error();
  auto identity = read_store_file(io);
  if (!identity) {
    if (!is_damage(identity.error())) {
      // A missing file of a store that was used is damage.
      auto entries = io.list(kSegmentFolder);
      const bool used = identity.error().code() == ErrorCode::not_found && entries && !entries->empty();
      if (!used) return identity.error();
    }
    VerifyReport report;
    report.status = VerifyStatus::damage;
    report.findings.push_back(finding(std::string(kStoreFile), 0, 0, identity.error().cause()));
    return report;
  }
  return VerifyRun(io, options, *identity).run();
}

}  // namespace

Result<VerifyReport> verify(Io& io, const VerifyOptions& options) {
  if (options.pace == nullptr) return verify_store(io, options);
  PacedReads paced(io, *options.pace);
  return verify_store(paced, options);
}

}  // namespace varve::storage
