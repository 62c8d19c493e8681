#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# After a power cut: every image that the example had reported durable is listed, nothing in the store is damaged, and
# the example resumes from the newest of them or a later one and ends in the same state as a run that nobody disturbed.
# usage: power_cut_check.sh VARVE PROGRAM STORE SAID [OPTION...]
# SAID: a file with the lines that the example had printed before the cut; the options go to the program.
varve=$1 program=$2 store=$3 said=$4
shift 4
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
fail() { echo "$*"; exit 1; }

newest=$(sed -n 's/^durable \([0-9]*\) .*/\1/p' "$said" | tail -n 1)
: "${newest:=0}"
if [ -e "$store/varve.store" ]; then
    "$varve" verify "$store" >"$work/verify" 2>&1
    status=$?
    # 3: an unfinished tail, which a cut may leave. 1 is damage.
    [ $status = 0 ] || [ $status = 3 ] || { cat "$work/verify"; fail "varve verify: exit status $status"; }
    "$varve" list "$store" | awk 'NR > 1 { print $1 }' >"$work/listed"
    for image in $(sed -n 's/^durable \([0-9]*\) .*/\1/p' "$said"); do
        grep -qx "$image" "$work/listed" || fail "image $image was reported durable and is gone"
    done
elif [ "$newest" != 0 ]; then
    fail "image $newest was reported durable, and there is no store"
fi

"$program" --quiet "$@" --store "$store" --out "$work/resumed" >"$work/output" 2>&1 ||
    { cat "$work/output"; fail "the program does not go on"; }
resumed=$(sed -n 's/^resumed from image \([0-9]*\) .*/\1/p' "$work/output")
[ "${resumed:-0}" -ge "$newest" ] || fail "resumed from image ${resumed:-none}, although $newest was durable"
"$program" --quiet "$@" --out "$work/plain" >/dev/null 2>&1 || fail "the undisturbed run failed"
cmp "$work/plain" "$work/resumed" || fail "the final states differ"
echo "durable before the cut: $newest, resumed from ${resumed:-nothing}"
