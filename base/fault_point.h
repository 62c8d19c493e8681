// SPDX-License-Identifier: Apache-2.0
//
// Fault points: places where a test kills the process. VARVE_FAULT=NAME[:N] dies by SIGKILL when the point NAME is
// passed for the N-th time (default 1). Compiled out of release builds (VARVE_FAULT_POINTS not defined).
// A point is added by naming it in the list below; tests iterate over kFaultPoints, so none goes untested.
#pragma once

#include <array>
#include <cstddef>

namespace varve {

// clang-format off
#define VARVE_FAULT_POINT_LIST(X) \
  X(cut_begin) X(capture_half) X(capture_done) \
  X(reduce_half) X(reduce_done) \
  X(store_created_directory) X(store_created_file) X(segment_created) X(segment_directory_synced) \
  X(frame_written) X(image_before_manifest) X(manifest_written) \
  X(image_before_sync) X(image_synced) X(image_committed) \
  X(segment_footer_written) X(segment_sealed) X(inventory_written) X(inventory_renamed) \
  X(failed_segment_sealed) X(recovery_scanned) X(recovery_sealed) \
  X(compaction_merged) X(compaction_committed) X(images_retired) \
  X(collection_marked) X(collection_copied) X(collection_moved) X(collection_sealed) \
  X(collection_locked) X(collection_recorded) X(collection_removed_one) X(collection_removed) \
  X(restore_half) X(restore_done)
// clang-format on

enum class FaultPoint : unsigned char {
#define VARVE_FAULT_POINT_ENUM(name) name,
  VARVE_FAULT_POINT_LIST(VARVE_FAULT_POINT_ENUM)
#undef VARVE_FAULT_POINT_ENUM
};

inline constexpr std::array kFaultPoints = {
#define VARVE_FAULT_POINT_NAME(name) #name,
    VARVE_FAULT_POINT_LIST(VARVE_FAULT_POINT_NAME)
#undef VARVE_FAULT_POINT_NAME
};

/// Whether this build has fault points; tests skip by this.
bool fault_points_enabled();
void fault_point_passed(FaultPoint point) noexcept;

}  // namespace varve

#ifdef VARVE_FAULT_POINTS
#define VARVE_FAULT_POINT(name) ::varve::fault_point_passed(::varve::FaultPoint::name)
#else
#define VARVE_FAULT_POINT(name) \
  do {                          \
  } while (false)
#endif
