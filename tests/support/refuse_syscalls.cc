// SPDX-License-Identifier: Apache-2.0
#include "tests/support/refuse_syscalls.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>

#include <cstddef>
#include <vector>

namespace varve::test {
namespace {

#if defined(__x86_64__)
constexpr unsigned kArchitecture = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
constexpr unsigned kArchitecture = AUDIT_ARCH_AARCH64;
#endif

sock_filter statement(unsigned code, unsigned value) {
  return {.code = static_cast<unsigned short>(code), .jt = 0, .jf = 0, .k = value};
}
/// Skips `unless_equal` statements when the loaded word is not `value`.
sock_filter equal(unsigned value, unsigned char unless_equal) {
  return {.code = BPF_JMP | BPF_JEQ | BPF_K, .jt = 0, .jf = unless_equal, .k = value};
}

}  // namespace

bool refuse_syscalls(std::initializer_list<long> numbers, int os_errno) {
  std::vector<sock_filter> program;
  program.push_back(statement(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)));
  program.push_back({.code = BPF_JMP | BPF_JEQ | BPF_K, .jt = 1, .jf = 0, .k = kArchitecture});
  program.push_back(statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  program.push_back(statement(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)));
  for (const long number : numbers) {
    program.push_back(equal(static_cast<unsigned>(number), 1));
    program.push_back(statement(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<unsigned>(os_errno)));
  }
  program.push_back(statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  const sock_fprog filter{.len = static_cast<unsigned short>(program.size()), .filter = program.data()};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

}  // namespace varve::test
