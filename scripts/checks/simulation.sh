#!/usr/bin/env bash
# Fleets in virtual time, with fixed seeds: every oracle catches the node that is broken for it, what failed once holds,
# and thirty-three runs of twelve to a hundred nodes and one of a thousand hold; in three of them nodes choose their links.
# TESTNET names the program.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
kept=$(mktemp -d)
trap 'rm -rf "$kept"' EXIT

"$TESTNET" sim --mutants
for plan in testnet/regressions/*.json; do
    [[ -e $plan ]] || continue
    "$TESTNET" sim --replay "$plan"
done
# A plan that fails is made smaller and printed, so that it can be kept in testnet/regressions.
if ! "$TESTNET" sim calm byzantine restored churn storm --seed 1 --seeds 6 --keep "$kept" ||
    ! "$TESTNET" sim mesh --seed 1 --seeds 3 --keep "$kept" ||
    ! "$TESTNET" sim thousand --seed 1 --keep "$kept"; then
    tail -n +1 "$kept"/*.json
    exit 1
fi
