#!/usr/bin/env bash
# What install_rust of scripts/lib.sh does on machines with no Rust, with an old one, with rustup, and without a network.
# Everything that it could call is a fake that writes down its call; the Rust of this machine is not touched.
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
problems=0

# The programs that the scripts may use of this machine: no cargo, rustc, rustup, apt-get, curl or sudo.
mkdir "$scratch/tools"
for tool in bash sh env true dirname sed cat chmod mkdir; do
    ln -s "$(type -P "$tool")" "$scratch/tools/$tool"
done

# fake FOLDER NAME: makes a program of the script on stdin.
fake() {
    mkdir -p "$1"
    { printf '#!/bin/sh\nset -eu\n'; cat; } >"$1/$2"
    chmod +x "$1/$2"
}

# machine NAME: a machine with nothing but apt, curl and sudo. `home/apt-has-rustup` and `home/offline` are its settings.
machine() {
    home=$scratch/$1
    mkdir "$home"
    : >"$home/calls"
    fake "$home/bin" sudo <<'END'
[ "$1" = -n ] && shift
exec "$@"
END
    fake "$home/bin" apt-cache <<'END'
candidate='(none)'
[ "$2" = rustc ] && [ -e "$HOME/lists" ] && candidate=1.63.0+dfsg1-2
[ "$2" = rustup ] && [ -e "$HOME/lists" ] && [ -e "$HOME/apt-has-rustup" ] && candidate=1.27.1-1
printf '%s:\n  Installed: (none)\n  Candidate: %s\n' "$2" "$candidate"
END
    fake "$home/bin" apt-get <<'END'
echo "apt-get $*" >>"$HOME/calls"
if [ "$1" = update ]; then : >"$HOME/lists"; fi
case "$*" in *" rustup") "$HOME/rustup-into" "$HOME/bin" ;; esac
END
    fake "$home/bin" curl <<'END'
echo "curl $*" >>"$HOME/calls"
if [ -e "$HOME/offline" ]; then exit 6; fi
echo 'echo "installer $*" >>"$HOME/calls"; "$HOME/rustup-into" "$CARGO_HOME/bin"; echo 1.97.0 >"$HOME/stable"'
END
    # rustup-into FOLDER: what an installation of rustup leaves, its toolchains aside.
    fake "$home" rustup-into <<'END'
mkdir -p "$1"
cat >"$1/rustup" <<'RUSTUP'
#!/bin/sh
echo "rustup $*" >>"$HOME/calls"
if [ -e "$HOME/offline" ]; then exit 1; fi
echo 1.97.0 >"$HOME/stable"
RUSTUP
cat >"$1/rustc" <<'PROXY'
#!/bin/sh
toolchain=$HOME/${RUSTUP_TOOLCHAIN:-default}
[ -e "$toolchain" ] && echo "rustc $(cat "$toolchain") (0123456 2026-01-01)"
PROXY
cat "$1/rustc" >"$1/cargo"
chmod +x "$1/rustup" "$1/rustc" "$1/cargo"
END
}

# old_rust FOLDER: Debian's Rust.
old_rust() {
    echo 'echo "rustc 1.63.0"' | fake "$1" rustc
    echo 'echo "cargo 0.66.0"' | fake "$1" cargo
}

# expect WHAT STATUS TEXT CALL...: runs install_rust on the machine, and compares its end, a part of what it says, and the
# calls that it made.
expect() {
    local what=$1 status=$2 text=$3 said ended=0
    shift 3
    # shellcheck disable=SC2016 # expands in the machine
    said=$(env -i HOME="$home" CARGO_HOME="$home/cargo" PATH="$home/bin:$home/cargo/bin:$scratch/tools" bash -c '
        set -euo pipefail
        source "$1/scripts/lib.sh"
        install_rust
        echo "rustc is $(command -v rustc), toolchain ${RUSTUP_TOOLCHAIN:-unset}"
    ' - "$repo" 2>&1 </dev/null) || ended=$?
    if ((ended != status)) || [[ $said != *"$text"* ]] || [[ $(cat "$home/calls") != $(printf '%s\n' "$@") ]]; then
        problems=$((problems + 1))
        printf 'FAILED: %s\nends with %d, and should with %d and %q; it says:\n%s\nits calls:\n%s\n' \
            "$what" "$ended" "$status" "$text" "$said" "$(cat "$home/calls")"
    fi
}

parts="--profile minimal -c clippy -c rustfmt"
fetch="curl --proto =https --tlsv1.2 -sSf https://sh.rustup.rs"
installer="installer -y $parts --default-toolchain stable --no-modify-path"
stable="rustup toolchain install stable $parts"
apt=("apt-get update -q" "apt-get install -q -y --no-install-recommends rustup")

machine new-enough
echo 'echo "rustc 9.0.0"' | fake "$home/bin" rustc
echo 'echo "cargo 9.0.0"' | fake "$home/bin" cargo
expect "a new compiler is used as it is" 0 "rustc is $home/bin/rustc, toolchain unset"

machine bare
expect "no Rust, and apt has no rustup" 0 "rustc is $home/cargo/bin/rustc, toolchain stable" "${apt[0]}" "$fetch" "$installer"

machine bare-with-apt
: >"$home/apt-has-rustup"
expect "no Rust, and apt has rustup" 0 "rustc is $home/bin/rustc, toolchain stable" "${apt[@]}" "$stable"

machine old-default
"$home/rustup-into" "$home/cargo/bin"
echo 1.80.0 >"$home/default"
expect "rustup with an old toolchain" 0 "rustc 1.97.0" "$stable"

machine no-toolchain
"$home/rustup-into" "$home/bin"
expect "rustup without a toolchain" 0 "rustc is $home/bin/rustc, toolchain stable" "$stable"

machine debian
: >"$home/apt-has-rustup"
old_rust "$home/bin"
expect "Debian's Rust alone: nothing replaces it" 0 "rustc is $home/cargo/bin/rustc, toolchain stable" "$fetch" "$installer"

machine debian-and-rustup
old_rust "$home/bin"
"$home/rustup-into" "$home/cargo/bin"
expect "Debian's Rust and rustup behind it" 0 "rustc is $home/cargo/bin/rustc, toolchain stable" "$stable"

machine offline
: >"$home/offline"
expect "no network, no rustup" 1 "hint: $fetch | sh" "${apt[0]}" "$fetch"

machine offline-with-rustup
: >"$home/offline"
"$home/rustup-into" "$home/bin"
expect "no network, rustup" 1 "hint: $stable" "$stable"

machine stable-is-old
echo 1.80.0 >"$home/stable"
"$home/rustup-into" "$home/bin"
sed -i '/1.97.0/d' "$home/bin/rustup"
expect "a stable toolchain that stays too old" 1 "hint: rustup update stable" "$stable"

((problems == 0))
