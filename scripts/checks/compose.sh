#!/usr/bin/env bash
# testnet/compose.yaml: Compose reads it; and as root, with a stand-in for Docker that gives each service namespaces of its
# own, scripts/testnet brings the five nodes up from a ticket each, over three networks, and shows them past one that stands.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

have_reader() { have docker-compose && python3 -c 'import yaml' 2>/dev/null; }
if ! have_reader; then
    if ((EUID != 0)) || ! (install_packages docker-compose python3-yaml) || ! have_reader; then
        echo "docker-compose and Python's yaml, which read the file, cannot be installed here"
        exit 77
    fi
fi
say "docker-compose config"
docker-compose -f testnet/compose.yaml config --quiet

if ((EUID != 0)) || ! have ip || ! unshare --net --mount true; then
    echo "network and mount namespaces take root and ip(8); Compose reads the file"
    exit 77
fi
scratch=$(mktemp -d "${TMPDIR:-/tmp}/fleetsync-compose.XXXXXX")
export PATH=$PWD/testnet/compose/stand-in:$PATH STAND_IN=$scratch/state
cleanup() {
    if [[ -e $STAND_IN ]]; then
        docker compose -p fleetsync -f testnet/compose.yaml logs || true
        scripts/testnet down || true
    fi
    rm -rf --one-file-system "$scratch"
}
trap cleanup EXIT

FLEETSYNC=$(scripts/package)/fleetsync
export FLEETSYNC
scripts/testnet up
# It may be run again, and nobody is invited twice.
scripts/testnet up
scripts/testnet demo
scripts/testnet down
