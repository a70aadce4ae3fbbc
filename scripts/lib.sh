# What the scripts share. Sourced by bash scripts that have `set -euo pipefail`; runs nothing by itself.
# shellcheck shell=bash
#
# After `build_binaries`, FLEETSYNC and TESTNET are the paths of the two programs.

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# One target folder for all scripts and clones, outside of the repository; nothing here ever deletes it.
if [[ -z ${CARGO_TARGET_DIR:-} ]]; then
    CARGO_TARGET_DIR=${XDG_CACHE_HOME:-${HOME:?is not set}/.cache}/fleetsync/target
elif [[ $CARGO_TARGET_DIR != /* ]]; then
    CARGO_TARGET_DIR=$PWD/$CARGO_TARGET_DIR
fi
export CARGO_TARGET_DIR

# Never let rustup fetch a toolchain behind the person's back.
export RUSTUP_AUTO_INSTALL=0

cargo_bin=${CARGO_HOME:-${HOME:-/root}/.cargo}/bin
case ":$PATH:" in
*":$cargo_bin:"*) ;;
*) PATH=$cargo_bin:$PATH ;;
esac

say() {
    printf '==> %s\n' "$*" >&2
}

# fail WHAT [HINT]: a hint is a command that can be run.
fail() {
    printf 'error: %s\n' "$1" >&2
    if [[ -n ${2:-} ]]; then
        printf 'hint: %s\n' "$2" >&2
    fi
    exit 1
}

have() {
    command -v "$1" >/dev/null 2>&1
}

# Installs what the build needs and this machine lacks, then checks the Rust toolchain.
install_missing() {
    local packages=()
    have clang || packages+=(clang)
    have_libclang || packages+=(libclang-dev)
    have cc || packages+=(gcc libc6-dev)
    have c++ || packages+=(g++)
    have make || packages+=(make)
    have git || packages+=(git)
    have python3 || packages+=(python3)
    have curl || packages+=(curl)
    have pkg-config || packages+=(pkg-config)
    if ((${#packages[@]} > 0)); then
        install_packages "${packages[@]}"
    fi
    check_rust
}

# The library that RocksDB's bindings are generated with. (The file lists are read whole: `grep -q` would end the
# pipe early, which pipefail takes for a failure.)
have_libclang() {
    if [[ -n ${LIBCLANG_PATH:-} ]]; then
        return 0
    fi
    if PATH=$PATH:/usr/sbin:/sbin ldconfig -p 2>/dev/null | grep 'libclang[-.][0-9.so-]* ' >/dev/null; then
        return 0
    fi
    compgen -G '/usr/lib/llvm*/lib/libclang[-.][0-9s]*' >/dev/null ||
        compgen -G '/usr/lib*/libclang[-.][0-9s]*' >/dev/null
}

apt_lists_updated=

# install_packages PACKAGE...: Debian packages, by apt-get.
install_packages() {
    local command="apt-get install -y --no-install-recommends $*" as_root=()
    have apt-get || fail "these Debian packages, or what they are called here, are missing: $*" \
        "install them with this system's package manager, then run the script again"
    if ((EUID != 0)); then
        command="sudo apt-get update && sudo $command"
        have sudo || fail "these packages are missing, and there is no sudo to install them with: $*" \
            "as root: ${command//sudo /}"
        if [[ ! -t 0 ]] && ! sudo -n true 2>/dev/null; then
            fail "these packages are missing, and sudo needs a password but there is no terminal: $*" "$command"
        fi
        as_root=(sudo)
    else
        command="apt-get update && $command"
    fi
    if [[ -z $apt_lists_updated ]]; then
        say "apt-get update"
        "${as_root[@]}" apt-get update -q >&2 || fail "apt-get update did not succeed" "$command"
        apt_lists_updated=1
    fi
    say "apt-get install $*"
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@" >&2 ||
        fail "could not install: $*" "$command"
}

# The compiler is the person's choice: it is checked, not installed.
check_rust() {
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\([0-9]*\.[0-9]*\).*/\1/p' "$repo/Cargo.toml")
    if ! have cargo || ! have rustc; then
        fail "Rust $wanted or newer is needed, and there is none" \
            "install rustup, see https://rustup.rs, then: rustup toolchain install stable"
    fi
    found=$(cd "$repo" && rustc --version) || fail "rustc does not run" "rustup toolchain install stable"
    found=${found#rustc }
    if ! version_at_least "$found" "$wanted"; then
        fail "Rust $wanted or newer is needed; rustc here is ${found%% *}" "rustup update stable"
    fi
}

# version_at_least FOUND WANTED: by major and minor number.
version_at_least() {
    [[ $1 =~ ^([0-9]+)\.([0-9]+) ]] || return 1
    local major=${BASH_REMATCH[1]} minor=${BASH_REMATCH[2]}
    ((major > ${2%%.*} || (major == ${2%%.*} && minor >= ${2#*.})))
}

# The test runner; only scripts/test needs it. Built outside of the shared target folder.
install_nextest() {
    if have cargo-nextest; then
        return 0
    fi
    say "cargo-nextest is missing: cargo install --locked cargo-nextest (a few minutes, into ${cargo_bin%/bin})"
    env -u CARGO_TARGET_DIR cargo install --locked cargo-nextest >&2
}

# Builds both programs in the one profile that everything here uses.
build_binaries() {
    say "cargo build --release --locked -p node -p testnet (into $CARGO_TARGET_DIR)"
    unset FLEETSYNC TESTNET
    (cd "$repo" && cargo build --release --locked -p node -p testnet >&2) || return 1
    local release=$CARGO_TARGET_DIR${CARGO_BUILD_TARGET:+/$CARGO_BUILD_TARGET}/release
    export FLEETSYNC=$release/fleetsync TESTNET=$release/testnet
}
