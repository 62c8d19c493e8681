# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# What ./dev, .ci/run and tests/vm/run.sh share: messages, packages, build directories, builds.
# Exit codes everywhere: 0 done, 1 something failed, 2 it could not be tried (usage, missing packages).

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PATH=$PATH:/usr/sbin:/sbin

say() { printf '%s: %s\n' "${program:-dev}" "$*" >&2; }
die() { say "$*"; exit 2; }

# --- packages ------------------------------------------------------------------------------------------------------
# Sets by purpose, as Debian names them. Whether one is there is found out by using it, not by asking for its name, so
# that other distributions and hand-made installations serve as well.
packages_build=(g++ cmake ninja-build pkg-config liburing-dev libxxhash-dev liblz4-dev libfmt-dev libcli11-dev
                nlohmann-json3-dev libpng-dev)
packages_test=(libgtest-dev libgmock-dev python3)
packages_bench=(libbenchmark-dev)
packages_format=(clang-format-14)
packages_clang=(clang libclang-rt-14-dev)
packages_clang_tidy=(clang-tidy-14)
packages_browser=(chromium)
packages_vm=(qemu-system-x86 cpio xz-utils e2fsprogs xfsprogs python3)
packages_nfs=(nfs-kernel-server nfs-common rpcbind)

is_new_enough() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }   # WANTED HAVE

has() { (PATH=$PATH:/usr/sbin:/sbin; for command; do command -v "$command" || exit; done) }

works() {   # PACKAGE
    case $1 in
    g++) printf '#include <span>\nint main() {}\n' | g++ -std=c++20 -x c++ -o /dev/null - ;;
    cmake) is_new_enough 3.25 "$(cmake --version | sed -n 's/^cmake version //p')" && cmake --version ;;
    ninja-build) ninja --version ;;
    pkg-config) pkg-config --version ;;
    liburing-dev) pkg-config --exists 'liburing >= 2.1' ;;
    libxxhash-dev) pkg-config --exists libxxhash ;;
    liblz4-dev) pkg-config --exists liblz4 ;;
    libfmt-dev) pkg-config --exists fmt ;;
    libcli11-dev) pkg-config --exists CLI11 ;;
    nlohmann-json3-dev) pkg-config --exists nlohmann_json ;;
    nfs-kernel-server) has rpc.nfsd rpc.mountd exportfs ;;
    nfs-common) has mount.nfs ;;
    rpcbind) has rpcbind ;;
    libpng-dev) pkg-config --exists libpng ;;
    libgtest-dev) pkg-config --exists gtest ;;
    libgmock-dev) pkg-config --exists gmock ;;
    libbenchmark-dev) pkg-config --exists benchmark ;;
    python3) python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))' ;;
    clang) printf '#include <span>\nint main() {}\n' | clang++ -std=c++20 -x c++ -o /dev/null - ;;
    libclang-rt-14-dev)
        printf 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }\n' |
            clang++ -fsanitize=fuzzer,address -x c++ -o /dev/null - ;;
    clang-format-14) clang-format-14 --version ;;
    clang-tidy-14) clang-tidy-14 --version ;;
    chromium) chromium --version ;;
    qemu-system-x86) qemu-system-x86_64 --version ;;
    cpio) cpio --version ;;
    xz-utils) xz --version ;;
    e2fsprogs) mkfs.ext4 -V ;;
    xfsprogs) mkfs.xfs -V ;;
    *) say "no probe for package $1"; return 1 ;;
    esac >/dev/null 2>&1 </dev/null
}

missing_packages() {    # PACKAGE...: sets the array `missing`
    local package
    missing=()
    for package; do works "$package" || missing+=("$package"); done
}

apt() {     # apt-get, as root or by sudo; what it says is shown only if it fails
    local log status as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo -n)
    log=$(mktemp "${TMPDIR:-/tmp}/varve-apt.XXXXXX") || die "no temporary file in ${TMPDIR:-/tmp}"
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get -y -q -o DPkg::Lock::Timeout=600 "$@" >"$log" 2>&1 </dev/null
    status=$?
    [ $status = 0 ] || tail -n 5 "$log" >&2
    rm -f "$log"
    return $status
}

