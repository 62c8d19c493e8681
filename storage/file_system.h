// SPDX-License-Identifier: Apache-2.0
//
// What the file system of an open directory promises. Any thread.
#pragma once

#include "storage/directory.h"
#include "storage/io.h"

namespace varve::storage {

/// All but `direct`.
Result<FileSystemTraits> describe_file_system(const Directory& directory);

/// Probes by doing: writes one aligned block by O_DIRECT to a nameless file and reads it back.
bool probe_direct(const Directory& directory);

}  // namespace varve::storage
