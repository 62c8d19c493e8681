// SPDX-License-Identifier: Apache-2.0
#include "tracker/mprotect_back_end.h"

#include <sys/mman.h>

#include <algorithm>
#include <iterator>

#include <fmt/format.h>

#include "base/log.h"
#include "base/try.h"
#include "tracker/forked.h"
#include "tracker/segv_chain.h"
#include "tracker/thread_pages.h"

namespace varve::tracker {
namespace {

PageRange intersection(PageRange a, PageRange b) { return {std::max(a.begin, b.begin), std::min(a.end, b.end)}; }
bool meet(PageRange a, PageRange b) { return a.begin < b.end && b.begin < a.end; }

// `range` without `holes`, which are ascending.
PageRuns without(const PageRuns& holes, PageRange range) {
  PageRuns rest;
  for (const PageRange& hole : holes) {
    if (!meet(hole, range)) continue;
    if (hole.begin > range.begin) rest.push_back({range.begin, hole.begin});
    range.begin = std::min(hole.end, range.end);
  }
  if (range.begin < range.end) rest.push_back(range);
  return rest;
}

// The SIGSEGV handler's part. In a forked child the lock may be held by a thread that is not there; the child's memory
// is its own, and nobody in it protects pages.
bool resolve_fault(std::uintptr_t address) {
  Shared& shared = *shared_state();
  const bool take_lock = !forked();
  if (take_lock) shared.lock.lock();
  bool resolved = false;
  Area* const area = find_area(shared.table.load(std::memory_order_acquire), address);
  if (area != nullptr && area->protectable()) {
    const std::size_t page = area->page_number(address);
    if (area->mark(page) == Area::kWritten) {
      resolved = writable_now(shared, address);
    } else {
      resolved = area->open_block(page);
      area->count_fault();
    }
  }
  if (take_lock) shared.lock.unlock();
  return resolved;
}

Error out_of_memory(PageRange range) {
  return fail(ErrorCode::io, {fmt::format("tracking of memory {:#x}-{:#x} by mprotect failed", range.begin, range.end),
                              "there is no memory for its marks", "free memory, or track less"});
}

OwnPages map_table(std::size_t areas) { return OwnPages::map(sizeof(AreaTable) + areas * sizeof(Area*)); }

// Half of the mappings that are left belong to the program.
std::int64_t splits_allowed() {
  const auto used = count_mappings();
  const std::size_t limit = mapping_limit();
  const std::size_t in_use = used.has_value() ? *used : limit / 2;
  return static_cast<std::int64_t>(limit > in_use ? (limit - in_use) / 2 : 0);
}

}  // namespace

Result<std::unique_ptr<MprotectBackEnd>> MprotectBackEnd::create() {
  VARVE_TRY(try_everything());
  return std::unique_ptr<MprotectBackEnd>(new MprotectBackEnd());
}

template <class Visit>
void MprotectBackEnd::for_each_area(PageRange range, Visit visit) const {
  auto area = std::lower_bound(areas_.begin(), areas_.end(), range.begin,
                               [](const AreaPointer& a, std::uintptr_t at) { return a->range().end <= at; });
  for (; area != areas_.end() && (*area)->range().begin < range.end; ++area) visit(**area);
}

// Makes `next` the areas. `gone` are those that are left out; parts of them that are in `next` keep their marks.
void MprotectBackEnd::publish(std::vector<AreaPointer> next, std::vector<AreaPointer> gone, OwnPages pages) {
  auto* table = static_cast<AreaTable*>(pages.memory());
  std::sort(next.begin(), next.end(),
            [](const AreaPointer& a, const AreaPointer& b) { return a->range().begin < b->range().begin; });
  table->size = next.size();
  std::transform(next.begin(), next.end(), static_cast<Area**>(table->areas),
                 [](const AreaPointer& a) { return a.get(); });
  {
    const SignalsHeld held(shared_state()->lock);
    for (const AreaPointer& old : gone)
      for (const AreaPointer& part : next)
        if (meet(old->range(), part->range())) part->copy_marks(*old);
    shared_state()->table.store(table, std::memory_order_release);
  }
  areas_ = std::move(next);
  // The last ones stay for a moment: a child that is being forked may see them.
  retired_ = std::move(gone);
  retired_table_ = std::move(table_);
  table_ = std::move(pages);
}

Status MprotectBackEnd::add(PageRange range) {
  MutexLock lock(mutex_);
  if (!make_shared_state()) return out_of_memory(range);
  VARVE_TRY(keep_in_front(&resolve_fault));
  return add_areas(range);
}

Status MprotectBackEnd::add_again(PageRange range) {
  MutexLock lock(mutex_);
  VARVE_TRY(remove_areas(range));
  return add_areas(range);
}

void MprotectBackEnd::remove(PageRange range) {
  MutexLock lock(mutex_);
  const Status status = remove_areas(range);
  if (!status.has_value()) log::info("tracker", "{}", status.error().message());
}

Status MprotectBackEnd::add_areas(PageRange range) {
  Shared& shared = *shared_state();
  if (areas_.empty()) shared.splits_limit = splits_allowed();
  VARVE_TRY(read_mappings(range, mappings_));
  const auto here = reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0));
  OwnPages table = map_table(areas_.size() + mappings_.size());
  if (table.memory() == nullptr) return out_of_memory(range);
  std::vector<AreaPointer> made;
  for (const Mapping& mapping : mappings_) {
    const bool stack = mapping.stack || (mapping.whole.begin <= here && here < mapping.whole.end);
    made.push_back(AreaPointer::make(mapping, (mapping.protection & PROT_WRITE) != 0 && !stack));
    if (!made.back()) return out_of_memory(range);
  }
  std::vector<AreaPointer> next = std::move(areas_);
  std::move(made.begin(), made.end(), std::back_inserter(next));
  publish(std::move(next), {}, std::move(table));
  return {};
}

