#!/usr/bin/env bash
# What `doc export` writes opens in PyPI's `automerge`, with the values that the node reads.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

data=$(mktemp -d "${TMPDIR:-/tmp}/fleetsync-export.XXXXXX")
node=
cleanup() {
  if [ -n "$node" ]; then kill -TERM "$node" 2>/dev/null || true; fi
  wait 2>/dev/null || true
  rm -rf "$data"
}
trap cleanup EXIT

# The package lies in a folder of its own beside the build, so that it is fetched once.
packages=$CARGO_TARGET_DIR/python-automerge
if ! PYTHONPATH=$packages python3 -c 'import automerge' 2>/dev/null; then
  python3 -m pip --version >/dev/null 2>&1 || install_packages python3-pip
  if ! python3 -m pip install --quiet --target "$packages" 'automerge==0.1.*' >&2; then
    echo "PyPI's automerge cannot be installed here"
    exit 77
  fi
fi

export FLEETSYNC_KEYS=$data/keys FLEETSYNC_LISTEN=127.0.0.1 FLEETSYNC_MDNS=false FLEETSYNC_DATA_DIR=$data/node
"$FLEETSYNC" init --name a --no-passphrase >/dev/null
"$FLEETSYNC" run --port 0 2>"$data/log" &
node=$!
tries=0
until "$FLEETSYNC" status >/dev/null 2>&1; do
  tries=$((tries + 1))
  [ "$tries" -lt 300 ] || fail "the node is not ready" "cat $data/log"
  sleep 0.05
done
"$FLEETSYNC" config set camera exposure.mode auto
"$FLEETSYNC" config set camera gain 2.5
"$FLEETSYNC" config set camera fps 30
"$FLEETSYNC" config set camera name 007 --text
"$FLEETSYNC" config set camera gone 1
"$FLEETSYNC" config set camera gone --delete
"$FLEETSYNC" doc export config/camera --to "$data/camera.automerge"
PYTHONPATH=$packages python3 - "$data/camera.automerge" <<'PYTHON'
import json
import sys
from pathlib import Path

from automerge import Doc

read = Doc(Path(sys.argv[1]).read_bytes()).json()
values = json.loads(read) if isinstance(read, (str, bytes)) else read
expected = {"exposure.mode": "auto", "gain": 2.5, "fps": 30, "name": "007"}
assert values == expected, f"expected {expected}, read {values}"
print(f"python reads {values}")
PYTHON
