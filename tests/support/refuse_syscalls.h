// SPDX-License-Identifier: Apache-2.0
//
// Refuses system calls as a container's seccomp filter would. For a forked child of a test: it can't be taken back.
#pragma once

#include <cerrno>
#include <initializer_list>

namespace varve::test {

/// From now on these calls (SYS_io_uring_setup, SYS_userfaultfd, ...) fail with `os_errno` in this thread and in those
/// that it starts. Works without privileges (PR_SET_NO_NEW_PRIVS). False when this kernel has no seccomp filters.
[[nodiscard]] bool refuse_syscalls(std::initializer_list<long> numbers, int os_errno = EPERM);

}  // namespace varve::test
