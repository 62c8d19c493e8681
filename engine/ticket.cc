// SPDX-License-Identifier: Apache-2.0
#include "engine/ticket.h"

#include <utility>

#include <fmt/format.h>

#include "base/check.h"

namespace varve {

void TicketState::resolve(Result<ImageResult> what_became) {
  MutexLock lock(mutex_);
  VARVE_CHECK(!result_.has_value());
  result_.emplace(std::move(what_became));
  resolved_.notify_all();
}

bool TicketState::ready() {
  if (!owner.is_this()) return true;
  MutexLock lock(mutex_);
  return result_.has_value();
}

Result<ImageResult> TicketState::wait() {
  if (!owner.is_this()) return storage::forked_error(fmt::format("wait for image {}/{} refused", chain, image));
  MutexLock lock(mutex_);
  while (!result_.has_value()) resolved_.wait(mutex_);
  asked_for_ = true;
  return *result_;
}

std::optional<Error> TicketState::take_error() {
  MutexLock lock(mutex_);
  if (asked_for_ || !result_.has_value() || result_->has_value()) return std::nullopt;
  asked_for_ = true;
  return result_->error();
}

void TicketState::mark_asked() {
  MutexLock lock(mutex_);
  asked_for_ = true;
}

bool TicketState::asked() {
  MutexLock lock(mutex_);
  return asked_for_;
}

Ticket::Ticket(std::shared_ptr<State> state) : state_(std::move(state)) {}
bool Ticket::ready() const { return state_->ready(); }
Result<ImageResult> Ticket::wait() const { return state_->wait(); }
std::uint64_t Ticket::image() const { return state_->image; }

}  // namespace varve
