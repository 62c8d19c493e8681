#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# The suites that need other kernels than this machine's, each kernel in one virtual machine:
#   debian-6.1    no WP_ASYNC, no PAGEMAP_SCAN: `uffd` must say that it is unavailable, `soft-dirty` must serve
#   debian-6.12   everything
# and power cuts, of a whole guest and of a recorded disk.
# usage: run.sh BUILD_DIR [NAME]      NAME: a regular expression for test programs, "example", "nfs", "power_cut"
# Ends as ./dev test does. What can't be run is skipped, with the missing package or right as its reason.
set -u
program=vm
. "$(dirname "${BASH_SOURCE[0]}")/../../.ci/common.sh" || exit 2
[ $# -ge 1 ] || die "usage: tests/vm/run.sh BUILD_DIR [NAME]"
build=$1 selection=${2:-}
here=$top/tests/vm

# What is about quantity: minutes in an emulated processor, and nothing in it depends on the kernel.
too_slow='-*HundredThousand*:*LimitOfMappings*'
# What a kernel may refuse to an ordinary user; the others use no more than these.
needs_no_rights='^(tracker|io)_'
slow_programs='^(capture_contract_test|engine_retention_test)$'

log=$build/Testing/vm.log
mkdir -p "${log%/*}" && : >"$log" || die "cannot write $log"
work=$(mktemp -d "${TMPDIR:-/tmp}/varve-vm.XXXXXX") || die "no temporary directory"
trap 'rm -rf "$work"' EXIT

skip_all() {
    { echo "1/1 Testing: vm"; echo "Skipped"; echo "$1" | tr '\n' ' '; echo
      echo "[  SKIPPED ] vm.all (0 ms)"; echo "Test Passed."; } >>"$log"
    report "$log"
    exit
}
[ "$(uname -m)" = x86_64 ] || skip_all "guests are x86_64, and this machine is $(uname -m)"
install "${packages_vm[@]}" || skip_all "$reason"

# Guests have little memory, so what is shipped has no debug information.
mapfile -t programs < <(kernel_programs "$build")
chosen=()
for path in "${programs[@]}"; do
    name=${path##*/}
    [[ $name =~ $selection ]] || continue
    # By its whole name it runs.
    [[ $name =~ $slow_programs && $selection != "$name" ]] && continue
    strip -o "$work/$name" "$path" && chosen+=("$name") || die "cannot strip $path"
done
[ ${#chosen[@]} -gt 0 ] || [[ example =~ $selection ]] || [[ nfs =~ $selection ]] || [[ power_cut =~ $selection ]] ||
    die "no suite matches '$selection'"
strip -o "$work/gray_scott" "$build/examples/gray_scott" && strip -o "$work/varve" "$build/tools/varve" ||
    die "the examples and tools are not built"
cp "$here"/*.sh "$work/"

guest_script() {    # KERNEL: what one guest runs; each program as root and as an ordinary user
    cat <<END
run() {
    echo "1/1 Testing: \$1"
    shift
    if "\$@"; then echo "Test Passed."; else echo "exit status \$?"; echo "Test Failed."; fi
}
chmod 755 '$work'
END
    local name
    for name in "${chosen[@]}"; do
        printf "run '%s (%s)' timeout 900 '%s/%s' '--gtest_filter=%s'\n" "$name" "$1" "$work" "$name" "$too_slow"
        [[ $name =~ $needs_no_rights ]] || continue
        printf "run '%s (%s, as nobody)' su -s /bin/sh nobody -c \"timeout 900 '%s/%s' '--gtest_filter=%s'\"\n" \
            "$name" "$1" "$work" "$name" "$too_slow"
    done
}

guest() {   # TITLE KERNEL run-in-vm.sh's arguments...: one machine; its failure to start is a failed test
    local title=$1 kernel=$2 status started=$SECONDS
    shift 2
    say "$title on $kernel"
    "$here/run-in-vm.sh" --kernel "$kernel" --timeout 1200 "$@" >"$work/output" 2>"$work/errors" </dev/null
    status=$?
    cat "$work/output" >>"$log"
    if [ $status != 0 ]; then
        cat "$work/output" "$work/errors"
        { echo "1/1 Testing: $title ($kernel)"; cat "$work/errors"; echo "Test Failed."; } >>"$log"
    fi
    say "$title on $kernel: $((SECONDS - started)) s"
}

if [ ${#chosen[@]} -gt 0 ]; then
    for kernel in debian-6.1 debian-6.12; do
        guest_script "$kernel" >"$work/suites.sh"
        ships=()
        for name in "${chosen[@]}"; do ships+=(--ship "$work/$name"); done
        guest "test programs" "$kernel" --mem 2048 "${ships[@]}" --ship "$work/suites.sh" -- sh "$work/suites.sh"
    done
fi
if [[ example =~ $selection ]]; then
    { echo "echo '1/1 Testing: example (debian-6.1)'"
      echo "sh '$work/example.sh' '$work/gray_scott' /disk/store soft-dirty --size 96 --steps 400 --every 10" \
          "--delay-ms 20 && echo 'Test Passed.' || echo 'Test Failed.'"; } >"$work/example-guest.sh"
    guest "example" debian-6.1 --disk 512M --ship "$work/gray_scott" --ship "$work/example.sh" \
        --ship "$work/example-guest.sh" -- sh "$work/example-guest.sh"
fi

# A store on NFS: this machine's kernel may have no server; Debian's has one.
nfs_programs=(date rm stat df grep sed awk sleep tail cmp mount umount mountpoint unshare losetup truncate mkfs.ext4
    rpc.nfsd rpc.mountd exportfs rpcbind)
if [[ nfs =~ $selection ]]; then
    ships=() missing=
    for name in "${nfs_programs[@]}"; do
        path=$(PATH=/usr/sbin:/sbin:$PATH type -P "$name") && ships+=(--ship "$path") || missing=$name
    done
    for path in /sbin/mount.nfs /etc/netconfig /etc/services /etc/protocols /etc/rpc; do
        [ -e $path ] && ships+=(--ship $path) || missing=$path
    done
    { echo "mkdir -p /var/lib/nfs/v4recovery /var/lib/nfs/sm /var/lib/nfs/rpc_pipefs"
      echo ": >/var/lib/nfs/etab; : >/var/lib/nfs/rmtab; : >/etc/exports"
      echo "echo '1/1 Testing: file_systems (debian-6.12)'"
      echo "'$work/file_systems.sh' '$work/varve' '$work/gray_scott' ext4 nfs && echo 'Test Passed.' ||" \
          "echo 'Test Failed.'"; } >"$work/nfs.sh"
    if [ -n "$missing" ]; then
        { echo "1/1 Testing: file_systems (debian-6.12)"; echo "[ RUN      ] file_systems.nfs"; echo Skipped
          echo "install nfs-kernel-server first, which this test does not do: no $missing"
          echo "[  SKIPPED ] file_systems.nfs (0 ms)"; echo "Test Passed."; } >>"$log"
    else
        guest "nfs" debian-6.12 --mem 2048 --module nfsd --module nfsv4 --module loop --env FILE_SYSTEMS_DELAY_MS=40 \
            "${ships[@]}" --ship "$work/gray_scott" --ship "$work/varve" --ship "$work/file_systems.sh" \
            --ship "$work/nfs.sh" -- sh "$work/nfs.sh"
    fi
fi

case_begins() { printf '1/1 Testing: %s\n[ RUN      ] %s\n' "$1" "$1" >>"$log"; }
case_ends() {   # NAME STATUS
    case $2 in
    0) printf '[       OK ] %s (0 ms)\nTest Passed.\n' "$1" >>"$log" ;;
    *) cat "$work/output"
       { cat "$work/output"; printf '[  FAILED  ] %s (0 ms)\nTest Failed.\n' "$1"; } >>"$log" ;;
    esac
}

check_command() {   # STORE: for the shell of --verify
    printf "sh '%s' '%s' '%s' %s \$POWERCUT_OUTPUT %s" "$work/power_cut_check.sh" "$work/varve" "$work/gray_scott" "$@"
}

# One cut of a whole guest's power, in the middle of writing.
cut_guest() {   # KERNEL FS LOSS IO
    local name=power_cut.guest_$2_$3_$4 options='--size 96 --steps 600 --every 5 --delay-ms 10'
    case_begins "$name"
    say "$name"
    # shellcheck disable=SC2086  # options are words
    "$here/run-in-vm.sh" --kernel "$1" --timeout 600 --disk 512M --fs "$2" --loss "$3" --kill-after 3 \
        --env "VARVE_IO=$4" --ship "$work/varve" --ship "$work/power_cut_check.sh" \
        --verify "$(check_command /disk/store "$options")" \
        -- "$work/gray_scott" --quiet $options --store /disk/store >"$work/output" 2>&1 </dev/null
    case_ends "$name" $?
}

# Many cuts without a guest: the disk as it would have been found after each.
cut_disk() {    # FS IO POINTS
    local name=power_cut.recorded_$1_$2 options='--size 128 --steps 400 --every 5'
    case_begins "$name"
    say "$name, $3 cuts"
    TMPDIR=$work VARVE_IO=$2 "$here/cut-points.sh" --disk 512M --fs "$1" --points "$3" \
        --verify "$(check_command '$DISK/store' "$options")" \
        -- sh -c "'$work/gray_scott' --quiet $options --store \$DISK/store" >"$work/output" 2>&1 </dev/null
    local status=$?
    grep '^cut-points: ' "$work/output" >&2
    if [ $status = 125 ]; then
        { echo Skipped; sed -n 's/^cut-points: //p' "$work/output" | tail -n 1
          printf '[  SKIPPED ] %s (0 ms)\nTest Passed.\n' "$name"; } >>"$log"
        return
    fi
    case_ends "$name" $status
}

if [[ power_cut =~ $selection ]]; then
    cut_guest debian-6.1 ext4 torn posix
    cut_guest debian-6.12 xfs random uring
    cut_disk ext4 uring 15
    cut_disk xfs posix 15
fi
echo
report "$log"
