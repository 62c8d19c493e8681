// SPDX-License-Identifier: Apache-2.0
//
// Errors of system calls as Error values, with the name of the errno and a way out that fits it.
#pragma once

#include <string>

#include "varve/result.h"

namespace varve {

/// "ENOSPC (No space left on device)"
std::string describe_errno(int os_errno);

/// An `io` error (or `unsupported`/`not_found`/`busy` where the errno says so plainly: ENOSYS and EOPNOTSUPP; ENOENT;
/// EBUSY) with the usual remedy for this errno. `what` names action and object: "write of segments/a-1.seg failed".
Error os_error(std::string what, int os_errno);
/// The same with a remedy of the caller's.
Error os_error(std::string what, int os_errno, std::string remedy);

}  // namespace varve
