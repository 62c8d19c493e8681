#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Tests what power cuts leave of a storage engine's data, without a virtual
# machine: records all that reaches the disk while a command writes to a real
# file system, then builds the disk as a cut at many points would have left it,
# mounts each and runs a check on it. See powercut.py for what a cut loses.
usage() {
    cat <<'EOF'
usage: cut-points.sh [options] --verify SCRIPT -- COMMAND [ARG...]

COMMAND writes below the folder $DISK. Each line it prints is a claim about what
is durable from then on ("committed 7"). For each cut, SCRIPT runs under sh -c
with $DISK, the file system after the cut, and $POWERCUT_OUTPUT, a file with the
lines that COMMAND had printed before it (none, if the cut came early).

  --disk SIZE       size of the disk (default 1G)
  --fs ext4|xfs     its file system (default ext4)
  --points N        how many cuts, at random places and one at the end (default 20)
  --loss MODE       drop, random, torn, keep, or mix (default: a random one of
                    drop, random and torn for each cut)
  --seed N          for the places and losses (default: drawn, and printed)
  --stop-after S    kill COMMAND after S seconds
  --keep FOLDER     keep base.img and writes.log there

Needs root, loop devices and FUSE. With TMPDIR=/dev/shm, memory permitting, it
is several times as fast. Exit status: 0 all checks passed, 1 some did
not or COMMAND failed, 125 it could not be tried.
EOF
}
set -u
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
say() { printf 'cut-points: %s\n' "$*" >&2; }
die() { say "$*"; exit 125; }
[ "$(id -u)" = 0 ] || die "needs root"
unshare -m --propagation private true 2>/dev/null || die "may not mount file systems here (CAP_SYS_ADMIN)"
# Mounts of our own, that go when this ends.
[ "${CUT_POINTS_NS:-}" = $PPID ] ||
    CUT_POINTS_NS=$$ exec unshare -m --propagation private --fork --kill-child "$BASH" "${BASH_SOURCE[0]}" "$@"

size=1G fs=ext4 points=20 loss=mix seed= stop_after= keep= verify=
while [ $# -gt 0 ]; do
    case $1 in
    --) shift; break ;;
    -h|--help) usage; exit 0 ;;
    --disk|--fs|--points|--loss|--seed|--stop-after|--keep|--verify)
        [ $# -ge 2 ] || die "$1 needs a value"
        case $1 in
        --disk) size=$2 ;; --fs) fs=$2 ;; --points) points=$2 ;; --loss) loss=$2 ;; --seed) seed=$2 ;;
        --stop-after) stop_after=$2 ;; --keep) keep=$2 ;; --verify) verify=$2 ;;
        esac
        shift 2 ;;
    *) die "unknown option $1 (see --help)" ;;
    esac
done
[ $# -gt 0 ] && [ -n "$verify" ] || { usage >&2; exit 125; }
case $fs in ext4|xfs) ;; *) die "--fs: ext4 or xfs" ;; esac
case $loss in drop|random|torn|keep|mix) ;; *) die "--loss: drop, random, torn, keep or mix" ;; esac
: "${seed:=$((RANDOM * 32768 + RANDOM))}"
PATH=$PATH:/usr/sbin:/sbin