install() { # PACKAGE...: installs what does not work; 1 and `reason` says why and how, if that can't be
    local missing how
    missing_packages "$@"
    [ ${#missing[@]} -gt 0 ] || return 0
    how="apt-get install -y --no-install-recommends ${missing[*]}"
    reason="missing (by their Debian names): ${missing[*]}; install them, then run this again"
    command -v apt-get >/dev/null || return 1
    reason="missing packages, and no right to install them; run this, then try again:
    sudo sh -c 'apt-get update && $how'"
    [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null </dev/null || return 1
    say "installing ${missing[*]}"
    reason="apt failed (above); when it works again, run: $how"
    apt install --no-install-recommends "${missing[@]}" 2>/dev/null || {
        say "reading package lists"
        apt update && apt install --no-install-recommends "${missing[@]}"
    } || return 1
    missing_packages "$@"
    reason="installed, but not working: ${missing[*]}; check by hand, then run this again"
    [ ${#missing[@]} = 0 ]
}

need() { install "$@" || die "$reason"; }

# --- building ------------------------------------------------------------------------------------------------------
# build_dir PRESET: sets `dir` to build/PRESET, or, where this user may not write there, to a directory of his own.
build_dir() {
    dir=$top/build/$1
    local cache=$dir/CMakeCache.txt
    if mkdir -p "$dir" 2>/dev/null && [ -w "$dir" ] && { [ ! -e "$cache" ] || [ -w "$cache" ]; }; then
        return
    fi
    local base
    base=${TMPDIR:-/tmp}/varve-build-$(id -u)
    mkdir -p -m 700 "$base" 2>/dev/null
    [ -d "$base" ] && [ -O "$base" ] && [ ! -L "$base" ] ||
        die "neither $top/build nor $base can be written; set TMPDIR to a directory that can"
    dir=$base/$(printf '%s' "$top" | cksum | cut -d ' ' -f 1)/$1
    mkdir -p "$dir" || die "cannot make $dir"
    say "no right to write $top/build/$1; building in $dir"
}

jobs() {    # compilers at once: one a processor, and a gigabyte each
    local memory processors
    processors=$(nproc)
    memory=$(awk '/^MemAvailable:/ { print int($2 / 1048576) }' /proc/meminfo)
    [ "${memory:-1}" -ge 1 ] || memory=1
    echo $((processors < memory ? processors : memory))
}

build() {   # PRESET [TARGET...]: configures and builds; sets `dir`
    local preset=$1 log started=$SECONDS
    shift
    build_dir "$preset"
    # A tree that was moved or copied brings a cache that names its old place.
    if [ -e "$dir/CMakeCache.txt" ] && ! grep -qxF "CMAKE_HOME_DIRECTORY:INTERNAL=$top" "$dir/CMakeCache.txt"; then
        rm -rf "$dir/CMakeCache.txt" "$dir/CMakeFiles"
    fi
    # ccache fails where there is no home directory to write to.
    [ -w "${CCACHE_DIR:-${XDG_CACHE_HOME:-${HOME:-/nonexistent}}}" ] || export CCACHE_DISABLE=1
    log=$dir/configure.log
    say "configuring $preset in $dir"
    cmake --preset "$preset" -S "$top" -B "$dir" >"$log" 2>&1 </dev/null || {
        tail -n 30 "$log" >&2
        say "cmake failed; the whole output is in $log"
        return 1
    }
    cmake --build "$dir" --parallel "$(jobs)" ${1:+--target "$@"} </dev/null ||
        { say "the build of $preset failed"; return 1; }
    say "built $preset in $((SECONDS - started)) s"
}

# --- our own source files ------------------------------------------------------------------------------------------
sources() {     # C++ sources of the tree, NUL-separated
    local folders=() folder
    for folder in base tracker storage engine tools bench examples tests; do
        [ -d "$top/$folder" ] && folders+=("$top/$folder")
    done
    find "${folders[@]}" \( -name '*.h' -o -name '*.cc' \) -type f -print0 | sort -z
}

# --- results -------------------------------------------------------------------------------------------------------
# kernel_programs BUILD_DIR: paths of the test programs whose behaviour depends on the kernel and the user's rights, and
# which run anywhere: they need no other file of the build.
kernel_programs() {
    local name
    ctest --test-dir "$1" -N -L '^(contract|integration)$' -LE '^needs_build$' | sed -n 's/^ *Test *#[0-9]*: //p' |
        while read -r name; do [ -x "$1/tests/$name" ] && echo "$1/tests/$name"; done
}

# report LOG...: failures, skips with their reasons, and the closing line; 1 if anything failed.
report() { awk -f "$top/.ci/summary.awk" "$@"; }

# logged LOG NAME COMMAND...: runs a test program, its output to LOG in the form that report() reads, and on failure to
# standard output too.
logged() {
    local log=$1 name=$2 status from
    shift 2
    printf '1/1 Testing: %s\n' "$name" >>"$log"
    from=$(wc -c <"$log")
    "$@" >>"$log" 2>&1 </dev/null
    status=$?
    if [ $status = 0 ]; then
        printf '\nTest Passed.\n' >>"$log"
    else
        tail -c "+$((from + 1))" "$log"
        printf '\nexit status %s\nTest Failed.\n' "$status" >>"$log"
    fi
    return $status
}
