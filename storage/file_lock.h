// SPDX-License-Identifier: Apache-2.0
//
// Locks on single bytes of the store's file "lock", by open-file-description locks (F_OFD_SETLK, fcntl(2)). Each Lock
// has a description of its own, so that two stores in one process conflict as two processes do; the kernel lets go of
// it when the last copy of the descriptor is closed: at the end of the process, however it ends. Forked children close
// their copies (fork_guard.h), since a copy would keep the lock.
//
// Threads: any.
#pragma once

#include <memory>

#include "storage/directory.h"
#include "storage/io.h"

namespace varve::storage {

Result<std::unique_ptr<Lock>> lock_byte(const Directory& directory, std::uint64_t byte, bool exclusive);

}  // namespace varve::storage
