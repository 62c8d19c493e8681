#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# A store on each kind of file system, on loop devices: an example writes images, is killed twice and goes on, and ends
# in the state of a run that nobody disturbed. On the way: every image that it reported is listed and `varve verify`
# finds no damage, a second writer gets `busy`, a reader is not in the way, and images are called durable exactly where
# docs/durability.md says so.
# usage: file_systems.sh VARVE GRAY_SCOTT [KIND...]
set -u
[ $# -ge 2 ] || { echo "usage: file_systems.sh VARVE GRAY_SCOTT [KIND...]" >&2; exit 2; }
PATH=$PATH:/usr/sbin:/sbin
suite=file_systems
kinds=("${@:3}")
[ $# -gt 2 ] || kinds=(ext4 xfs btrfs tmpfs overlayfs overlayfs_volatile overlayfs_memory nfs)
options=(--quiet --size 96 --steps 160 --every 4 --delay-ms "${FILE_SYSTEMS_DELAY_MS:-8}")

begins() { echo "[ RUN      ] $suite.$1"; }
passes() { echo "[       OK ] $suite.$1 ($((($(date +%s%N) - began) / 1000000)) ms)"; }
skips() { echo Skipped; echo "$2"; echo "[  SKIPPED ] $suite.$1 (0 ms)"; }
skip_all() { for kind in "${kinds[@]}"; do begins "$kind"; skips "$kind" "$1"; done; exit 0; }

[ "$(id -u)" = 0 ] || skip_all "needs root"
unshare -m --propagation private true 2>/dev/null || skip_all "may not mount file systems here (CAP_SYS_ADMIN)"
# Mounts of our own, that go when this ends.
[ "${FILE_SYSTEMS_NS:-}" = $PPID ] ||
    FILE_SYSTEMS_NS=$$ exec unshare -m --propagation private --fork --kill-child "$BASH" "${BASH_SOURCE[0]}" "$@"
varve=$1 program=$2

# In memory where there is plenty: flushes of a loop device cost much on a busy disk.
room=$(df --output=avail -k /dev/shm 2>/dev/null | tail -n 1)
free=$(awk '/^MemAvailable/ { print $2 }' /proc/meminfo)
[ "${room:-0}" -gt 1000000 ] && [ "${free:-0}" -gt 2000000 ] && export TMPDIR=/dev/shm
work=$(mktemp -d "${TMPDIR:-/tmp}/file-systems.XXXXXX") || exit 1
mounts=() exported= writer= newest=
finish() {
    local i
    [ -n "$writer" ] && kill -9 "$writer" 2>/dev/null
    [ -n "$exported" ] && exportfs -u "127.0.0.1:$exported" 2>/dev/null
    for ((i = ${#mounts[@]} - 1; i >= 0; i--)); do umount "${mounts[i]}" 2>/dev/null || umount -l "${mounts[i]}"; done
    rm -rf --one-file-system "$work"
}
trap finish EXIT
trap 'exit 1' INT TERM HUP

# --- mounting: 0 mounted at $work/KIND, else $reason says why it can't be -----------------------------------------

kernel_has() {
    grep -qw "$1" /proc/filesystems || modprobe -q "$1" 2>/dev/null && grep -qw "$1" /proc/filesystems && return 0
    reason="this kernel has no $1"
    return 1
}

need_package() {    # COMMAND PACKAGE
    command -v "$1" >/dev/null && return 0
    local try
    for try in 1 2; do
        DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends -o DPkg::Lock::Timeout=60 "$2" \
            >/dev/null 2>&1 </dev/null && command -v "$1" >/dev/null && return 0
        [ $try = 1 ] && apt-get update -q >/dev/null 2>&1 </dev/null
    done
    reason="install $2 first: apt-get could not"
    return 1
}

mount_it() {    # POINT ARGUMENT...
    mkdir -p "$1" && mount "${@:2}" "$1" 2>"$work/mount" || { reason="cannot mount it here: $(head -n 1 "$work/mount")"
                                                              return 1; }
    mounts+=("$1")
}

mount_disk() {  # FS PACKAGE
    kernel_has "$1" && need_package "mkfs.$1" "$2" || return 1
    [ -e /dev/loop-control ] || { reason="this kernel has no loop devices"; return 1; }
    # A name of its own: two disks of one identity can't be mounted at once.
    truncate -s 400M "$work/$1.disk" && "mkfs.$1" -q "$work/$1.disk" >"$work/mount" 2>&1 ||
        { reason="cannot format it: $(tail -n 1 "$work/mount")"; return 1; }
    mount_it "$work/$1" -t "$1" -o loop "$work/$1.disk"
}

mount_kind() {
    local lower
    case $1 in
    ext4) mount_disk ext4 e2fsprogs ;;
    xfs) mount_disk xfs xfsprogs ;;
    btrfs) mount_disk btrfs btrfs-progs ;;
    tmpfs) mount_it "$work/tmpfs" -t tmpfs -o size=200M tmpfs ;;
    overlayfs*)
        kernel_has overlay || return 1
        local below=ext4 volatile=
        [ "$1" = overlayfs_memory ] && below=tmpfs
        [ "$1" = overlayfs_volatile ] && volatile=,volatile
        mountpoint -q "$work/$below" || { reason="cannot mount $below for it"; return 1; }
        lower=$work/$below/lower-of-$1
        mkdir -p "$lower" "$lower.upper" "$lower.work"
        mount_it "$work/$1" -t overlay overlay \
            -o "lowerdir=$lower,upperdir=$lower.upper,workdir=$lower.work$volatile" ;;
    nfs) mount_nfs ;;
    esac
}

