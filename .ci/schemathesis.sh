#!/usr/bin/env bash
# Fuzzes the operator API from its own OpenAPI document: no answer may be a 5xx.
# ZENTINEL_FUZZ_EXAMPLES sets the number of examples per operation (default 15).
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$(mktemp -d)
server=""
stop() {
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    rm -rf "$dir"
}
trap stop EXIT INT TERM

python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet "schemathesis==4.*"
cargo build --locked -q -p zentinel-server
target/debug/zentinel-server demo --json --nodes 2 --listen 127.0.0.1:0 --data "$dir/data" >"$dir/events" 2>"$dir/log" &
server=$!
for _ in $(seq 300); do
    ! grep -q '"event":"ready"' "$dir/events" || break
    kill -0 "$server" || { cat "$dir/log"; exit 1; }
    sleep 0.2
done
field() { python3 -c 'import json, sys
for line in open(sys.argv[1]):
    event = json.loads(line)
    if event["event"] == "ready": print(event[sys.argv[2]])' "$dir/events" "$1"; }
"$dir/venv/bin/schemathesis" run "$(field url)/api/openapi.json" \
    --header "Authorization: Bearer $(field api_key)" \
    --checks not_a_server_error --phases examples,coverage,fuzzing --max-examples "${ZENTINEL_FUZZ_EXAMPLES:-15}" \
    --exclude-path-regex '/bundles/latest$' --request-timeout 30 --workers 2 --no-color
