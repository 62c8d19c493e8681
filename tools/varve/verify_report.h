// SPDX-License-Identifier: Apache-2.0
//
// What `varve verify` and `varve scrub` share: running a verification beside its progress, and its report as text, as
// JSON and as exit code.
#pragma once

#include <functional>

#include "storage/verify.h"
#include "tools/command.h"

namespace varve::tools {

/// Opens the store's directory and verifies it in a thread of its own; `tick` is called several times a second until it
/// is done. A directory that is no store is `not_found` and stays as it is.
Result<storage::VerifyReport> run_verification(const StoreArgument& store, const storage::VerifyOptions& options,
                                               const std::function<void()>& tick);

/// Prints the report; gives the exit code.
int print_report(const char* command, const storage::VerifyReport& report, bool json);

}  // namespace varve::tools
