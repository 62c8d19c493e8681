// SPDX-License-Identifier: Apache-2.0
//
// The state behind a Ticket: resolved once, by the background writer, and read by any thread.
#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>

#include "base/mutex.h"
#include "storage/fork_guard.h"
#include "varve/engine.h"

namespace varve {

class TicketState {
 public:
  TicketState(std::string chain_name, std::uint64_t image_number) : chain(std::move(chain_name)), image(image_number) {}

  /// REQUIRES: not resolved yet.
  void resolve(Result<ImageResult> what_became) VARVE_EXCLUDES(mutex_);
  bool ready() VARVE_EXCLUDES(mutex_);
  /// Waits; an error counts as asked for then.
  Result<ImageResult> wait() VARVE_EXCLUDES(mutex_);
  /// The error of a failed image if nobody asked for it yet; it counts as asked for then.
  std::optional<Error> take_error() VARVE_EXCLUDES(mutex_);
  /// Its error, if there will be one, is told to the caller in another way.
  void mark_asked() VARVE_EXCLUDES(mutex_);
  bool asked() VARVE_EXCLUDES(mutex_);

  const std::string chain;
  const std::uint64_t image;
  const storage::OwnerProcess owner;  // a forked child has no writer that would resolve it

 private:
  Mutex mutex_;
  Condition resolved_;
  std::optional<Result<ImageResult>> result_ VARVE_GUARDED_BY(mutex_);
  bool asked_for_ VARVE_GUARDED_BY(mutex_) = false;
};

/// The public header's name for it, which only the engine may use.
struct Ticket::State : TicketState {
  using TicketState::TicketState;
};

}  // namespace varve