missing=()
command -v nbdfuse >/dev/null || missing+=(libnbd-bin)
command -v python3 >/dev/null || missing+=(python3)
command -v "mkfs.$fs" >/dev/null || missing+=("$(case $fs in ext4) echo e2fsprogs ;; xfs) echo xfsprogs ;; esac)")
if [ ${#missing[@]} -gt 0 ]; then
    say "installing ${missing[*]}"
    install_missing() {
        DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends -o DPkg::Lock::Timeout=600 \
            "${missing[@]}" >/dev/null 2>&1 </dev/null
    }
    install_missing || { apt-get update -q >/dev/null 2>&1; install_missing; } ||
        die "install ${missing[*]} first: apt-get could not"
fi
[ -e /dev/fuse ] || die "this kernel has no FUSE (/dev/fuse)"
[ -e /dev/loop-control ] || die "this kernel has no loop devices"

work=$(mktemp -d "${TMPDIR:-/tmp}/cut-points.XXXXXX") || die "no temporary folder"
server= fuse= loop= command=
finish() {
    local p
    [ -n "$command" ] && kill -9 "$command" 2>/dev/null
    umount "$work/mnt" 2>/dev/null || umount -l "$work/mnt" 2>/dev/null
    [ -n "$loop" ] && losetup -d "$loop" 2>/dev/null
    umount "$work/disk" 2>/dev/null || umount -l "$work/disk" 2>/dev/null
    for p in $fuse $server; do kill -9 "$p" 2>/dev/null; done
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 125' INT TERM HUP
wait_for() { local i; for i in $(seq 400); do eval "$1" && return 0; sleep 0.05; done; return 1; }

mkdir "$work/mnt" && truncate -s "$size" "$work/base.img" && : >"$work/disk" && mkfifo "$work/marks" ||
    die "cannot prepare $work"
case $fs in
ext4) mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 "$work/base.img" ;;
xfs) mkfs.xfs -q -f "$work/base.img" ;;
esac || die "cannot format the disk"

# --- record ------------------------------------------------------------------
python3 -B "$here/powercut.py" serve --image "$work/base.img" --socket "$work/nbd" --log "$work/writes.log" \
    --marks "$work/marks" --keep-log 2>"$work/server" &
server=$!
wait_for '[ -S "$work/nbd" ]' || die "the disk server does not start: $(cat "$work/server")"
nbdfuse "$work/disk" "nbd+unix:///?socket=$work/nbd" 2>"$work/fuse" &
fuse=$!
wait_for '[ -s "$work/disk" ]' || die "nbdfuse does not start: $(cat "$work/fuse")"
loop=$(losetup -f --show --direct-io=on "$work/disk") || die "no loop device"
mount -t "$fs" "$loop" "$work/mnt" || die "cannot mount the disk"
first=$(python3 -B "$here/powercut.py" info "$work/writes.log" | sed 's/entries=\([0-9]*\).*/\1/')
DISK=$work/mnt "$@" </dev/null >"$work/marks" &
command=$!
began=$SECONDS
while kill -0 "$command" 2>/dev/null; do
    [ -n "$stop_after" ] && [ $((SECONDS - began)) -ge "$stop_after" ] && { kill -9 "$command"; break; }
    sleep 0.05
done
wait "$command" 2>/dev/null
status=$?
command=
[ "$status" = 0 ] || [ -n "$stop_after" ] || { say "the command failed with status $status"; exit 1; }
sleep 0.2
last=$(python3 -B "$here/powercut.py" info "$work/writes.log" | sed 's/entries=\([0-9]*\).*/\1/')
umount "$work/mnt" && losetup -d "$loop" || die "cannot unmount the disk"
loop=
umount "$work/disk" || die "cannot unmount nbdfuse"
wait "$fuse" 2>/dev/null; fuse=
kill -TERM "$server" && wait "$server" || die "the disk server failed: $(cat "$work/server")"
server=
say "recorded: $(python3 -B "$here/powercut.py" info "$work/writes.log"); cuts from $first to $last, seed $seed"
if [ -n "$keep" ]; then
    mkdir -p "$keep" && cp --sparse=always "$work/base.img" "$work/writes.log" "$keep/" || die "cannot keep"
fi

# --- cut ---------------------------------------------------------------------
RANDOM=$seed
failed=0
modes=(drop random torn)
for i in $(seq "$points"); do
    at=$((first + (RANDOM * 32768 + RANDOM) % (last - first + 1)))
    [ "$i" = "$points" ] && at=$last
    mode=$loss
    [ "$loss" = mix ] && mode=${modes[$((RANDOM % 3))]}
    rm -f "$work/cut.img"
    result=$(python3 -B "$here/powercut.py" image --base "$work/base.img" --log "$work/writes.log" \
        --out "$work/cut.img" --at "$at" --loss "$mode" --seed $((seed + i)) --marks "$work/said") ||
        die "cannot build the disk"
    if ! mount -t "$fs" -o loop "$work/cut.img" "$work/mnt"; then
        say "cut at $at, loss $mode ($result): the file system does not mount"
        failed=$((failed + 1))
        continue
    fi
    if ! DISK=$work/mnt POWERCUT_OUTPUT=$work/said sh -c "$verify" >"$work/verify" 2>&1 </dev/null; then
        say "cut at $at, loss $mode, seed $((seed + i)) ($result): the check failed:"
        tail -n 5 "$work/verify" >&2
        failed=$((failed + 1))
    fi
    umount "$work/mnt" || die "cannot unmount a cut disk"
done
say "$((points - failed)) of $points cuts passed"
[ "$failed" = 0 ]