mount_nfs() {
    kernel_has nfsd && kernel_has nfs4 || return 1
    local command
    for command in mount.nfs rpc.nfsd rpc.mountd exportfs; do
        # Not by itself: on most machines that would start a server for good.
        command -v $command >/dev/null || { reason="install nfs-kernel-server first, which this test does not do"
                                            return 1; }
    done
    mountpoint -q "$work/ext4" || { reason="cannot mount ext4 for it"; return 1; }
    mkdir -p "$work/ext4/exported"
    rpcbind 2>/dev/null
    mountpoint -q /proc/fs/nfsd || mount_it /proc/fs/nfsd -t nfsd nfsd || return 1
    exportfs -o rw,sync,no_root_squash,no_subtree_check,fsid=77 "127.0.0.1:$work/ext4/exported" 2>"$work/mount" &&
        rpc.nfsd -N 3 -G 10 -L 10 2 2>>"$work/mount" &&
        { pidof rpc.mountd >/dev/null || rpc.mountd -N 3 2>>"$work/mount"; } ||
        { reason="cannot serve it here: $(tail -n 1 "$work/mount")"; return 1; }
    exported=$work/ext4/exported
    mount_it "$work/nfs" -t nfs -o vers=4.2,soft,timeo=50 "127.0.0.1:$exported"
}

# --- the exercise -------------------------------------------------------------------------------------------------

fail() {
    echo "$*"
    [ -s "$work/said" ] && tail -n 5 "$work/said"
    return 1
}

run_killed() {  # STORE WORD: as far as three images that are WORD; kills it
    : >"$work/said"     # not the lines of the run before, which the loop might still see
    "$program" "${options[@]}" --store "$1" --out "$work/out" >"$work/said" 2>&1 &
    writer=$!
    until [ "$(grep -c "^$2 " "$work/said")" -ge 3 ]; do
        kill -0 $writer 2>/dev/null || { fail "it ended before it could be killed"; return 1; }
        sleep 0.02
    done
    local status=0
    "$program" "${options[@]}" --store "$1" >"$work/second" 2>&1 && status=1
    grep -q "pid $writer" "$work/second" || status=1
    [ $status = 0 ] || { cat "$work/second"; fail "a second writer was not refused by the name of the first"; }
    "$varve" list "$1" >"$work/listed" 2>&1 ||
        { cat "$work/listed"; fail "a reader beside the writer failed"; status=1; }
    kill -9 $writer
    wait $writer 2>/dev/null
    writer=
    return $status
}

check_killed() {    # STORE WORD: all that was reported is there, and nothing is damaged
    "$varve" verify --deep "$1" >"$work/verify" 2>&1
    local status=$? image
    # 3: an unfinished tail, which a kill may leave. 1 is damage.
    [ $status = 0 ] || [ $status = 3 ] || { cat "$work/verify"; fail "varve verify: exit status $status"; return 1; }
    "$varve" list "$1" | awk 'NR > 1 { print $1 }' >"$work/listed"
    for image in $(sed -n "s/^$2 \([0-9]*\) .*/\1/p" "$work/said"); do
        grep -qx "$image" "$work/listed" || { fail "image $image was reported and is gone"; return 1; }
    done
    newest=$(sed -n "s/^$2 \([0-9]*\) .*/\1/p" "$work/said" | tail -n 1)
}

exercise() {    # KIND
    local store=$work/$1/store type=${1%_*} word=durable other=written resumed region
    case $1 in tmpfs|*_volatile|*_memory) word=written other=durable ;; esac
    for _ in 1 2; do
        run_killed "$store" $word && check_killed "$store" $word || return 1
        grep -q "^$other " "$work/said" && { fail "images on $1 must be $word, never $other"; return 1; }
    done
    "$program" "${options[@]}" --store "$store" --out "$work/out" --stats "$work/stats" >"$work/said" 2>&1 ||
        { fail "it does not go on"; return 1; }
    resumed=$(sed -n 's/^resumed from image \([0-9]*\) .*/\1/p' "$work/said")
    [ "${resumed:-0}" -ge "$newest" ] || { fail "resumed from ${resumed:-none}, although $newest was $word"; return 1; }
    grep -q "^file_system=$type" "$work/stats" || { grep '^file_system=' "$work/stats"; fail "not $type"; return 1; }
    cmp "$work/plain" "$work/out" || { fail "the final states differ"; return 1; }
    "$varve" verify --deep "$store" >"$work/verify" 2>&1 ||
        { cat "$work/verify"; fail "damage after the close"; return 1; }
    # The last step has an image: its fields are what the program itself wrote at its end.
    for region in u v; do "$varve" export "$store" latest $region; done >"$work/export" 2>"$work/said" ||
        { fail "varve export failed"; return 1; }
    cmp -n "$(stat -c %s "$work/export")" "$work/export" "$work/plain" || { fail "the last image differs"; return 1; }
    rm -rf "$store"
}

"$program" "${options[@]}" --out "$work/plain" >"$work/said" 2>&1 || { fail "the plain run failed"; exit 1; }
failed=0
for kind in "${kinds[@]}"; do
    begins "$kind"
    began=$(date +%s%N)
    if ! mount_kind "$kind"; then
        skips "$kind" "$reason"
    elif exercise "$kind"; then
        passes "$kind"
    else
        [ -n "$writer" ] && kill -9 "$writer" 2>/dev/null
        writer=
        echo "[  FAILED  ] $suite.$kind (0 ms)"
        failed=1
    fi
done
exit $failed
