// SPDX-License-Identifier: Apache-2.0
//
// GatedIo: an Io whose syncs of files wait while a gate is shut, so that a test decides when an image becomes durable.
#pragma once

#include <memory>
#include <string_view>
#include <utility>

#include "base/mutex.h"
#include "storage/forwarding_io.h"

namespace varve::test {

class Gate {
 public:
  void shut() VARVE_EXCLUDES(mutex_) { set(true); }
  void open() VARVE_EXCLUDES(mutex_) { set(false); }
  void pass() VARVE_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    while (shut_) changed_.wait(mutex_);
  }

 private:
  void set(bool shut) VARVE_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    shut_ = shut;
    changed_.notify_all();
  }
  Mutex mutex_;
  Condition changed_;
  bool shut_ VARVE_GUARDED_BY(mutex_) = false;
};

class GatedFile final : public storage::ForwardingFile {
 public:
  GatedFile(std::unique_ptr<storage::File> file, Gate& gate) : ForwardingFile(std::move(file)), gate_(gate) {}
  Status sync() override {
    gate_.pass();
    return ForwardingFile::sync();
  }

 private:
  Gate& gate_;
};

using GatedIo = storage::WrappingIo<GatedFile, Gate&>;

}  // namespace varve::test
