#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what is missing, builds, then runs the whole loop or the tests. --help says how.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

packages=(build-essential cmake ninja-build pkg-config openmpi-bin libopenmpi-dev libhdf5-dev
          libuv1-dev libmicrohttpd-dev libcurl4-openssl-dev libpcre2-dev libutf8proc-dev libxxhash-dev libyaml-dev
          libcmocka-dev python3)
packages_of_all_tests=(slurm-wlm munge shellcheck) # 'test --all': a Slurm of the tests' own

usage() {
    cat <<EOF
usage: ./bootstrap.sh run [--out DIR] [PATH...]  the whole loop: text in, merged memory model out
       ./bootstrap.sh test [--all]               the tests; --all adds those labelled 'long'
       ./bootstrap.sh build [CMAKE OPTION...]    the binary only: build/memo

Before the command: --no-install  do not call apt-get (clusters: load modules first, see README)
                    --build DIR   build directory (default: build)

PATH... are files or directories of text (.txt, .md, .jsonl); the default is datasets/examples.
EOF
}

say() { printf '\n== %s\n' "$*" >&2; }
fail() { printf 'bootstrap.sh: %s\n' "$*" >&2; exit 1; }

# What a command prints matters when it fails; on a terminal it is shown as it comes.
quietly() {
    local log status=0
    if [ -t 2 ]; then
        "$@" >&2
        return
    fi
    log=$(mktemp)
    "$@" >"$log" 2>&1 || status=$?
    [ $status -eq 0 ] || tail -n 60 "$log" >&2
    rm -f "$log"
    return $status
}

missing_packages() {
    local package
    for package in "${packages[@]}"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || echo "$package"
    done
}

install_packages() {
    if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
        say "no apt here: taking the libraries that CMake finds"
        return
    fi
    local missing as_root=()
    mapfile -t missing < <(missing_packages)
    if [ ${#missing[@]} -eq 0 ]; then
        say "packages: all ${#packages[@]} are installed"
        return
    fi
    say "packages: installing ${missing[*]}"
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || fail "not root and no sudo: install ${missing[*]}, or use --no-install"
        as_root=(sudo)
    fi
    quietly "${as_root[@]}" apt-get update -qq || fail "apt-get update failed; without network, use --no-install"
    quietly "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        "${missing[@]}" || fail "apt-get could not install ${missing[*]}"
}

build() { # target, CMake options...
    local target=$1
    shift
    say "building $target into $build_directory (Release)"
    local generator=()
    command -v ninja >/dev/null && generator=(-G Ninja)
    [ -f "$build_directory/CMakeCache.txt" ] && generator=()
    cmake -S . -B "$build_directory" "${generator[@]}" -DCMAKE_BUILD_TYPE=Release "$@" >"$build_directory.log" ||
        { cat "$build_directory.log" >&2; fail "CMake could not configure the build"; }
    grep -E '^-- memo:' "$build_directory.log" >&2 || true
    rm -f "$build_directory.log"
    quietly cmake --build "$build_directory" --parallel "$(nproc)" --target "$target" || fail "the build failed"
}

run_tests() {
    local selection=(-LE long)
    if [ "${1:-}" = --all ]; then
        selection=()
    elif [ $# -gt 0 ]; then
        fail "test takes --all or nothing, not '$1'"
    fi
    say "tests${selection[*]:+, without those labelled 'long'}"
    # Two places for each processor: see memo_schedule_tests in cmake/rooms.cmake.
    ctest --test-dir "$build_directory" --output-on-failure --parallel $((2 * $(nproc))) "${selection[@]}"
}

install=yes
build_directory=build
while [ $# -gt 0 ]; do
    case "$1" in
    --no-install) install=no ;;
    --build) [ $# -gt 1 ] || fail "--build needs a directory"; build_directory=$2; shift ;;
    -h|--help|help) usage; exit 0 ;;
    *) break ;;
    esac
    shift
done
command=${1:-}
[ -n "$command" ] || { usage >&2; exit 2; }
shift

case "$command" in
run|test|build) ;;
*) printf "bootstrap.sh: unknown command '%s'\n" "$command" >&2; usage >&2; exit 2 ;;
esac
[ "$command ${1:-}" != 'test --all' ] || packages+=("${packages_of_all_tests[@]}")
[ $install = no ] || install_packages
case "$command" in
run)
    build memo
    exec jobs/whole_loop.sh "$build_directory/memo" "$@"
    ;;
test)
    build all
    run_tests "$@"
    ;;
build)
    build memo "$@"
    say "done: $build_directory/memo --help"
    ;;
esac
