// SPDX-License-Identifier: Apache-2.0
#include "engine/name_table.h"

namespace varve {
namespace {

template <class Named, class Zero>
void walk(const storage::RegionRecord& record, std::uint64_t size, const Named& named, const Zero& zero) {
  std::size_t next_name = 0;
  for (const auto& run : record.runs) {
    VARVE_CHECK(run.first <= size && run.count <= size - run.first);
    for (std::uint64_t index = run.first; index < run.first + run.count; ++index) {
      if (run.kind == storage::RunKind::zero)
        zero(index);
      else
        named(index, record.names[next_name++]);
    }
  }
}

/// Goes through a record's chunks upwards.
class RecordCursor {
 public:
  explicit RecordCursor(const storage::RegionRecord* record) : record_(record) {}

  /// The run that holds this chunk, or null. REQUIRES: indices grow from call to call.
  const storage::ChunkRun* find(std::uint64_t index) {
    if (record_ == nullptr) return nullptr;
    while (run_ < record_->runs.size() && record_->runs[run_].first + record_->runs[run_].count <= index) {
      if (record_->runs[run_].kind == storage::RunKind::named) names_before_ += record_->runs[run_].count;
      ++run_;
    }
    if (run_ == record_->runs.size() || record_->runs[run_].first > index) return nullptr;
    index_ = index;
    return &record_->runs[run_];
  }
  /// Of the chunk found last. REQUIRES: its run is a named one.
  const storage::ChunkName& name() const {
    return record_->names[names_before_ + (index_ - record_->runs[run_].first)];
  }

 private:
  const storage::RegionRecord* record_;
  std::size_t run_ = 0;
  std::uint64_t names_before_ = 0;
  std::uint64_t index_ = 0;
};

}  // namespace

void NameTable::overwrite(const storage::RegionRecord& record) {
  walk(
      record, size(),
      [&](std::uint64_t index, const storage::ChunkName& name) { names_[index] = reserved(name) ? kUnknown : name; },
      [&](std::uint64_t index) { set_zero(index); });
}

void NameTable::fill_unknown(const storage::RegionRecord& record) {
  walk(
      record, size(),
      [&](std::uint64_t index, const storage::ChunkName& name) {
        if (!known(index) && !reserved(name)) names_[index] = name;
      },
      [&](std::uint64_t index) {
        if (!known(index)) set_zero(index);
      });
}

bool NameTable::write_to(storage::RegionRecord& record, std::span<const ChunkRange> absent,
                         const storage::RegionRecord* newer, std::uint64_t& unknown) const {
  record.runs.clear();
  record.names.clear();
  record.names.reserve(names_.size());
  RecordCursor newest(newer);
  std::size_t next_absent = 0;
  for (std::uint64_t index = 0; index < names_.size(); ++index) {
    if (next_absent < absent.size() && index == absent[next_absent].first) {
      index = absent[next_absent++].end() - 1;
      continue;
    }
    storage::ChunkName name = names_[index];
    if (const auto* run = newest.find(index)) name = run->kind == storage::RunKind::zero ? kZero : newest.name();
    if (name == kUnknown) {
      unknown = index;
      return false;
    }
    append_chunk(record, index, name == kZero ? storage::RunKind::zero : storage::RunKind::named);
    if (name != kZero) record.names.push_back(name);
  }
  return true;
}

bool NameTable::complete(std::span<const ChunkRange> absent) const {
  std::size_t next_absent = 0;
  for (std::uint64_t index = 0; index < names_.size(); ++index) {
    while (next_absent < absent.size() && absent[next_absent].end() <= index) ++next_absent;
    const bool needed = next_absent == absent.size() || index < absent[next_absent].first;
    if (needed && !known(index)) return false;
  }
  return true;
}

void append_run(storage::RegionRecord& record, const storage::ChunkRun& run) {
  if (!record.runs.empty()) {
    auto& last = record.runs.back();
    if (last.kind == run.kind && last.first + last.count == run.first) {
      last.count += run.count;
      return;
    }
  }
  record.runs.push_back(run);
}

void append_chunk(storage::RegionRecord& record, std::uint64_t index, storage::RunKind kind) {
  append_run(record, {.first = index, .count = 1, .kind = kind});
}

}  // namespace varve
