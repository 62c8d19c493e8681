// SPDX-License-Identifier: Apache-2.0
#include "engine/region.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/bytes.h"
#include "base/try.h"

namespace varve {
namespace {

using storage::ByteRange;

constexpr std::size_t kNameBytesMax = 255;
constexpr std::uint32_t kElementBytesMax = 4096;

bool is_region_name(std::string_view name) {
  if (name.empty() || name.size() > kNameBytesMax) return false;
  return std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           std::string_view("-_./:").find(c) != std::string_view::npos;
  });
}

std::string refusal(std::string_view name) { return fmt::format("protection of region '{}' refused", name); }

Status check_mapping(std::string_view name, const MappingTraits& traits) {
  if (!traits.mapped)
    return fail(ErrorCode::invalid_argument, {refusal(name), "part of its range is not mapped",
                                              "pass the begin and the length of one block of memory"});
  if (!traits.refused.empty())
    return fail(ErrorCode::unsupported,
                {refusal(name), traits.refused, "keep what must be restored in ordinary memory"});
  if (!traits.unreadable.empty())
    return fail(ErrorCode::invalid_argument,
                {refusal(name), traits.unreadable, "leave that part out, or make it readable first"});
  if (!traits.readable)
    return fail(ErrorCode::invalid_argument, {refusal(name), "part of its range can't be read",
                                              "make it readable (mprotect(2)), or leave that part out"});
  return {};
}

std::string quote_names(const RegionTable::Regions& regions) {
  std::string all;
  for (const auto& [name, region] : regions) all += (all.empty() ? "'" : ", '") + name + "'";
  return all;
}

}  // namespace

tracker::PageRange Region::whole_pages() const {
  const std::uintptr_t page = tracker::page_bytes();
  const std::uintptr_t first = round_up(address(), page);
  const std::uintptr_t end = round_down(address() + bytes(), page);
  return first < end ? tracker::PageRange{first, end} : tracker::PageRange{first, first};
}

void suspect_chunks(const Region& region, const tracker::PageRuns& suspects, std::vector<ChunkRange>& runs) {
  const std::uint64_t count = region.grid.count();
  const std::uintptr_t grid = region.grid_address();
  const std::uintptr_t chunk = region.grid.chunk_bytes();
  const auto whole = region.whole_pages();
  if (region.capture_all.load(std::memory_order_acquire)) {
    append_run(runs, {0, count});
  } else {
    if (whole.begin != region.address() || whole.size_bytes() == 0) append_run(runs, {0, 1});
    for (const auto& pages : suspects) {
      const std::uint64_t first = (pages.begin - grid) / chunk;
      append_run(runs, {first, (pages.end - grid - 1) / chunk - first + 1});
    }
    if (whole.end != region.address() + region.bytes()) append_run(runs, {count - 1, 1});
  }
  if (!region.exclusions->whole_chunks.empty()) runs = subtract(runs, region.exclusions->whole_chunks);
}

std::string describe(const Region& region) {
  return fmt::format("region '{}' [{:#x}, {:#x})", region.name, region.address(), region.address() + region.bytes());
}

Status RegionTable::check_range(const Wanted& wanted) const {
  const auto what = refusal(wanted.name);
  if (!is_region_name(wanted.name))
    return fail(ErrorCode::invalid_argument,
                {what, "this is no name for a region", "use 1 to 255 bytes of letters, digits and \"-_./:\""});
  if (wanted.address == nullptr || wanted.bytes == 0)
    return fail(ErrorCode::invalid_argument,
                {what, wanted.bytes == 0 ? "its length is 0" : "its address is null", "pass memory that exists"});
  const auto address = reinterpret_cast<std::uintptr_t>(wanted.address);
  if (address + wanted.bytes < address)
    return fail(ErrorCode::invalid_argument,
                {what, fmt::format("{:#x} + {} bytes is beyond the end of the address space", address, wanted.bytes),
                 "check the length"});
  if (wanted.element_bytes > kElementBytesMax)
    return fail(ErrorCode::invalid_argument,
                {what, fmt::format("an element of {} bytes is too large", wanted.element_bytes),
                 "pass the size of one number, or 0"});
  if (regions_.contains(wanted.name))
    return fail(ErrorCode::invalid_argument, {what, "a region of that name is protected already",
                                              "choose another name, or unprotect that one first"});
  for (const auto& [name, other] : regions_)
    if (address < other->address() + other->bytes() && other->address() < address + wanted.bytes)
      return fail(
          ErrorCode::invalid_argument,
          {what, fmt::format("[{:#x}, {:#x}) shares bytes with {}", address, address + wanted.bytes, describe(*other)),
           "protect each byte once"});
  return {};
}

