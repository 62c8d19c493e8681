// SPDX-License-Identifier: Apache-2.0
//
// Maintenance: retention and garbage collection of the engine's own chain, in the background, between images.
//
//     image committed -> enough images to drop? compact, retire -> enough garbage? collect, a slice at a time
//
// Images come first: collection stops between frames when one waits, and goes on after it. While images wait all the
// time it still gets a part of the time that they take, so that the disk does not fill. What fails here fails no
// image: it is counted, logged, and tried again later.
//
// Bounds while a program runs: images beyond those to be kept, kSlackImages or as many again; garbage a quarter of what
// is alive and kSlackBytes where images leave time for it. Where they never do, images wait for the collection once the
// chain takes some four times what is alive, or twice as many images as are dropped at once. finish() leaves neither.
//
// Threads: go_on() and finish() that of the ChainWriter; status() any.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/mutex.h"
#include "engine/retention.h"
#include "storage/collect.h"
#include "storage/store.h"
#include "varve/engine.h"

namespace varve {

class Maintenance {
 public:
  Maintenance(storage::Store& store, storage::ChainWriter& writer, std::string chain, const RetentionPolicy& policy)
      : store_(store), writer_(writer), chain_(std::move(chain)), policy_(policy) {}

  /// What the program wants meanwhile.
  enum class Demand : std::uint8_t {
    none,
    image,  ///< an image waits
    all,    ///< somebody waits for this thread: stop at once
  };
  /// After an image. `line`: the image that the next one builds on. `image_ns`: the time that the image took.
  void go_on(std::uint64_t line, std::uint64_t image_ns, const std::function<Demand()>& demand);
  /// At the end: leaves the images that the policy says, and little garbage.
  void finish(std::uint64_t line);

  MaintenanceStatus status() VARVE_EXCLUDES(mutex_);

 private:
  void retain(std::uint64_t line, bool all);
  void collect(const storage::Pause& pause, bool at_the_end);
  bool collection_due(bool at_the_end);
  std::uint64_t batch() const;
  bool at_the_limit();
  void count(const storage::CollectReport& report, bool finished) VARVE_EXCLUDES(mutex_);
  void failed(const Error& error) VARVE_EXCLUDES(mutex_);

  storage::Store& store_;
  storage::ChainWriter& writer_;
  const std::string chain_;
  const RetentionPolicy policy_;

  bool worked_ = false;               // since it was opened: else finish() has nothing to do
  std::uint64_t images_since_ = 0;    // since the list was last looked at
  std::uint64_t wait_for_ = 0;        // images more until it is looked at again
  bool dropped_ = false;              // since the last collection that was finished: else there is nothing to collect
  std::uint64_t live_bytes_ = 0;      // as the last collection found it
  std::uint64_t retry_at_bytes_ = 0;  // after a collection that failed or gave nothing
  std::unique_ptr<storage::Collector> collector_;

  Mutex mutex_;
  MaintenanceStatus status_ VARVE_GUARDED_BY(mutex_);
  MaintenanceStatus before_ VARVE_GUARDED_BY(mutex_);  // without the collection under way
};

}  // namespace varve
