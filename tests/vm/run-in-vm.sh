#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs a command in a small virtual machine whose Linux kernel has what the
# checkpoint engine's trackers and its durability tests need: soft-dirty bits,
# userfaultfd write protection, io_uring, and a disk whose power can be cut.
# Needs no hardware virtualization: QEMU emulates the processor.
usage() {
    cat <<'EOF'
usage: run-in-vm.sh [options] -- COMMAND [ARG...]

COMMAND runs as root in the guest, in a folder of the same name as the current
one. If it is a program of this machine, it is shipped with its shared
libraries; sh and the other usual tools are busybox's. Its output is this
script's output, its exit status this script's.

  --ship PATH       also ship this file or folder, to the same path in the guest,
                    with the shared libraries its programs need (repeatable)
  --env NAME=VALUE  set in COMMAND's environment (repeatable)
  --kernel NAME     debian-6.1 (default), or debian-6.12, which also has
                    userfaultfd WP_ASYNC and PAGEMAP_SCAN
  --module NAME     load this kernel module (repeatable), e.g. dm-flakey
  --mem MiB         guest memory (default 1024, more if much is shipped)
  --cpus N          guest processors (default 2)
  --timeout SECONDS for one boot and run (default 600); then exit status 124
  --out DIR         afterwards, copy what the guest left in /out to DIR
  --console FILE    write the guest kernel's messages to FILE

  --disk SIZE       a fresh scratch disk (512M, 4G, ...), mounted at /disk
  --disk-file FILE  keep the disk in FILE: formatted if FILE is missing (with
                    --disk SIZE, default 1G), used as it is otherwise
  --fs ext4|xfs     its file system (default ext4)

Power cuts (give the disk a volatile write cache, see powercut.py):
  --kill-after S    cut the power S seconds after COMMAND started (fractions
                    allowed), or when COMMAND has ended, if that comes first
  --kill-on TEXT    cut the power when COMMAND's output shows TEXT
  --verify SCRIPT   boot again on the same disk and run `sh -c SCRIPT`; its exit
                    status becomes this script's. $POWERCUT_OUTPUT names a file
                    with the whole lines that COMMAND had printed before the cut
  --loss MODE       what happens to writes not yet flushed: drop (default),
                    random, torn, keep
  --seed N          for random and torn (default: drawn, and printed)

exit status: COMMAND's or SCRIPT's; 124 timeout; 125 the machine did not work.
EOF
}

set -u
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
say() { printf 'run-in-vm: %s\n' "$*" >&2; }
die() { say "$*"; exit 125; }

kernel=debian-6.1 mem=1024 cpus=2 timeout=600 out= console=
disk= disk_file= fs=ext4 kill_after= kill_on= verify= loss=drop seed=
ships=() envs=() modules=()
while [ $# -gt 0 ]; do
    case $1 in
    --) shift; break ;;
    -h|--help) usage; exit 0 ;;
    --ship|--env|--kernel|--module|--mem|--cpus|--timeout|--out|--console|--disk|--disk-file|--fs|\
    --kill-after|--kill-on|--verify|--loss|--seed)
        [ $# -ge 2 ] || die "$1 needs a value"
        case $1 in
        --ship) ships+=("$2") ;;
        --env) envs+=("$2") ;;
        --module) modules+=("$2") ;;
        --kernel) kernel=$2 ;;
        --mem) mem=$2 ;;
        --cpus) cpus=$2 ;;
        --timeout) timeout=$2 ;;
        --out) out=$2 ;;
        --console) console=$2 ;;
        --disk) disk=$2 ;;
        --disk-file) disk_file=$2 ;;
        --fs) fs=$2 ;;
        --kill-after) kill_after=$2 ;;
        --kill-on) kill_on=$2 ;;
        --verify) verify=$2 ;;
        --loss) loss=$2 ;;
        --seed) seed=$2 ;;
        esac
        shift 2 ;;
    *) die "unknown option $1 (see --help)" ;;
    esac
