#!/usr/bin/env bash
# The packaged program is one file that needs nothing: in an empty root folder with only /dev it founds a fleet, runs,
# answers, takes a write and ends. What lies beside it is as it says. Starting it there needs root.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

# Fails where it is not static, and no position-independent program.
package=$(scripts/package)
ldd "$package/fleetsync" 2>&1 | grep -q 'statically linked' || fail "it is not static" "ldd $package/fleetsync"
(cd "$package" && sha256sum --quiet --check SHA256SUMS) || fail "the sums do not fit" "cd $package; sha256sum -c SHA256SUMS"

say "what is linked into it, and nothing else"
python3 - "$package" <<'PYTHON'
import hashlib
import json
import re
import sys
from pathlib import Path

folder = Path(sys.argv[1])
document = json.loads((folder / "fleetsync.cdx.json").read_text())
components = {c["name"]: c for c in document["components"]}
digest = hashlib.sha256((folder / "fleetsync").read_bytes()).hexdigest()
assert document["metadata"]["component"]["hashes"] == [{"alg": "SHA-256", "content": digest}]
linked = {"node", "crdt", "librocksdb-sys", "libp2p", "automerge", "tokio", "glibc", "libstdc++", "rust-std"}
assert linked <= set(components), linked - set(components)
# A crate of tests, of the other program, of another platform, of macros, and of a feature that is off.
elsewhere = {"proptest", "plotters", "windows-sys", "serde_derive", "attohttpc"} & set(components)
assert not elsewhere, elsewhere
for component in components.values():
    assert component["version"] and component["licenses"][0]["expression"], component
    own = component["purl"].startswith("pkg:generic/") or component["name"] in {"node", "crdt", "transport", "collectors"}
    assert own or re.fullmatch(r"[0-9a-f]{64}", component["hashes"][0]["content"]), component
references = [c["bom-ref"] for c in document["components"]]
assert len(references) == len(set(references))
named = {other for d in document["dependencies"] for other in (d["ref"], *d["dependsOn"])}
assert named == {*references, "fleetsync"}, named ^ {*references, "fleetsync"}
print(f"{len(references)} components")
PYTHON

scratch=$(mktemp -d "${TMPDIR:-/tmp}/fleetsync-package.XXXXXX")
node=
cleanup() {
    if [[ -n $node ]]; then kill -KILL "$node" 2>/dev/null || true; fi
    wait 2>/dev/null || true
    rm -rf --one-file-system "$scratch"
}
trap cleanup EXIT

if have systemd-analyze; then
    say "the systemd unit"
    sed "s|/usr/local/bin/|$package/|" "$package/fleetsync.service" >"$scratch/fleetsync.service"
    systemd-analyze verify "$scratch/fleetsync.service"
    # In tenths, from 0 (hardened) to 100.
    systemd-analyze security --offline=yes --threshold=20 --no-pager "$scratch/fleetsync.service" | tail -n 1
else
    say "the systemd unit is not checked: there is no systemd-analyze"
fi

if ((EUID != 0)); then
    echo "only root can start a program in another root folder; all else of the package is as it should be"
    exit 77
fi

root=$scratch/root
mkdir -p "$root/dev"
cp "$package/fleetsync" "$root/"
# The program in that folder, in place of this process. The mount ends with it.
# shellcheck disable=SC2016 # expands inside
inside=(env -i FLEETSYNC_DATA_DIR=/data FLEETSYNC_KEYS=/keys FLEETSYNC_LISTEN=127.0.0.1 FLEETSYNC_MDNS=false
    "$(type -P unshare)" --mount "$BASH" -c 'mount --rbind /dev "$0/dev" && exec chroot "$0" /fleetsync "$@"' "$root")
run() {
    printf '$ fleetsync %s\n' "$*"
    "${inside[@]}" "$@"
}

say "an empty root folder with only /dev"
run init --name alone --zone nowhere --no-passphrase
"${inside[@]}" run --port 0 2>"$scratch/log" &
node=$!
tries=0
until "${inside[@]}" status >/dev/null 2>&1; do
    tries=$((tries + 1))
    if ((tries == 300)) || ! kill -0 "$node" 2>/dev/null; then
        fail "the node does not answer: $(cat "$scratch/log")"
    fi
    sleep 0.05
done
run status
run config set camera gain 2.5
[[ $(run config get camera gain --values -o json) == *'"gain": 2.5'* ]] || fail "the value is not what was set"
kill -TERM "$node"
status=0
wait "$node" || status=$?
node=
((status == 0)) || fail "SIGTERM: exit $status instead of 0: $(cat "$scratch/log")"
grep -q panicked "$scratch/log" && fail "it panicked: $(cat "$scratch/log")"
[[ $(cd "$root" && echo *) == "data dev fleetsync keys" ]] || fail "it left something: $(ls "$root")"
cat "$scratch/log"
