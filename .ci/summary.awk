# SPDX-License-Identifier: Apache-2.0
#
# Reads logs of test runs (ctest's LastTest.log, and those that logged() in common.sh writes in the same form) and
# prints the failures, the skips by reason, and the closing line "N passed, N failed, N skipped". Counts test cases
# where a program prints them in GoogleTest's form, else the program as one. Exit status 1 if anything failed or
# nothing ran.
# -v skips=FILE: also writes "PROGRAM<TAB>CASE<TAB>REASON" for each skip there.

function case_name(line) {
    sub(/^\[[^]]*\] */, "", line)
    sub(/, where .*/, "", line)
    sub(/ \([0-9]+ ms\)[[:space:]]*$/, "", line)
    return line
}
function failure(text) { failures[failed++] = text }
function end_program(passing) {
    if (program == "") return
    if (!passing && !own_failures)
        failure(program ": " (running != "" ? "ended within " running " (crash or time limit)" : "failed"))
    if (passing && !cases) passed++
    program = ""
}

{ sub(/\r$/, "") }
/^[0-9]+\/[0-9]+ Testing: / {
    end_program(0)
    program = $0
    sub(/^[^:]*: /, "", program)
    cases = own_failures = 0
    running = reason = ""
    next
}
/^Unable to find executable: / { failure("not built: " $5); next }
program == "" { next }
/^Command: ""$/ { program = ""; next }                          # the same: reported above
/^\[ RUN      \] / { running = case_name($0); reason = ""; wait_reason = 0; next }
/^\[       OK \] .*\([0-9]+ ms\)$/ { passed++; cases++; running = ""; next }
/^\[  FAILED  \] .*\([0-9]+ ms\)$/ { failure(program ": " case_name($0)); own_failures++; cases++; running = ""; next }
/^\[  SKIPPED \] .*\([0-9]+ ms\)$/ {
    skipped++; cases++; running = ""
    if (reason == "") reason = "no reason given"
    if (!(reason in by_reason)) reasons[reason_count++] = reason
    by_reason[reason] = by_reason[reason] "\n      " program ": " case_name($0)
    if (skips != "") print program "\t" case_name($0) "\t" reason > skips
    reason = ""
    next
}
/(^|: )Skipped$/ { wait_reason = 1; next }
wait_reason && $0 != "" { reason = $0; wait_reason = 0; next }
/^Test Passed\.$/ { end_program(1); next }
/^Test Failed\.$/ { end_program(0); next }

END {
    end_program(0)
    if (failed) print "Failed:"
    for (i = 0; i < failed; i++) print "  " failures[i]
    if (skipped) print "Skipped:"
    for (i = 0; i < reason_count; i++) print "  " reasons[i] by_reason[reasons[i]]
    printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped
    exit failed > 0 || passed + skipped == 0
}