Result<std::shared_ptr<Region>> RegionTable::add(const Wanted& wanted, std::optional<tracker::BackEndKind> back_end,
                                                 const void* owner) {
  VARVE_TRY(check_range(wanted));
  VARVE_TRY_ASSIGN(auto traits, inspect_mapping(wanted.address, wanted.bytes));
  VARVE_TRY(check_mapping(wanted.name, traits));
  const auto address = reinterpret_cast<std::uintptr_t>(wanted.address);
  const ChunkGrid grid(GridShape{
      .grid_offset = address % tracker::page_bytes(), .bytes = wanted.bytes, .chunk_bytes = wanted.chunk_bytes});
  auto region = std::make_shared<Region>(std::string(wanted.name), static_cast<std::byte*>(wanted.address), grid);
  region->element_bytes = wanted.element_bytes;
  region->traits = std::move(traits);
  region->exclusions = std::make_shared<const Exclusions>();
  region->committed.names = NameTable(grid.count());
  if (const auto pages = region->whole_pages(); pages.size_bytes() != 0) {
    VARVE_TRY_ASSIGN(region->tracking, tracker::Service::process().track(pages, back_end, owner));
  }
  regions_.emplace(region->name, region);
  return region;
}

Result<std::shared_ptr<Region>> RegionTable::find(std::string_view name, std::string_view doing) const {
  if (const auto found = regions_.find(name); found != regions_.end()) return found->second;
  return fail(ErrorCode::not_found,
              {fmt::format("{} region '{}' refused", doing, name), "no region of that name is protected",
               regions_.empty() ? std::string("protect it first") : "use one of " + quote_names(regions_)});
}

void RegionTable::remove(std::string_view name) {
  if (const auto found = regions_.find(name); found != regions_.end()) regions_.erase(found);
}

Status RegionTable::exclude(std::string_view name, std::size_t offset, std::size_t bytes) {
  VARVE_TRY_ASSIGN(const auto region, find(name, "exclusion of a range of"));
  if (bytes == 0 || offset >= region->bytes() || bytes > region->bytes() - offset)
    return fail(ErrorCode::invalid_argument,
                {fmt::format("exclusion of {} bytes at offset {} of region '{}' refused", bytes, offset, name),
                 bytes == 0 ? "the range is empty" : fmt::format("the region has {} bytes", region->bytes()),
                 "pass a range within the region"});
  auto exclusions = std::make_shared<Exclusions>(*region->exclusions);
  insert_range(exclusions->ranges, {offset, bytes});
  exclusions->whole_chunks = region->grid.inside(exclusions->ranges);
  region->exclusions = std::move(exclusions);
  return {};
}

Status RegionTable::touch(const void* address, std::size_t bytes) {
  const auto begin = reinterpret_cast<std::uintptr_t>(address);
  const std::uintptr_t end = begin + bytes;
  bool found = false;
  for (const auto& [name, region] : regions_) {
    const std::uintptr_t first = std::max(begin, region->address());
    const std::uintptr_t last = std::min(end, region->address() + region->bytes());
    if (first >= last) continue;
    found = true;
    if (region->tracking == nullptr) continue;  // no whole page: always a suspect
    const auto tracked = region->tracking->range();
    const tracker::PageRange pages{std::max(round_down(first, tracker::page_bytes()), tracked.begin),
                                   std::min(round_up(last, tracker::page_bytes()), tracked.end)};
    if (pages.begin < pages.end) region->tracking->touch(pages);
  }
  if (found) return {};
  return fail(ErrorCode::invalid_argument, {fmt::format("declaring [{:#x}, {:#x}) written refused", begin, end),
                                            "no protected region holds any of it", "pass an address within a region"});
}

}  // namespace varve