Status MprotectBackEnd::remove_areas(PageRange range) {
  VARVE_TRY(open_all(range));
  OwnPages table = map_table(areas_.size() + 2);
  if (table.memory() == nullptr) return out_of_memory(range);
  std::vector<AreaPointer> parts;  // what is left of an area that the range cuts into
  bool enough_memory = true;
  for_each_area(range, [&](const Area& area) {
    for (const PageRange left : {PageRange{area.range().begin, range.begin}, PageRange{range.end, area.range().end}}) {
      if (left.begin >= left.end) continue;
      Mapping mapping = area.mapping();
      mapping.range = left;
      parts.push_back(AreaPointer::make(mapping, area.protectable()));
      enough_memory = enough_memory && parts.back();
    }
  });
  if (!enough_memory) return out_of_memory(range);
  std::vector<AreaPointer> next = std::move(parts);
  std::vector<AreaPointer> gone;
  for (AreaPointer& area : areas_) (meet(area->range(), range) ? gone : next).push_back(std::move(area));
  publish(std::move(next), std::move(gone), std::move(table));
  return {};
}

// Gives back what we protected, looking first: the program may have mapped other memory there.
Status MprotectBackEnd::open_all(PageRange range) {
  VARVE_TRY(read_mappings(range, mappings_));
  for (const Mapping& mapping : mappings_) {
    if ((mapping.protection & PROT_WRITE) != 0) continue;
    for_each_area(mapping.range, [&](Area& area) {
      if (mapping.same_object(area.mapping())) open_protected(area, mapping.range);
    });
  }
  // What is left is marked protected, but is not, or not ours.
  for_each_area(range, [&](Area& area) {
    const PageRange part = intersection(area.range(), range);
    const SignalsHeld held(shared_state()->lock);
    area.forget_protection(area.page_number(part.begin), area.page_number(part.end));
  });
  return {};
}

