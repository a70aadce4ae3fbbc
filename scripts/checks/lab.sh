#!/usr/bin/env bash
# Real nodes in network namespaces: six scenarios hold, a lab does what its verbs say, and one that is killed leaves
# nothing. FLEETSYNC and TESTNET name the programs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
kept=$(mktemp -d /tmp/lab-check.XXXXXX)
dir=$kept/lab
trap '"$TESTNET" lab down --dir "$dir" >/dev/null 2>&1 || true; rm -rf "$kept"' EXIT

fail() {
    printf 'error: %s\n' "$1" >&2
    exit 1
}

# Root, ip(8), setpriv(1) and a TUN device, or exit 77 with the reason as the last line.
"$TESTNET" lab check

# Two labs beside each other: most of a scenario's time is waiting.
lane() {
    local scenario
    for scenario in "${@:2}"; do
        "$TESTNET" lab run "$scenario" --dir "$kept/$1" || return
    done
}
lane one partition freeze rolling-restart >"$kept/one.log" 2>&1 &
one=$!
status=0
lane two three-ways behind-nat interfaces || status=$?
wait "$one" || status=$?
cat "$kept/one.log"
((status == 0)) || fail "a scenario does not hold"

# A verdict that cannot fail would be none: halves that stay apart do not agree.
cat >"$kept/apart.toml" <<'END'
about = "the halves do not meet"
topology = "fleet-12-4z"
[[step]]
cut = ["part:1/2", "part:2/2"]
[[step]]
after_s = 1
agree_within_s = 2
END
status=0
"$TESTNET" lab run "$kept/apart.toml" --dir "$dir" || status=$?
((status == 1)) || fail "halves that stay apart end with exit $status instead of 1"

# How many network namespaces processes are in.
namespaces() {
    # Processes that end meanwhile are no failure.
    { readlink /proc/[0-9]*/ns/net /proc/[0-9]*/task/[0-9]*/ns/net 2>/dev/null || true; } | sort -u | wc -l
}

# One field of all nodes in `ps`.
field() {
    "$TESTNET" lab ps --dir "$dir" -o json |
        python3 -c "import json, sys; print(*(n['$1'] for n in json.load(sys.stdin)['nodes']))"
}

before=$(namespaces)
"$TESTNET" lab up line --dir "$dir" >/dev/null
"$TESTNET" lab up line --dir "$dir" 2>/dev/null && fail "two labs are up in one folder"
(($(namespaces) >= before + 12)) || fail "$(namespaces) namespaces instead of $((before + 12)) are there for twelve nodes"
read -r -a names < <(field name)
"$TESTNET" lab shell "${names[1]}" --dir "$dir" -- fleetsync status | grep -q "${names[1]}" || fail "a shell is not on its node"
"$TESTNET" lab freeze "${names[0]}" --dir "$dir"
"$TESTNET" lab kill "${names[1]}" --dir "$dir"
"$TESTNET" lab cut "${names[1]}" "${names[2]}" --dir "$dir"
[[ $(field state) == "frozen dead running"* ]] || fail "freeze and kill: $(field state)"
"$TESTNET" lab heal --dir "$dir"
[[ $(field state) != *dead* && $(field state) != *frozen* ]] || fail "heal: $(field state)"

# A lab that is killed takes all with it, also what stands still.
"$TESTNET" lab freeze "${names[0]}" --dir "$dir"
read -r -a pids < <(field pid)
lab=$("$TESTNET" lab ps --dir "$dir" -o json | python3 -c "import json, sys; print(json.load(sys.stdin)['pid'])")
kill -KILL "$lab"
for ((tries = 0; tries < 100; tries++)); do
    alive=0
    for pid in "${pids[@]}"; do
        if kill -0 "$pid" 2>/dev/null; then alive=1; fi
    done
    if ((alive == 0)) && (($(namespaces) <= before)); then break; fi
    sleep 0.1
done
((alive == 0)) || fail "nodes outlive the lab: ${pids[*]}"
(($(namespaces) <= before)) || fail "$(namespaces) namespaces instead of $before outlive the lab"
"$TESTNET" lab down --dir "$dir"
[[ ! -e $dir ]] || fail "the folder outlives the lab"
"$TESTNET" lab down --dir "$dir" 2>/dev/null && fail "a lab that is none goes down"
exit 0
