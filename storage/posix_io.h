// SPDX-License-Identifier: Apache-2.0
//
// The `posix` back end: a few threads with pwrite(2) and pread(2). Works everywhere; needs nothing of the kernel.
#pragma once

#include <memory>

#include "storage/directory_io.h"

namespace varve::storage {

std::unique_ptr<Io> make_posix_io(Directory directory, const DirectoryIo::Options& options);

}  // namespace varve::storage
