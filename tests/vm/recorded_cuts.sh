#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Power cuts of a recorded disk (cut-points.sh), spread over file systems, io back ends and O_DIRECT or not; what is
# lost (drop, random, torn) is drawn for each cut. One recording a combination, then as many cuts of it as asked for.
# usage: recorded_cuts.sh PROGRAM CUTS [SEED]     PROGRAM: power_cut_program; SEED: drawn and printed when left out
set -u
program=$1 cuts=$2 seed=${3:-$((RANDOM * 32768 + RANDOM))}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# In memory where there is plenty: several times as fast.
room=$(df --output=avail -k /dev/shm 2>/dev/null | tail -n 1)
free=$(awk '/^MemAvailable/ { print $2 }' /proc/meminfo)
[ "${room:-0}" -gt 2000000 ] && [ "${free:-0}" -gt 4000000 ] && export TMPDIR=/dev/shm
work=$(mktemp -d "${TMPDIR:-/tmp}/recorded-cuts.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT

combinations=(ext4:uring:direct xfs:posix:direct ext4:posix:buffered xfs:uring:buffered
              xfs:uring:direct ext4:posix:direct xfs:posix:buffered ext4:uring:buffered)
failed=0
for i in "${!combinations[@]}"; do
    IFS=: read -r fs io direct <<<"${combinations[$i]}"
    points=$(((cuts + ${#combinations[@]} - 1) / ${#combinations[@]}))
    this=$((seed + i))
    name=power_cuts.${fs}_${io}_${direct}
    echo "[ RUN      ] $name"
    "$here/cut-points.sh" --disk 384M --fs "$fs" --points "$points" --seed "$this" \
        --verify "'$program' check \$DISK/store $this \$POWERCUT_OUTPUT" \
        -- sh -c "exec '$program' write \$DISK/store $this 60 $io $direct" >"$work/output" 2>&1 </dev/null
    status=$?
    grep '^cut-points: ' "$work/output"
    case $status in
    0) echo "[       OK ] $name (0 ms)" ;;
    125) echo Skipped; sed -n 's/^cut-points: //p' "$work/output" | tail -n 1; echo "[  SKIPPED ] $name (0 ms)" ;;
    *) grep -v '^cut-points: ' "$work/output"
       echo "repeat with: $0 $program $cuts $seed"
       echo "[  FAILED  ] $name (0 ms)"
       failed=1 ;;
    esac
done
exit $failed
