// SPDX-License-Identifier: Apache-2.0
//
// Cooler: after a commit, tells the tracker what is committed and unchanged, lets it protect pages that have gone cold,
// and finds out whether they are still what was committed. In the background only, never within a stall.
//
// The order that loses nothing. A cooled page may stop being a suspect only if its content is what the images after
// this one inherit. An image that is in flight may hold the page with another content (it was B at that cut, and A
// again now, and A is what is committed): calling it settled would let B stand for ever. So a page is compared only
// when every cut that was made before it was protected has been resolved; a cut made afterwards either finds the page
// as it is, or written, and a written page is a suspect anyway. Comparing ends with the next cut, which has listed the
// rest of them.
//
// Threads: used by the background writer; the cooling mutex is held while a region's memory is touched, so that
// unprotect() can wait for that.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <vector>

#include "base/mutex.h"
#include "engine/image_job.h"
#include "engine/image_writer.h"
#include "storage/store.h"

namespace varve {

class Cooler {
 public:
  /// `newest_epoch` is raised before a cut lists anything.
  Cooler(storage::Store& store, Mutex& cooling_mutex, const std::atomic<std::uint64_t>& newest_epoch);

  /// `reduced` is what ImageWriter::write() found; the image of `job` has just been committed.
  void after_commit(ImageJob& job, std::span<const ReducedRegion> reduced) VARVE_EXCLUDES(cooling_mutex_);
  /// What a region holds while its pages are protected.
  enum class Content : std::uint8_t {
    may_differ,  ///< the program may be writing: pages are compared, which costs as much as reading and naming them
    committed,   ///< nobody has written since it was put there: there is nothing to compare
  };
  /// The same after a restore of the region. REQUIRES: the writer is idle.
  void after_restore(Region& region, Content content) VARVE_EXCLUDES(cooling_mutex_);

 private:
  double visit_ns(ImageJob& job) const;
  void cool(Region& region, const Exclusions& exclusions, std::uint64_t resolved_epoch, Content content)
      VARVE_REQUIRES(cooling_mutex_);
  /// Those whose committed content is known.
  static std::vector<ChunkRange> known(const Region& region, std::span<const ChunkRange> chunks);
  /// Those that hold their committed content now.
  std::vector<ChunkRange> compare(const Region& region, const Exclusions& exclusions,
                                  std::span<const ChunkRange> chunks) VARVE_REQUIRES(cooling_mutex_);
  bool equal_in_place(const Region& region, const Exclusions& exclusions, std::uint64_t index,
                      std::span<std::byte> content) const;

  storage::Store& store_;
  Mutex& cooling_mutex_;
  const std::atomic<std::uint64_t>& newest_epoch_;
  const double hash_page_ns_;
  std::vector<std::byte> buffer_;
};

/// What hashing a page costs here, measured in some microseconds.
double measure_hash_page_ns();

/// The pages of `pages` whose region bytes lie in the chunks; all ascending and disjoint.
tracker::PageRuns pages_of_chunks(const Region& region, const tracker::PageRuns& pages,
                                  std::span<const ChunkRange> chunks);

/// Copies memory of this process that other threads may write, or unmap, meanwhile. False when it can't be read.
bool read_racing_memory(const std::byte* from, std::span<std::byte> into);

}  // namespace varve
