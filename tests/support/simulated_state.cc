// SPDX-License-Identifier: Apache-2.0
#include "tests/support/simulated_state.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/bytes.h"
#include "base/os_error.h"
#include "storage/chunk_name.h"
#include "storage/directory.h"

namespace varve::test {

void SimulatedBytes::resize(std::uint64_t size) {
  const std::uint64_t cut = std::min(size_, size);
  size_ = size;
  auto first_gone = blocks_.lower_bound(round_up(cut, kBlockBytes) / kBlockBytes);
  blocks_.erase(first_gone, blocks_.end());
  const std::size_t kept = cut % kBlockBytes;
  const auto last = blocks_.find(cut / kBlockBytes);
  if (kept == 0 || last == blocks_.end()) return;
  auto block = std::make_shared<Block>(*last->second);
  std::fill(block->begin() + static_cast<std::ptrdiff_t>(kept), block->end(), std::byte{0});
  last->second = std::move(block);
}

std::size_t SimulatedBytes::read(std::uint64_t offset, std::span<std::byte> into) const {
  if (offset >= size_) return 0;
  const auto bytes = static_cast<std::size_t>(std::min<std::uint64_t>(into.size(), size_ - offset));
  for (std::size_t done = 0; done < bytes;) {
    const std::size_t within = (offset + done) % kBlockBytes;
    const std::size_t part = std::min(kBlockBytes - within, bytes - done);
    const auto block = blocks_.find((offset + done) / kBlockBytes);
    if (block == blocks_.end())
      std::memset(into.data() + done, 0, part);
    else
      std::memcpy(into.data() + done, block->second->data() + within, part);
    done += part;
  }
  return bytes;
}

void SimulatedBytes::put(std::uint64_t offset, std::span<const std::byte> bytes) {
  for (std::size_t done = 0; done < bytes.size();) {
    const std::size_t within = (offset + done) % kBlockBytes;
    const std::size_t part = std::min(kBlockBytes - within, bytes.size() - done);
    std::shared_ptr<const Block>& place = blocks_[(offset + done) / kBlockBytes];
    auto block = place == nullptr ? std::make_shared<Block>() : std::make_shared<Block>(*place);
    std::memcpy(block->data() + within, bytes.data() + done, part);
    place = std::move(block);
    done += part;
  }
}

namespace {

SimulatedLoss pick_loss(Random& chance) {
  constexpr SimulatedLoss kLosses[] = {
      SimulatedLoss::all_lost,     SimulatedLoss::all_kept,     SimulatedLoss::prefix_kept, SimulatedLoss::prefix_kept,
      SimulatedLoss::whole_writes, SimulatedLoss::torn_sectors, SimulatedLoss::torn_sectors};
  return kLosses[chance.below(std::size(kLosses))];
}

/// Each sector by itself. A run of luck is as likely as a mix, so that a single lost sector is seen, too.
void put_torn(SimulatedBytes& bytes, const SimulatedChange& change, Random& chance) {
  const std::uint64_t odds = 2 + chance.below(8);
  const bool mostly_kept = chance.coin();
  for (std::size_t done = 0; done < change.bytes.size();) {
    const std::size_t part = std::min(kSectorBytes - (change.offset + done) % kSectorBytes, change.bytes.size() - done);
    if (chance.one_in(odds) != mostly_kept)
      bytes.put(change.offset + done, std::span(change.bytes).subspan(done, part));
    done += part;
  }
}

std::uint64_t size_with_pending(const SimulatedNode& node) {
  for (auto change = node.pending.rbegin(); change != node.pending.rend(); ++change)
    if (change->new_size) return *change->new_size;
  return node.durable.size();
}

bool share_a_name(const SimulatedNameChange& one, const SimulatedNameChange& other) {
  for (const auto& [name, node] : one.entries)
    for (const auto& [other_name, other_node] : other.entries)
      if (name == other_name) return true;
  return false;
}

void rename_in(SimulatedNames& names, const SimulatedNameChange& change) {
  for (const auto& [name, node] : change.entries) {
    if (node == nullptr)
      names.erase(name);
    else
      names.insert_or_assign(name, node);
  }
}

}  // namespace

int SimulatedState::injected_fault(SimulatedOperation operation, std::string_view name) {
  int os_errno = 0;
  for (SimulatedFault& fault : faults) {
    if (fault.operation != operation || fault.count == 0 || name.find(fault.file) == std::string_view::npos) continue;
    if (fault.nth > 1) {
      --fault.nth;
      continue;
    }
    --fault.count;
    os_errno = fault.os_errno;
  }
  const RandomFaults& chance = random_faults[static_cast<std::size_t>(operation)];
  if (os_errno == 0 && chance.one_in != 0 && random.one_in(chance.one_in)) os_errno = chance.os_errno;
  return os_errno;
}

int SimulatedState::begin(SimulatedOperation operation, std::string_view name, std::uint64_t handle_epoch) {
  if (!alive(handle_epoch)) return EIO;
  if (operations >= power_limit) {
    power_off = true;
    end_flights(random);
    return EIO;
  }
  ++operations;
  ++counts[static_cast<std::size_t>(operation)];
  return injected_fault(operation, name);
}

void SimulatedState::clear_faults() {
  faults.clear();
  random_faults = {};
  power_limit = std::numeric_limits<std::uint64_t>::max();
}

int SimulatedState::check_folder(std::string_view folder) const {
  const auto found = names.find(folder);
  if (folder.empty()) return 0;
  if (found == names.end()) return ENOENT;
  return found->second->folder ? 0 : ENOTDIR;
}

SimulatedState::Found SimulatedState::find_file(std::string_view name) const {
  if (const int os_errno = check_folder(storage::folder_of(name)); os_errno != 0) return {nullptr, os_errno};
  const auto found = names.find(name);
  if (found == names.end()) return {nullptr, ENOENT};
  if (found->second->folder) return {nullptr, EISDIR};
  return {found->second, 0};
}

std::uint64_t SimulatedState::used_bytes() const {
  std::uint64_t used = 0;
  for (const auto& [name, node] : names) used += round_up(node->seen.size(), storage::kIoAlignment);
  return used;
}

int SimulatedState::resize(SimulatedNode& node, std::uint64_t size) {
  if (size > node.seen.size()) {
    const std::uint64_t rest = used_bytes() - round_up(node.seen.size(), storage::kIoAlignment);
    if (rest > capacity_bytes || round_up(size, storage::kIoAlignment) > capacity_bytes - rest) return ENOSPC;
  }
  node.seen.resize(size);
  node.pending.push_back({.offset = 0, .bytes = {}, .new_size = size});
  return 0;
}

void SimulatedState::write(SimulatedNode& node, std::uint64_t offset, std::span<const std::byte> bytes) {
  SimulatedChange change{.offset = offset, .bytes = {bytes.begin(), bytes.end()}, .new_size = {}};
  const std::uint64_t end = offset + bytes.size();
  if (end > node.seen.size()) node.seen.resize(end);
  if (end > size_with_pending(node)) change.new_size = end;
  node.seen.put(offset, bytes);
  node.pending.push_back(std::move(change));
}

void SimulatedState::land_one(SimulatedHandle& handle) {
  const std::size_t chosen = random.below(handle.flights.size());
  const SimulatedFlight flight = handle.flights[chosen];
  handle.flights.erase(handle.flights.begin() + static_cast<std::ptrdiff_t>(chosen));
  if (storage::checksum(flight.bytes, 0) != flight.checksum) {
    std::fprintf(stderr, "simulated io: the bytes of a write to %s at offset %llu changed before it had ended\n",
                 handle.name.c_str(), static_cast<unsigned long long>(flight.offset));
    std::abort();
  }
  int os_errno = flight.os_errno;
  const std::uint64_t end = flight.offset + flight.bytes.size();
  if (os_errno == 0 && end > handle.node->seen.size()) {
    const std::uint64_t growth =
        round_up(end, storage::kIoAlignment) - round_up(handle.node->seen.size(), storage::kIoAlignment);
    const std::uint64_t used = used_bytes();
    if (used > capacity_bytes || growth > capacity_bytes - used) os_errno = ENOSPC;
  }
  if (os_errno == 0) {
    write(*handle.node, flight.offset, flight.bytes);
  } else {
    // Some of its sectors may have been written, those that need no new space.
    for (std::size_t done = 0; done < flight.bytes.size(); done += kSectorBytes) {
      const auto sector = flight.bytes.subspan(done, std::min(kSectorBytes, flight.bytes.size() - done));
      if (flight.offset + done + sector.size() <= handle.node->seen.size() && random.coin())
        write(*handle.node, flight.offset + done, sector);
    }
    handle.prefix.fail(flight.index, os_error("write of /simulated/" + handle.name + " at offset " +
                                                  std::to_string(flight.offset) + " failed",
                                              os_errno));
  }
  handle.prefix.end(flight.index);
}

void SimulatedState::sync(SimulatedNode& node) {
  for (const SimulatedChange& change : node.pending) {
    if (change.new_size) node.durable.resize(*change.new_size);
    node.durable.put(change.offset, change.bytes);
  }
  node.pending.clear();
}

/// Decides what of the pending changes became durable; afterwards that is what is seen.
void SimulatedState::settle(SimulatedNode& node, SimulatedLoss loss, Random& chance) {
  const std::size_t changes = node.pending.size();
  std::size_t whole = 0;  // changes before this one are kept whole
  if (loss == SimulatedLoss::all_kept) whole = changes;
  if (loss == SimulatedLoss::prefix_kept) whole = chance.below(changes + 1);
  // Sizes keep their order: a prefix of them is kept. A prefix of changes has its own.
  std::size_t sizes = whole;
  const bool by_chance = loss == SimulatedLoss::whole_writes || loss == SimulatedLoss::torn_sectors;
  if (by_chance) sizes = chance.coin() ? changes : chance.below(changes + 1);
  for (std::size_t i = 0; i < changes; ++i) {
    const SimulatedChange& change = node.pending[i];
    if (change.new_size && i < sizes) node.durable.resize(*change.new_size);
    const bool kept = i < whole || (by_chance && chance.coin());
    const bool torn =
        (loss == SimulatedLoss::prefix_kept && i == whole) || (loss == SimulatedLoss::torn_sectors && chance.coin());
    if (kept)
      node.durable.put(change.offset, change.bytes);
    else if (torn)
      put_torn(node.durable, change, chance);
  }
  node.durable.resize(node.durable.size());
  node.pending.clear();
  node.seen = node.durable;
}

void SimulatedState::fail_sync(SimulatedNode& node) {
  constexpr SimulatedLoss kLosses[] = {SimulatedLoss::all_lost, SimulatedLoss::whole_writes,
                                       SimulatedLoss::torn_sectors};
  SimulatedBytes seen = node.seen;
  settle(node, kLosses[random.below(std::size(kLosses))], random);
  // The pages are marked clean though they never reached the disk (fsync(2), "ERRORS" and its history): they show the
  // new content until they are evicted.
  if (random.coin()) node.seen = std::move(seen);
}

void SimulatedState::change_names(SimulatedNameChange change) {
  rename_in(names, change);
  pending_names.push_back(std::move(change));
}

void SimulatedState::sync_directory(std::string_view folder) {
  const std::size_t changes = pending_names.size();
  std::vector<bool> needed(changes, false);
  for (std::size_t i = changes; i-- > 0;) {
    for (const auto& [name, node] : pending_names[i].entries)
      if (storage::folder_of(name) == folder) needed[i] = true;
    for (std::size_t later = i + 1; later < changes && !needed[i]; ++later)
      if (needed[later] && share_a_name(pending_names[i], pending_names[later])) needed[i] = true;
  }
  std::vector<SimulatedNameChange> left;
  for (std::size_t i = 0; i < changes; ++i) {
    if (needed[i])
      rename_in(durable_names, pending_names[i]);
    else
      left.push_back(std::move(pending_names[i]));
  }
  pending_names = std::move(left);
}

void SimulatedState::settle_names(SimulatedLoss loss, Random& chance) {
  std::vector<const SimulatedNameChange*> lost;
  const std::size_t prefix = chance.below(pending_names.size() + 1);
  for (std::size_t i = 0; i < pending_names.size(); ++i) {
    const SimulatedNameChange& change = pending_names[i];
    bool kept = loss == SimulatedLoss::all_kept || (loss == SimulatedLoss::prefix_kept && i < prefix);
    if (loss == SimulatedLoss::whole_writes || loss == SimulatedLoss::torn_sectors) kept = chance.coin();
    for (const SimulatedNameChange* earlier : lost) kept = kept && !share_a_name(*earlier, change);
    if (kept)
      rename_in(durable_names, change);
    else
      lost.push_back(&change);
  }
  pending_names.clear();
  std::erase_if(durable_names, [this](const auto& entry) VARVE_NO_THREAD_SAFETY_ANALYSIS {
    const auto folder = storage::folder_of(entry.first);
    return !folder.empty() && !durable_names.contains(folder);
  });
  names = durable_names;
}

void SimulatedState::end_flights(Random& chance) {
  for (SimulatedHandle* handle : handles) {
    while (!handle->flights.empty()) {
      SimulatedFlight& flight = handle->flights[chance.below(handle->flights.size())];
      if (chance.coin()) write(*handle->node, flight.offset, flight.bytes);
      handle->prefix.fail(flight.index, os_error("write of /simulated/" + handle->name + " at offset " +
                                                     std::to_string(flight.offset) + " failed",
                                                 EIO));
      handle->prefix.end(flight.index);
      std::swap(flight, handle->flights.back());
      handle->flights.pop_back();
    }
  }
}

void SimulatedState::crash(std::uint64_t seed) {
  Random chance(seed);
  end_flights(chance);
  const SimulatedLoss loss = pick_loss(chance);
  std::set<const SimulatedNode*> settled;
  for (const auto& [name, node] : names)
    if (settled.insert(node.get()).second) settle(*node, loss, chance);
  // Durable under a name that is no longer seen: its removal may be lost.
  for (const auto& [name, node] : durable_names)
    if (settled.insert(node.get()).second) settle(*node, loss, chance);
  for (const SimulatedNameChange& change : pending_names)
    for (const auto& [name, node] : change.entries)
      if (node != nullptr && settled.insert(node.get()).second) settle(*node, loss, chance);
  settle_names(loss, chance);
  locks.clear();
  clear_faults();
  power_off = false;
  ++epoch;
}

std::shared_ptr<SimulatedState> SimulatedState::copy(std::uint64_t seed) {
  SimulatedOptions copied_options = options;
  copied_options.seed = seed;
  auto made = std::make_shared<SimulatedState>(copied_options);
  std::map<const SimulatedNode*, SimulatedNodePointer> nodes;
  const auto node_of = [&nodes](const SimulatedNodePointer& node) -> SimulatedNodePointer {
    if (node == nullptr) return nullptr;
    SimulatedNodePointer& copied = nodes[node.get()];
    if (copied == nullptr) copied = std::make_shared<SimulatedNode>(*node);
    return copied;
  };
  MutexLock lock(made->mutex);
  made->capacity_bytes = capacity_bytes;
  made->ids = ids;
  for (const auto& [name, node] : names) made->names.emplace(name, node_of(node));
  for (const auto& [name, node] : durable_names) made->durable_names.emplace(name, node_of(node));
  for (const SimulatedNameChange& change : pending_names) {
    made->pending_names.emplace_back();
    for (const auto& [name, node] : change.entries)
      made->pending_names.back().entries.emplace_back(name, node_of(node));
  }
  for (const SimulatedHandle* handle : handles)
    for (const SimulatedFlight& flight : handle->flights)
      if (flight.os_errno == 0 && made->random.coin()) made->write(*node_of(handle->node), flight.offset, flight.bytes);
  return made;
}

}  // namespace varve::test
