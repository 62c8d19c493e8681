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

class GatedIo final : public storage::ForwardingIo {
 public:
  GatedIo(std::unique_ptr<storage::Io> io, Gate& gate) : ForwardingIo(*io), io_(std::move(io)), gate_(gate) {}
  Result<std::unique_ptr<storage::File>> open(std::string_view name, storage::OpenMode mode) override {
    auto file = ForwardingIo::open(name, mode);
    if (!file) return file.error();
    return std::unique_ptr<storage::File>(std::make_unique<GatedFile>(std::move(file).value(), gate_));
  }

 private:
  const std::unique_ptr<storage::Io> io_;
  Gate& gate_;
};

}  // namespace varve::test
