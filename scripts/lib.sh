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

# rustup fetches no toolchain on its own: install_rust does it, and says so.
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

# Installs what the build needs and this machine lacks: Debian packages, then Rust.
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
    install_rust
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
    local command="apt-get install -y --no-install-recommends $*"
    have apt-get || fail "these Debian packages, or what they are called here, are missing: $*" \
        "install them with this system's package manager, then run the script again"
    if ((EUID != 0)); then
        command="sudo apt-get update && sudo $command"
        have sudo || fail "these packages are missing, and there is no sudo to install them with: $*" \
            "as root: ${command//sudo /}"
        sudo_is_usable ||
            fail "these packages are missing, and sudo needs a password but there is no terminal: $*" "$command"
    else
        command="apt-get update && $command"
    fi
    update_package_lists || fail "apt-get update did not succeed" "$command"
    say "apt-get install $*"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@" >&2 ||
        fail "could not install: $*" "$command"
}

update_package_lists() {
    if [[ -z $apt_lists_updated ]]; then
        say "apt-get update"
        as_root apt-get update -q >&2 || return
        apt_lists_updated=1
    fi
}

as_root() {
    if ((EUID == 0)); then
        "$@"
    else
        sudo "$@"
    fi
}

# Whether sudo needs no password, or can ask for it.
sudo_is_usable() {
    have sudo && { [[ -t 0 ]] || sudo -n true 2>/dev/null; }
}

# What is installed of a toolchain, and where rustup's own installer comes from.
toolchain_parts=(--profile minimal -c clippy -c rustfmt)
rustup_installer=(curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs)

# Sees to Rust as new as Cargo.toml wants. What is there already stays; Rust that is not rustup's is passed over.
install_rust() {
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\([0-9]*\.[0-9]*\).*/\1/p' "$repo/Cargo.toml")
    found=$(rust_version)
    if version_at_least "$found" "$wanted"; then
        return 0
    fi
    say "Rust $wanted or newer is needed; here is ${found:-none that runs}"
    if have rustup; then
        install_stable
    elif debian_has_rustup; then
        install_packages rustup
        install_stable
    else
        install_rustup
    fi
    # Another Rust may come earlier in PATH, and an older toolchain may be the default.
    PATH=$(dirname "$(command -v rustup)"):$PATH
    export RUSTUP_TOOLCHAIN=stable
    found=$(rust_version)
    version_at_least "$found" "$wanted" ||
        fail "Rust $wanted or newer is needed; rustup's stable is ${found:-none that runs}" "rustup update stable"
    say "this run uses rustup's stable toolchain, rustc $found"
}

# The compiler's version; nothing where cargo or rustc is missing or does not run.
rust_version() {
    local version
    if cargo --version >/dev/null 2>&1 && version=$(cd "$repo" && rustc --version 2>/dev/null); then
        version=${version#rustc }
        printf '%s' "${version%% *}"
    fi
}

install_stable() {
    say "rustup toolchain install stable ${toolchain_parts[*]}"
    rustup toolchain install stable "${toolchain_parts[@]}" >&2 ||
        fail "rustup could not install the stable toolchain" "rustup toolchain install stable ${toolchain_parts[*]}"
}

# Whether rustup is to come from apt: where apt has it, and nothing that it would replace.
debian_has_rustup() {
    if have cargo || have rustc || ! have apt-get || ! have apt-cache; then
        return 1
    fi
    if ((EUID != 0)) && ! sudo_is_usable; then
        return 1
    fi
    # The lists of a new machine may be empty. Where they are not, they have rustc.
    apt_offers rustc || update_package_lists || return 1
    apt_offers rustup
}

apt_offers() {
    [[ $(LC_ALL=C apt-cache policy "$1" 2>/dev/null) =~ Candidate:\ *[0-9] ]]
}

# rustup and the stable toolchain by rustup's own installer, into the person's home.
install_rustup() {
    local arguments=(-y "${toolchain_parts[@]}" --default-toolchain stable --no-modify-path)
    say "${rustup_installer[*]} | sh -s -- ${arguments[*]}"
    "${rustup_installer[@]}" | RUSTUP_INIT_SKIP_PATH_CHECK=yes sh -s -- "${arguments[@]}" >&2 ||
        fail "rustup's installer did not succeed" "${rustup_installer[*]} | sh"
    have rustup || fail "rustup's installer left no rustup in $cargo_bin" "${rustup_installer[*]} | sh"
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

# Clones share the target folder, and cargo takes for fresh what another one built later, which has that one's paths
# compiled in. So where the folder was last used from elsewhere, all sources here count as changed.
own_target() {
    local mark=$CARGO_TARGET_DIR/fleetsync-used-from
    if [[ -d $CARGO_TARGET_DIR && $(cat "$mark" 2>/dev/null) != "$repo" ]]; then
        say "$CARGO_TARGET_DIR was last used from elsewhere: this repository's own code is built anew"
        find "$repo"/{collectors,crdt,node,testnet,transport} -name '*.rs' -exec touch {} +
    fi
    mkdir -p "$CARGO_TARGET_DIR"
    printf '%s\n' "$repo" >"$mark"
}

# Builds both programs in the one profile that everything here uses.
build_binaries() {
    own_target
    say "cargo build --release --locked -p node -p testnet (into $CARGO_TARGET_DIR)"
    unset FLEETSYNC TESTNET
    (cd "$repo" && cargo build --release --locked -p node -p testnet >&2) || return 1
    local release=$CARGO_TARGET_DIR${CARGO_BUILD_TARGET:+/$CARGO_BUILD_TARGET}/release
    export FLEETSYNC=$release/fleetsync TESTNET=$release/testnet
}
