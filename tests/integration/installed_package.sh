#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Installs a build to a temporary place and builds the README's example there as a user would: find_package(varve), and
# no other file of this tree.
# usage: installed_package.sh BUILD_DIR EXAMPLE.cc COMPILER
set -u
build=$1 example=$2 compiler=$3
name=installed_package.a_users_project_finds_builds_and_runs
echo "[ RUN      ] $name"
work=$(mktemp -d "${TMPDIR:-/tmp}/varve-package.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
fail() { tail -n 30 "$work/log"; echo "$*"; echo "[  FAILED  ] $name (0 ms)"; exit 1; }

cmake --install "$build" --prefix "$work/prefix" >"$work/log" 2>&1 || fail "cmake --install failed"
mkdir "$work/project" && cp "$example" "$work/project/example.cc" || fail "cannot copy the example"
cat >"$work/project/CMakeLists.txt" <<'END'
cmake_minimum_required(VERSION 3.25)
project(example LANGUAGES CXX)
find_package(varve 0.1 REQUIRED)
add_executable(example example.cc)
target_compile_features(example PRIVATE cxx_std_17)
target_link_libraries(example PRIVATE varve::engine)
END
cmake -G Ninja -S "$work/project" -B "$work/build" -DCMAKE_PREFIX_PATH="$work/prefix" -DCMAKE_CXX_COMPILER="$compiler" \
    >"$work/log" 2>&1 || fail "a project with find_package(varve) does not configure"
cmake --build "$work/build" >"$work/log" 2>&1 || fail "the example does not build against the installed package"
(cd "$work/build" && ./example) >"$work/log" 2>&1 || fail "the example does not run"
grep -rnF --include='*.cmake' "$build" "$work/prefix" >"$work/log" &&
    fail "the package names the directory that it was built in"
echo "[       OK ] $name (0 ms)"
