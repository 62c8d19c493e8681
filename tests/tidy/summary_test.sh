#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# The closing lines of ./dev test: a log with each way to end that ctest and GoogleTest know, and what must be said.
# usage: summary_test.sh TOP
set -u
top=$1 failed=0
work=$(mktemp -d "${TMPDIR:-/tmp}/varve-summary.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT

check() {   # NAME WANTED-STATUS: summary.awk on $work/log against $work/wanted
    echo "[ RUN      ] summary.$1"
    awk -v skips="$work/skips" -f "$top/.ci/summary.awk" "$work/log" >"$work/said"
    local status=$?
    if [ $status = "$2" ] && diff "$work/wanted" "$work/said"; then
        echo "[       OK ] summary.$1 (0 ms)"
    else
        echo "status $status, wanted $2"
        echo "[  FAILED  ] summary.$1 (0 ms)"
        failed=1
    fi
}

cat >"$work/log" <<'END'
1/6 Testing: good
Command: "/x/good" "[       OK ] not.a.case (0 ms)"
[ RUN      ] A.passes
[       OK ] A.passes (3 ms)
[ RUN      ] A.skips/0
/x/a.cc:7: Skipped
no soft-dirty bits in this kernel

[  SKIPPED ] A.skips/0 (0 ms)
[  SKIPPED ] 1 test, listed below:
[  SKIPPED ] A.skips/0
Test Passed.
2/6 Testing: bad
[ RUN      ] B.fails/1
[  FAILED  ] B.fails/1, where GetParam() = 3 (2 ms)
[  FAILED  ] 1 test, listed below:
[  FAILED  ] B.fails/1, where GetParam() = 3
Test Failed.
3/6 Testing: crash (asan)
[ RUN      ] C.crashes
Test Failed.
4/6 Testing: script
Test Passed.
5/6 Testing: hang
Test Failed.
Unable to find executable: /x/gone
6/6 Testing: gone
Command: ""
Test Passed.
END
cat >"$work/wanted" <<'END'
Failed:
  bad: B.fails/1
  crash (asan): ended within C.crashes (crash or time limit)
  hang: failed
  not built: /x/gone
Skipped:
  no soft-dirty bits in this kernel
      good: A.skips/0
2 passed, 4 failed, 1 skipped
END
check counts_every_way_to_end 1

printf '1/1 Testing: good\n[       OK ] A.passes (3 ms)\nTest Passed.\n' >"$work/log"
echo '1 passed, 0 failed, 0 skipped' >"$work/wanted"
check succeeds_when_all_pass 0

printf '1/1 Testing: torn\n[       OK ] A.passes (3 ms)\n' >"$work/log"
printf 'Failed:\n  torn: failed\n1 passed, 1 failed, 0 skipped\n' >"$work/wanted"
check fails_when_a_log_ends_early 1

: >"$work/log"
echo '0 passed, 0 failed, 0 skipped' >"$work/wanted"
check fails_when_nothing_ran 1
exit $failed
