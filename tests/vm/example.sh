#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Within a guest: an example runs to its end, then again with checkpoints, is killed twice and resumed, and must end in
# the same state; its last line must name the tracker that is expected of this kernel.
# usage: example.sh PROGRAM STORE TRACKER [OPTION...]     the options go to the program
program=$1 store=$2 tracker=$3
shift 3
work=$store.work
mkdir -p "$work" || exit 1
name="${program##*/}.killed_twice_and_resumed_by_$tracker"
echo "[ RUN      ] $name"
fail() { echo "$*"; tail -n 5 "$work/said"; echo "[  FAILED  ] $name (0 ms)"; exit 1; }

: >"$work/said"
"$program" --quiet "$@" --out "$work/plain" >"$work/said" 2>&1 || fail "the plain run failed"
kills=0
while :; do
    : >"$work/said"     # not the lines of the run before, which the loop might still see
    "$program" --quiet "$@" --store "$store" --out "$work/resumed" >"$work/said" 2>&1 &
    pid=$!
    if [ $kills = 2 ]; then
        wait $pid || fail "the last run failed"
        break
    fi
    while [ "$(grep -c '^durable' "$work/said")" -lt 2 ]; do
        kill -0 $pid 2>/dev/null || fail "the run ended before it could be killed"
        sleep 0.05
    done
    kill -9 $pid
    wait $pid 2>/dev/null
    [ $kills = 0 ] || grep -q '^resumed from image' "$work/said" || fail "run $kills did not resume"
    kills=$((kills + 1))
done
grep '^resumed from image' "$work/said" || fail "the last run did not resume"
grep '^images:' "$work/said" || fail "no line of figures"
grep -q "^images:.*tracker $tracker" "$work/said" || fail "served by another tracker than $tracker"
cmp "$work/plain" "$work/resumed" || fail "the final states differ"
echo "[       OK ] $name (0 ms)"