void MprotectBackEnd::open_protected(Area& area, PageRange range) {
  const PageRange part = intersection(area.range(), range);
  const std::size_t end = area.page_number(part.end);
  for (std::size_t page = area.page_number(part.begin); page < end;) {
    const SignalsHeld held(shared_state()->lock);
    const std::size_t begin = area.next_with(Area::kProtected, page, end);
    page = area.next_with(Area::kWritten, begin, end);
    if (begin < page && !area.open(begin, page)) return;
  }
}

Status MprotectBackEnd::writable(PageRange range) {
  MutexLock lock(mutex_);
  for_each_area(range, [&](Area& area) { open_protected(area, range); });
  return {};
}

Result<bool> MprotectBackEnd::mapped_as_known(PageRange range) {
  VARVE_TRY(read_mappings(range, mappings_));
  bool known = true;
  for (const Mapping& mapping : mappings_)
    for_each_area(mapping.range, [&](const Area& area) {
      const PageRange part = intersection(area.range(), mapping.range);
      const std::size_t end = area.page_number(part.end);
      const bool may_be_written = (mapping.protection & PROT_WRITE) != 0;
      if (!mapping.same_object(area.mapping())) known = false;
      if (may_be_written && area.next_with(Area::kProtected, area.page_number(part.begin), end) < end) known = false;
    });
  return known;
}

Result<Seen> MprotectBackEnd::list(PageRange range, ScanBuffer&, PageRuns& written) {
  MutexLock lock(mutex_);
  VARVE_TRY_ASSIGN(const bool known, mapped_as_known(range));
  if (!known) return Seen::lost;
  for_each_area(range, [&](const Area& area) {
    const PageRange part = intersection(area.range(), range);
    const std::size_t end = area.page_number(part.end);
    for (std::size_t page = area.page_number(part.begin); page < end;) {
      const std::size_t begin = area.next_with(Area::kWritten, page, end);
      page = area.next_with(Area::kProtected, begin, end);
      if (begin < page) append_run(written, {area.address(begin), area.address(page)});
    }
  });
  return Seen::done;
}

Status MprotectBackEnd::begin_protecting() {
  MutexLock lock(mutex_);
  find_thread_pages(thread_pages_);
  return keep_in_front(&resolve_fault);
}

Result<Seen> MprotectBackEnd::list_and_protect(PageRange range, ScanBuffer&, PageRuns& written) {
  MutexLock lock(mutex_);
  for (const PageRange part : without(thread_pages_, range))
    for_each_area(part, [&](Area& area) {
      if (area.protectable()) protect_written(area, intersection(area.range(), part), written);
    });
  return Seen::done;
}

void MprotectBackEnd::protect_written(Area& area, PageRange part, PageRuns& written) {
  const std::size_t end = area.page_number(part.end);
  for (std::size_t page = area.page_number(part.begin); page < end;) {
    const std::size_t begin = area.next_with(Area::kWritten, page, end);
    page = area.next_with(Area::kProtected, begin, end);
    if (begin == page) continue;
    bool done = false;
    {
      const SignalsHeld held(shared_state()->lock);
      done = area.protect(begin, page);
    }
    if (done) append_run(written, {area.address(begin), area.address(page)});
  }
}

Status MprotectBackEnd::protect_everything() {
  return fail(ErrorCode::unsupported,
              {"protecting all memory by mprotect", "it protects ranges only", "protect the ranges that are tracked"});
}

std::uint64_t MprotectBackEnd::faults(PageRange range) const {
  MutexLock lock(mutex_);
  std::uint64_t sum = 0;
  for_each_area(range, [&](const Area& area) { sum += area.faults(); });
  return sum;
}

Costs MprotectBackEnd::costs() {
  {
    MutexLock lock(mutex_);
    if (costs_.has_value()) return *costs_;
  }
  const Costs measured = measure_costs(*this);
  MutexLock lock(mutex_);
  costs_ = measured;
  return measured;
}

}  // namespace varve::tracker
