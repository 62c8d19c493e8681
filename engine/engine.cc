// SPDX-License-Identifier: Apache-2.0
#include "varve/engine.h"

#include <utility>

#include <fmt/format.h>

#include "base/bytes.h"
#include "base/mutex.h"
#include "base/try.h"
#include "engine/engine_implementation.h"
#include "tracker/tracker.h"

namespace varve {
namespace {

Error moved_from(std::string_view call) {
  return fail(ErrorCode::invalid_argument, {fmt::format("{} refused", call), "this Engine has been moved from",
                                            "call the one that it was moved to"});
}

/// What a forked child may not destroy. Kept reachable, so that it is no leak in the eyes of a leak checker.
void leave_to_parent(std::unique_ptr<EngineImplementation> implementation) {
  static auto* const left = new std::vector<EngineImplementation*>;
  left->push_back(implementation.release());  // a child of fork() has one thread at first; others of its own are rare
}

void destroy(std::unique_ptr<EngineImplementation> implementation) {
  if (implementation != nullptr && !implementation->in_owner_process()) leave_to_parent(std::move(implementation));
}

}  // namespace

Engine::Engine(std::unique_ptr<EngineImplementation> implementation) : implementation_(std::move(implementation)) {}
Engine::Engine(Engine&&) noexcept = default;
Engine& Engine::operator=(Engine&& other) noexcept {
  if (this != &other) destroy(std::exchange(implementation_, std::move(other.implementation_)));
  return *this;
}
Engine::~Engine() { destroy(std::move(implementation_)); }

Result<Engine> Engine::open(const Options& options) {
  VARVE_TRY_ASSIGN(auto implementation, EngineImplementation::open(options));
  return Engine(std::move(implementation));
}

Status Engine::protect(std::string_view name, void* address, std::size_t bytes, const RegionOptions& options) {
  if (implementation_ == nullptr) return moved_from("protect()");
  return implementation_->protect(name, address, bytes, options);
}
Status Engine::unprotect(std::string_view name) {
  if (implementation_ == nullptr) return moved_from("unprotect()");
  return implementation_->unprotect(name);
}
Status Engine::exclude(std::string_view name, std::size_t offset, std::size_t bytes) {
  if (implementation_ == nullptr) return moved_from("exclude()");
  return implementation_->exclude(name, offset, bytes);
}
Status Engine::touch(const void* address, std::size_t bytes) {
  if (implementation_ == nullptr) return moved_from("touch()");
  return implementation_->touch(address, bytes);
}
Result<Ticket> Engine::checkpoint(const CheckpointOptions& options) {
  if (implementation_ == nullptr) return moved_from("checkpoint()");
  return implementation_->checkpoint(options);
}
Status Engine::wait() {
  if (implementation_ == nullptr) return moved_from("wait()");
  return implementation_->wait();
}
Result<bool> Engine::restore_if_any(const RestoreOptions& options) {
  if (implementation_ == nullptr) return moved_from("restore_if_any()");
  return implementation_->restore_if_any(options);
}
Result<ImageInfo> Engine::restore(std::string_view image, const RestoreOptions& options) {
  if (implementation_ == nullptr) return moved_from("restore()");
  return implementation_->restore(image, options);
}
Status Engine::wait_restored() {
  if (implementation_ == nullptr) return moved_from("wait_restored()");
  return implementation_->wait_restored();
}
LazyStatus Engine::lazy_status() const {
  return implementation_ == nullptr ? LazyStatus() : implementation_->lazy_status();
}
Result<std::vector<ImageInfo>> Engine::images() {
  if (implementation_ == nullptr) return moved_from("images()");
  return implementation_->images();
}
void Engine::set_hooks(Hooks hooks) {
  if (implementation_ != nullptr) implementation_->set_hooks(std::move(hooks));
}
Choices Engine::choices() const { return implementation_ == nullptr ? Choices() : implementation_->choices(); }
MemoryUse Engine::memory_use() const {
  return implementation_ == nullptr ? MemoryUse() : implementation_->memory_use();
}
MaintenanceStatus Engine::maintenance() const {
  return implementation_ == nullptr ? MaintenanceStatus() : implementation_->maintenance();
}
Status Engine::close() {
  if (implementation_ == nullptr) return moved_from("close()");
  return implementation_->close();
}

Status writable(void* address, std::size_t bytes) {
  if (bytes == 0) return {};
  const auto begin = reinterpret_cast<std::uintptr_t>(address);
  return tracker::Service::process().writable(
      {round_down(begin, tracker::page_bytes()), round_up(begin + bytes, tracker::page_bytes())});
}

}  // namespace varve
