// SPDX-License-Identifier: Apache-2.0
//
// SimulatedDisk: what tests do to the disk itself. The Io over it is in simulated_io.cc.
#include <algorithm>

#include "base/check.h"
#include "storage/directory.h"
#include "tests/support/simulated_io.h"
#include "tests/support/simulated_state.h"

namespace varve::test {
namespace {

/// Changes the bytes of a file in both of its states.
template <class Change>
void change_at_rest(SimulatedState& state, std::string_view name, Change change) {
  MutexLock lock(state.mutex);
  const auto found = state.find_file(name);
  VARVE_CHECK(found.node != nullptr);
  state.sync(*found.node);
  change(found.node->seen);
  change(found.node->durable);
}

/// Makes a name durable, whatever it was.
void set_name(SimulatedState& state, const std::string& name, const SimulatedNodePointer& node)
    VARVE_REQUIRES(state.mutex) {
  state.change_names({.entries = {{name, node}}});
  state.sync_directory(storage::folder_of(name));
}

}  // namespace

std::string_view to_string(SimulatedOperation operation) {
  constexpr std::string_view kNames[] = {"open", "write",          "read",   "sync",   "allocate",       "truncate",
                                         "list", "make_directory", "rename", "remove", "sync_directory", "lock"};
  static_assert(std::size(kNames) == kSimulatedOperations);
  return kNames[static_cast<std::size_t>(operation)];
}

SimulatedDisk::SimulatedDisk(const SimulatedOptions& options) : state_(std::make_shared<SimulatedState>(options)) {}
SimulatedDisk::SimulatedDisk(std::shared_ptr<SimulatedState> state) : state_(std::move(state)) {}
SimulatedDisk::SimulatedDisk(SimulatedDisk&&) noexcept = default;
SimulatedDisk& SimulatedDisk::operator=(SimulatedDisk&&) noexcept = default;
SimulatedDisk::~SimulatedDisk() = default;

SimulatedDisk SimulatedDisk::copy(std::uint64_t seed) const {
  MutexLock lock(state_->mutex);
  return SimulatedDisk(state_->copy(seed));
}

void SimulatedDisk::crash(std::uint64_t seed) {
  MutexLock lock(state_->mutex);
  state_->crash(seed);
}

void SimulatedDisk::add_fault(const SimulatedFault& fault) {
  VARVE_CHECK(fault.nth > 0);
  MutexLock lock(state_->mutex);
  state_->faults.push_back(fault);
}

void SimulatedDisk::add_random_faults(SimulatedOperation operation, std::uint64_t one_in, int os_errno) {
  MutexLock lock(state_->mutex);
  state_->random_faults[static_cast<std::size_t>(operation)] = {.one_in = one_in, .os_errno = os_errno};
}

void SimulatedDisk::clear_faults() {
  MutexLock lock(state_->mutex);
  state_->clear_faults();
}

void SimulatedDisk::cut_power_after(std::uint64_t operations) {
  MutexLock lock(state_->mutex);
  state_->power_limit = state_->operations + operations;
}

bool SimulatedDisk::power_is_off() const {
  MutexLock lock(state_->mutex);
  return state_->power_off;
}

void SimulatedDisk::set_capacity(std::uint64_t bytes) {
  MutexLock lock(state_->mutex);
  state_->capacity_bytes = bytes;
}

std::uint64_t SimulatedDisk::operations() const {
  MutexLock lock(state_->mutex);
  return state_->operations;
}

std::uint64_t SimulatedDisk::operations(SimulatedOperation operation) const {
  MutexLock lock(state_->mutex);
  return state_->counts[static_cast<std::size_t>(operation)];
}

std::vector<std::string> SimulatedDisk::files() const {
  MutexLock lock(state_->mutex);
  std::vector<std::string> found;
  for (const auto& [name, node] : state_->names)
    if (!node->folder) found.push_back(name);
  return found;
}

bool SimulatedDisk::exists(std::string_view name) const {
  MutexLock lock(state_->mutex);
  return state_->find_file(name).node != nullptr;
}

std::uint64_t SimulatedDisk::size_bytes(std::string_view name) const {
  MutexLock lock(state_->mutex);
  const auto found = state_->find_file(name);
  VARVE_CHECK(found.node != nullptr);
  return found.node->seen.size();
}

std::uint64_t SimulatedDisk::used_bytes() const {
  MutexLock lock(state_->mutex);
  return state_->used_bytes();
}

std::vector<std::byte> SimulatedDisk::read(std::string_view name) const {
  MutexLock lock(state_->mutex);
  const auto found = state_->find_file(name);
  VARVE_CHECK(found.node != nullptr);
  std::vector<std::byte> content(found.node->seen.size());
  found.node->seen.read(0, content);
  return content;
}

void SimulatedDisk::write(std::string_view name, std::uint64_t offset, std::span<const std::byte> bytes) {
  change_at_rest(*state_, name, [&](SimulatedBytes& content) {
    if (offset + bytes.size() > content.size()) content.resize(offset + bytes.size());
    content.put(offset, bytes);
  });
}

void SimulatedDisk::flip_bit(std::string_view name, std::uint64_t offset, unsigned bit) {
  change_at_rest(*state_, name, [&](SimulatedBytes& content) {
    std::byte value{};
    VARVE_CHECK(bit < 8 && content.read(offset, {&value, 1}) == 1);
    value ^= std::byte{1} << bit;
    content.put(offset, {&value, 1});
  });
}

void SimulatedDisk::truncate(std::string_view name, std::uint64_t size_bytes) {
  change_at_rest(*state_, name, [&](SimulatedBytes& content) { content.resize(size_bytes); });
}

void SimulatedDisk::remove(std::string_view name) {
  MutexLock lock(state_->mutex);
  VARVE_CHECK(state_->find_file(name).node != nullptr);
  set_name(*state_, std::string(name), nullptr);
}

void SimulatedDisk::put(std::string_view name, std::span<const std::byte> content) {
  MutexLock lock(state_->mutex);
  const std::string folder(storage::folder_of(name));
  if (!folder.empty() && state_->check_folder(folder) == ENOENT) {
    auto made = std::make_shared<SimulatedNode>();
    made->folder = true;
    set_name(*state_, folder, made);
  }
  auto node = std::make_shared<SimulatedNode>();
  node->durable.resize(content.size());
  node->durable.put(0, content);
  node->seen = node->durable;
  set_name(*state_, std::string(name), node);
}

}  // namespace varve::test
