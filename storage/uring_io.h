// SPDX-License-Identifier: Apache-2.0
//
// The `uring` back end: io_uring at a bounded depth. One call submits a write, none is needed to see it end, and no
// thread of ours is involved. Where a ring can't be had any more, files go on with pwrite(2).
#pragma once

#include <memory>

#include "storage/directory_io.h"

namespace varve::storage {

std::unique_ptr<Io> make_uring_io(Directory directory, const DirectoryIo::Options& options);

/// Probes by doing; the error's cause says why not.
Status probe_uring();

}  // namespace varve::storage