done
[ $# -gt 0 ] || { usage >&2; exit 125; }
case $kernel in debian-6.1|debian-6.12) ;; *) die "--kernel: debian-6.1 or debian-6.12" ;; esac
case $fs in ext4|xfs) ;; *) die "--fs: ext4 or xfs" ;; esac
case $loss in drop|random|torn|keep) ;; *) die "--loss: drop, random, torn or keep" ;; esac
for n in "$mem" "$cpus" "$timeout" "${kill_after:-0}" "${seed:-0}"; do
    [[ $n =~ ^[0-9]+(\.[0-9]+)?$ ]] || die "$n is not a number"
done
cut=; [ -n "$kill_after$kill_on" ] && cut=1
[ -n "$verify" ] && [ -z "$cut" ] && die "--verify needs --kill-after or --kill-on"
[ -n "$cut$disk$disk_file" ] && : "${disk:=1G}"
: "${seed:=$((RANDOM * 32768 + RANDOM))}"
[ "$(uname -m)" = x86_64 ] || die "only x86_64 guests of an x86_64 machine are supported"
PATH=$PATH:/usr/sbin:/sbin

work=$(mktemp -d "${TMPDIR:-/tmp}/run-in-vm.XXXXXX") || die "no temporary folder"
qemu_pid= server_pid= tee_pid=
finish() {
    [ -n "$qemu_pid" ] && kill -9 "$qemu_pid" 2>/dev/null
    [ -n "$server_pid" ] && kill -9 "$server_pid" 2>/dev/null
    [ -n "$tee_pid" ] && kill "$tee_pid" 2>/dev/null
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM HUP

# --- what this machine must have ---------------------------------------------
cache=${XDG_CACHE_HOME:-${HOME:-/var/tmp}/.cache}/run-in-vm
mkdir -p "$cache" || die "cannot make $cache"
exec 9>"$cache/lock" && flock 9 || die "cannot lock $cache/lock"

quietly() {     # runs a command; shows what it said only if it fails
    "$@" >"$work/log" 2>&1 </dev/null 9>&- || { tail -n 15 "$work/log" >&2; return 1; }
}
missing=()
want() { command -v "$1" >/dev/null || missing+=("$2"); }
want qemu-system-x86_64 qemu-system-x86
want cpio cpio
want xz xz-utils
want tar tar
[ -n "$disk" ] && [ "$fs" = ext4 ] && want mkfs.ext4 e2fsprogs
[ -n "$disk" ] && [ "$fs" = xfs ] && want mkfs.xfs xfsprogs
[ -n "$cut" ] && want python3 python3
if [ ${#missing[@]} -gt 0 ]; then
    how="install ${missing[*]} first (apt-get install --no-install-recommends ${missing[*]})"
    command -v apt-get >/dev/null || die "$how"
    [ "$(id -u)" = 0 ] || die "not root, so cannot: $how"
    say "installing ${missing[*]}"
    install_missing() {
        DEBIAN_FRONTEND=noninteractive quietly apt-get install -y -q --no-install-recommends \
            -o DPkg::Lock::Timeout=600 "${missing[@]}"
    }
    install_missing || { quietly apt-get update -q && install_missing; } || die "apt failed: $how"
fi

# Fetches the newest package whose name matches a pattern, from this machine's
# apt sources or, failing that, from a Debian suite, and unpacks it to a folder.
fetch() {   # FOLDER PATTERN SUITE...
    local folder=$1 pattern=$2 name opts=() suite
    shift 2
    [ -e "$folder/.complete" ] && return
    command -v apt-get >/dev/null && command -v dpkg >/dev/null ||
        die "needs apt and dpkg to fetch $pattern (fill $folder by hand otherwise)"
    newest() { apt-cache "${opts[@]}" pkgnames 2>/dev/null | grep -Ex "$pattern" | sort -V | tail -n 1; }
    rm -rf "$folder" && mkdir -p "$folder/tmp" || die "cannot make $folder"
    name=$(newest)
    if [ -n "$name" ]; then
        say "fetching $name"
        (cd "$folder/tmp" && quietly apt-get download -q "$name") || name=
    fi
    if [ -z "$name" ]; then
        local apt=$folder/tmp/apt mirror keyring=/usr/share/keyrings/debian-archive-keyring.gpg
        mirror=$(apt-get indextargets --format '$(REPO_URI)' 2>/dev/null | sed -n 's#/debian/*$##p' | head -n 1)
        [ -n "$mirror" ] || die "no package matches $pattern, and apt knows no Debian mirror to look in $* for it"
        mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
        for suite; do
            case $suite in
            *-security) echo "deb [signed-by=$keyring] $mirror/debian-security $suite main" ;;
            *) echo "deb [signed-by=$keyring] $mirror/debian $suite main" ;;
            esac
        done >"$apt/sources"
        opts=(-o "Dir::Etc::sourcelist=$apt/sources" -o Dir::Etc::sourceparts=/dev/null
              -o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=root)
        quietly apt-get "${opts[@]}" update -q || die "cannot read the package lists of $* at $mirror"
        name=$(newest)
        [ -n "$name" ] || die "no package matches $pattern in $*"
        say "fetching $name"
        (cd "$folder/tmp" && quietly apt-get "${opts[@]}" download -q "$name") || die "cannot fetch $name"
    fi
    quietly dpkg -x "$folder"/tmp/*.deb "$folder" || die "cannot unpack $name"
    rm -rf "$folder/tmp"
    echo "$name" >"$folder/.complete"
}
case $kernel in
debian-6.1) fetch "$cache/$kernel" 'linux-image-6\.1\.0-[0-9]+-cloud-amd64' bookworm bookworm-security ;;
debian-6.12)
    fetch "$cache/$kernel" 'linux-image-6\.12\.[0-9.]+\+deb[0-9.]+-cloud-amd64' bookworm-backports bookworm-security ;;
esac
fetch "$cache/busybox" busybox-static bookworm
vmlinuz=$(ls "$cache/$kernel"/boot/vmlinuz-*) || die "no kernel in $cache/$kernel"
version=${vmlinuz##*/vmlinuz-}
module_root=$(ls -d "$cache/$kernel"/{,usr/}lib/modules/"$version" 2>/dev/null | head -n 1)
busybox=$(ls "$cache"/busybox/bin/busybox "$cache"/busybox/usr/bin/busybox 2>/dev/null | head -n 1)
[ -x "$busybox" ] || die "no busybox in $cache/busybox"
flock -u 9; exec 9>&-

# --- what goes into the guest ------------------------------------------------
root=$work/root
mkdir -p "$root"/{bin,sbin,usr/bin,usr/sbin,proc,sys,dev,tmp,run,etc,root,disk,out,vm/modules}
chmod 1777 "$root/tmp"
cp "$busybox" "$root/bin/busybox"
ln -s /bin/busybox "$root/usr/bin/env"
ln -s /bin/busybox "$root/bin/sh"
printf '%s\n' 'root:x:0:0:root:/root:/bin/sh' 'nobody:x:65534:65534:nobody:/tmp:/bin/sh' >"$root/etc/passwd"
printf '%s\n' 'root:x:0:' 'nogroup:x:65534:' >"$root/etc/group"
echo '127.0.0.1 localhost vm' >"$root/etc/hosts"

put() {     # ships one file by its absolute path, following links
    [ -e "$root$1" ] && return
    mkdir -p "$root$(dirname "$1")" && cp -L --preserve=mode,timestamps "$1" "$root$1" || die "cannot ship $1"
}
is_elf() { [ "$(head -c 4 "$1" 2>/dev/null | tr -d '\0')" = $'\177ELF' ]; }
put_libraries() {
    local line lib
    is_elf "$1" || return 0
    while read -r line; do
        case $line in
        *'not found'*) die "$1: $line" ;;
        *'=> /'*) lib=${line#*=> }; lib=${lib%% (*} ;;
        /*) lib=${line%% (*} ;;
        *) continue ;;
        esac
        put "$(realpath -s "$lib")"
    done < <(ldd "$1" 2>/dev/null)
}
put_program() {
    put "$1"
    put_libraries "$1"
    if [ "$(head -c 2 "$1" | tr -d '\0')" = '#!' ]; then
        local interpreter
        read -r interpreter <"$1"
        interpreter=${interpreter#\#!}; interpreter=${interpreter# }
        case $interpreter in
        */env\ *) interpreter=$(command -v "${interpreter#*/env }") || die "$1: its interpreter is missing" ;;
        esac
        interpreter=${interpreter%% *}
        case $interpreter in
        /bin/sh|/usr/bin/sh) ;;
        *python*|*perl*) die "$1 needs $interpreter, which is not shipped to the guest" ;;
        *) put "$interpreter"; put_libraries "$interpreter" ;;
        esac
    fi
}
command=("$@")
case $1 in
*/*) [ -f "$1" ] || die "$1: no such program"
     command[0]=$(realpath -s "$1"); put_program "${command[0]}" ;;
*)   if ! "$busybox" --list | grep -qx -- "$1"; then
         program=$(type -P "$1") || die "$1: neither a busybox tool nor a program of this machine"
         command[0]=$(realpath -s "$program"); put_program "${command[0]}"
     fi ;;
esac
for s in "${ships[@]}"; do
    [ -e "$s" ] || die "--ship $s: not there"
    s=$(realpath -s "$s")
    if [ -d "$s" ]; then
        mkdir -p "$root$s" && cp -a "$s/." "$root$s/" || die "cannot ship $s"
        while IFS= read -r -d '' f; do put_libraries "$f"; done \
            < <(find "$s/" -type f \( -perm -u+x -o -name '*.so' -o -name '*.so.*' \) -print0)
    else
        put_program "$s"
    fi
done
# glibc loads this one by itself, to cancel threads.
libgcc=/lib/x86_64-linux-gnu/libgcc_s.so.1
[ -e "$libgcc" ] && [ -e "$root${libgcc%/*}/libc.so.6" ] && put "$libgcc"

# Kernel modules, each behind those it depends on.
module_count=0
add_module() {
    local name=${1//-/_} path dep
    case " ${loaded:-} " in *" $name "*) return ;; esac
    loaded="${loaded:-} $name"
    grep -Eq "/${name//_/[-_]}\.ko" "$module_root/modules.builtin" && return
    path=$(find "$module_root" -regextype egrep -regex ".*/${name//_/[-_]}\.ko(\.xz)?" | head -n 1)
    [ -n "$path" ] || die "kernel $version has no module $1"
    case $path in *.xz) xz -dc "$path" ;; *) cat "$path" ;; esac >"$work/$name.ko" || die "cannot read $path"
    for dep in $(tr '\0' '\n' <"$work/$name.ko" | sed -n 's/^depends=//p' | tr ',' ' '); do add_module "$dep"; done
    module_count=$((module_count + 1))
    mv "$work/$name.ko" "$root/vm/modules/$(printf %02d $module_count)-$name.ko"
}
[ -n "$disk" ] && [ "$fs" = xfs ] && modules=(xfs "${modules[@]}")
[ -n "$disk$out" ] && modules=(virtio_pci virtio_blk "${modules[@]}")
for m in "${modules[@]}"; do add_module "$m"; done

quote() { local a; for a; do printf "'%s' " "${a//\'/\'\\\'\'}"; done; }
{
    echo "cd $(quote "$PWD") || exit 125"
    for e in "${envs[@]}"; do echo "export $(quote "$e")"; done
} >"$root/vm/setup"
mkdir -p "$root$PWD"
{ echo ". /vm/setup"; echo "exec $(quote "${command[@]}")"; } >"$root/vm/command"

cat >"$root/init" <<'EOF'
#!/bin/busybox sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb
/bin/busybox --install -s
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null
ln -s /proc/self/fd /dev/fd
ln -s /proc/self/fd/0 /dev/stdin
ln -s /proc/self/fd/1 /dev/stdout
ln -s /proc/self/fd/2 /dev/stderr
exec >/dev/ttyS0 2>&1
stty -F /dev/ttyS1 raw -echo
stty -F /dev/ttyS2 raw -echo
hostname vm
ip link set lo up
ulimit -c 0
ulimit -n 65536
ulimit -l unlimited
device() {
    for d in /sys/block/vd*; do
        [ "$(cat $d/serial 2>/dev/null)" = "$1" ] && echo /dev/${d##*/} && return
    done
    return 1
}
option() { tr ' ' '\n' </proc/cmdline | sed -n "s/^vm\.$1=//p"; }
leave() {
    sync
    umount /disk 2>/dev/null
    echo "EXIT $1" >/dev/ttyS2
    poweroff -f
}
for m in /vm/modules/*.ko; do
    [ -e "$m" ] && { insmod "$m" || { echo "cannot load $m"; leave 125; }; }
done
fs=$(option fs)
if [ -n "$fs" ]; then
    disk=$(device disk) && mount -t "$fs" "$disk" /disk || { echo "cannot mount the disk"; leave 125; }
fi
run=$(option run)
[ -e /vm/before ] && export POWERCUT_OUTPUT=/vm/before
echo "START $(cut -d ' ' -f 1 /proc/uptime)" >/dev/ttyS2
/bin/busybox sh /vm/$run </dev/null >/dev/ttyS1 2>&1
status=$?
if [ "$run" = command ] && [ "$(option cut)" = 1 ]; then
    echo "EXIT $status" >/dev/ttyS2
    while :; do sleep 1000; done
fi
if results=$(device results); then
    tar -c -f "$results" -C /out . || { echo "cannot save /out"; leave 125; }
fi
leave $status
EOF
chmod +x "$root/init"

pack() {
    (cd "$root" && find . -print0 | cpio -0 -o -H newc -R 0:0 --quiet) >"$work/initramfs" ||
        die "cannot pack the guest's files"
}

# --- the disks ---------------------------------------------------------------
drives=()
if [ -n "$disk" ]; then
    image=${disk_file:-$work/disk}
    if [ ! -s "$image" ]; then
        truncate -s "$disk" "$image" || die "cannot make $image"
        case $fs in
        ext4) quietly mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 "$image" ;;
        xfs) quietly mkfs.xfs -q -f "$image" ;;
        esac || die "cannot format $image"
    fi
fi
if [ -n "$out" ]; then
    truncate -s 8G "$work/results"
    drives+=(-drive "if=none,id=results,format=raw,cache=unsafe,file=$work/results"
             -device virtio-blk-pci,drive=results,serial=results)
fi

# --- one boot ----------------------------------------------------------------
# boot NAME: runs /vm/NAME; sets status. With cut=1 and NAME=command, cuts the power.
boot() {
    local name=$1 args=() append shipped started='' now deadline cause=''
    pack
    shipped=$(($(stat -c %s "$work/initramfs") >> 20))
    [ "$mem" -lt $((shipped * 5 / 2 + 384)) ] && mem=$((shipped * 5 / 2 + 384))
    # no_timer_check: on a busy host the emulated timer may tick too late for the kernel's own test of it.
    append="console=ttyS0 quiet loglevel=5 panic=-1 oops=panic mitigations=off no_timer_check apparmor=0 audit=0"
    append+=" vm.run=$name"
    [ -n "$disk" ] && append+=" vm.fs=$fs"
    if [ -n "$cut" ]; then
        append+=" vm.cut=1"
        rm -f "$work/nbd"
        python3 -B "$here/powercut.py" serve --image "$image" --socket "$work/nbd" --log "$work/writes" \
            --loss "$loss" --seed "$seed" 2>"$work/powercut" &
        server_pid=$!
        for _ in $(seq 600); do
            [ -S "$work/nbd" ] && break
            kill -0 "$server_pid" 2>/dev/null || die "the disk server ended: $(cat "$work/powercut")"
            sleep 0.05
        done
        # Not QEMU's nvme: it offers FUA to the guest and then drops it (seen with
        # 7.2), so that file systems' commit records would be lost after a sync.
        args=(-blockdev "driver=nbd,node-name=disk,server.type=unix,server.path=$work/nbd"
              -device virtio-blk-pci,drive=disk,serial=disk,write-cache=on)
    elif [ -n "$disk" ]; then
        args=(-drive "if=none,id=disk,format=raw,cache=unsafe,file=$image"
              -device virtio-blk-pci,drive=disk,serial=disk)
    fi
    rm -f "$work/output.pipe" "$work/control"
    mkfifo "$work/output.pipe" && : >"$work/control" && : >"$work/output"
    tee "$work/output" <"$work/output.pipe" &
    tee_pid=$!
    qemu-system-x86_64 -accel tcg,thread=multi -cpu max,la57=off -machine pc -smp "$cpus" -m "$mem" \
        -nodefaults -no-user-config -no-reboot -display none \
        -kernel "$vmlinuz" -initrd "$work/initramfs" -append "$append" \
        -serial "file:$work/console" -serial "file:$work/output.pipe" -serial "file:$work/control" \
        "${args[@]}" "${drives[@]}" </dev/null >"$work/qemu" 2>&1 &
    qemu_pid=$!
    deadline=$((SECONDS + timeout))
    while kill -0 "$qemu_pid" 2>/dev/null; do
        if [ $SECONDS -ge $deadline ]; then cause=timeout; break; fi
        if [ -n "$cut" ] && [ "$name" = command ]; then
            if [ -z "$started" ]; then
                grep -q '^START' "$work/control" && started=$(date +%s%N)
            elif [ -n "$kill_on" ] && grep -qF -- "$kill_on" "$work/output"; then
                cause=text; break
            elif grep -q '^EXIT' "$work/control"; then
                cause=end; break
            elif [ -n "$kill_after" ]; then
                now=$(date +%s%N)
                awk "BEGIN { exit !(($now - $started) / 1e9 >= $kill_after) }" && { cause=time; break; }
            fi
            sleep 0.02
        else
            sleep 0.1
        fi
    done
    if [ -n "$cause" ]; then
        # The disk stops first: from here on it acknowledges nothing.
        if [ -n "$server_pid" ]; then kill -USR1 "$server_pid" 2>/dev/null; fi
        kill -9 "$qemu_pid" 2>/dev/null
    fi
    wait "$qemu_pid" 2>/dev/null
    qemu_pid=
    wait "$tee_pid"
    tee_pid=
    if [ -n "$server_pid" ]; then
        kill -TERM "$server_pid" 2>/dev/null
        wait "$server_pid" || die "the disk server failed: $(tail -n 5 "$work/powercut")"
        server_pid=
    fi
    [ -n "$console" ] && cat "$work/console" >>"$console"
    status=$(sed -n 's/^EXIT //p' "$work/control")
    case $cause in
    timeout)
        say "no end within $timeout s; the guest's last messages:"
        tail -n 20 "$work/console" >&2
        exit 124 ;;
    text|time|end)
        say "power cut ($cause); $(tail -n 1 "$work/powercut")"
        if [ "$cause" = end ] && [ "$status" != 0 ]; then
            say "the command had failed before the cut"
            exit "$status"
        fi
        status=0 ;;
    *)
        if [ -z "$status" ]; then
            say "the guest ended without a status; its last messages:"
            tail -n 20 "$work/qemu" "$work/console" >&2
            exit 125
        fi
        [ "$status" = 125 ] && tail -n 20 "$work/console" >&2 ;;
    esac
}

[ -n "$console" ] && : >"$console"
boot command
if [ -n "$verify" ]; then
    # Without a last line that the cut tore.
    awk 'NR > 1 { print last } { last = $0 }' "$work/output" >"$root/vm/before"
    [ -s "$work/output" ] && [ -z "$(tail -c 1 "$work/output")" ] && tail -n 1 "$work/output" >>"$root/vm/before"
    { echo ". /vm/setup"; printf '%s\n' "$verify"; } >"$root/vm/verify"
    boot verify
fi
if [ -n "$out" ]; then
    mkdir -p "$out" && tar -x -f "$work/results" -C "$out" || die "cannot copy the guest's /out to $out"
fi
exit "$status"
