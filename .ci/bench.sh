#!/usr/bin/env bash
# Measures the server with simulated nodes and prints one table; asserts nothing about time.
#   .ci/bench.sh            SQLite and PostgreSQL, 1k, 10k and 100k nodes (about 20 minutes)
#   .ci/bench.sh --quick    a minute's worth with the build of the tests, to see that it works
# ZENTINEL_BENCH_NODES="1000 10000"   ZENTINEL_BENCH_STORES="sqlite"   ZENTINEL_BENCH_SECONDS=30
# ZENTINEL_BENCH_RATE_SQLITE=30000    ZENTINEL_BENCH_RATE_POSTGRES=20000
# ZENTINEL_BENCH_CONNECTIONS=2000     ZENTINEL_BENCH_STORM_CONNECTIONS=8000
# ZENTINEL_BENCH_CARGO=no (leaves out `cargo bench`)
# ZENTINEL_BENCH_PROGRAMS=DIR (takes zentinel-server and zentinel-sim from there and builds nothing)
# PostgreSQL runs with fsync on, unlike in the tests. Everything is written to a temporary directory.
set -euo pipefail
cd "$(dirname "$0")/.."
quick=no
[ "${1:-}" != --quick ] || quick=yes
stores=${ZENTINEL_BENCH_STORES:-sqlite postgres}
if [[ " $stores " == *" postgres "* ]] && [ -z "${ZENTINEL_TEST_DATABASE_URL:-}" ]; then
    exec env ZENTINEL_POSTGRES_DURABLE=yes bash .ci/services.sh bash .ci/bench.sh "$@"
fi
if [ $quick = yes ]; then
    fleets=${ZENTINEL_BENCH_NODES:-500} seconds=${ZENTINEL_BENCH_SECONDS:-3}
    rate_sqlite=${ZENTINEL_BENCH_RATE_SQLITE:-1500} rate_postgres=${ZENTINEL_BENCH_RATE_POSTGRES:-1500}
    with_cargo=${ZENTINEL_BENCH_CARGO:-no} storm=2 profile=dev folder=debug
else
    fleets=${ZENTINEL_BENCH_NODES:-1000 10000 100000} seconds=${ZENTINEL_BENCH_SECONDS:-30}
    rate_sqlite=${ZENTINEL_BENCH_RATE_SQLITE:-30000} rate_postgres=${ZENTINEL_BENCH_RATE_POSTGRES:-20000}
    with_cargo=${ZENTINEL_BENCH_CARGO:-yes} storm=10 profile=release folder=release
fi
connections=${ZENTINEL_BENCH_CONNECTIONS:-2000}
storm_connections=${ZENTINEL_BENCH_STORM_CONNECTIONS:-8000}
[ $quick = no ] || connections=100 storm_connections=100

programs=${ZENTINEL_BENCH_PROGRAMS:-}
if [ -z "$programs" ]; then
    cargo build --locked --profile $profile -q -p zentinel-server --bin zentinel-server --bin zentinel-sim
    programs=${CARGO_TARGET_DIR:-target}/$folder
fi
work=$(mktemp -d)
server_pid=""
kill_server() {
    [ -n "$server_pid" ] || return 0
    kill -9 "$server_pid" 2>/dev/null || true
    # It is no child of this shell, so that it cannot be waited for.
    while [ -d "/proc/$server_pid/fd" ] && [ -n "$(ls "/proc/$server_pid/fd" 2>/dev/null)" ]; do sleep 0.01; done
    server_pid=""
}
stop() {
    kill_server
    rm -rf "$work"
}
trap stop EXIT
trap 'exit 130' INT TERM
say() { printf '%s  %s\n' "$(date +%T)" "$*" >&2; }

# Starts the server; leaves its process in $server_pid and the milliseconds from exec to the first
# 200 of /ready in $cold_ms.
start_server() {
    read -r server_pid cold_ms < <(python3 - "$programs/zentinel-server" "$port" "$work/server.log" <<'PYTHON'
import http.client, subprocess, sys, time
program, port, log = sys.argv[1], int(sys.argv[2]), open(sys.argv[3], "a")
begin = time.monotonic()
child = subprocess.Popen([program, "serve"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
while True:
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/ready")
        if connection.getresponse().status == 200:
            break
    except OSError:
        pass
    if child.poll() is not None or time.monotonic() - begin > 120:
        sys.exit("the server did not start; see its log")
    time.sleep(0.001)
print(child.pid, round((time.monotonic() - begin) * 1000))
PYTHON
    )
    [ -n "$server_pid" ] || { tail -n 20 "$work/server.log" >&2; exit 1; }
}
memory() { awk '/^VmRSS:/ { printf "%.0f", $2 / 1024 }' "/proc/$server_pid/status"; }
field() { python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$1" "$2"; }
note() { printf '%s\t%s\t%s\t%s\n' "$store" "$nodes" "$1" "$2" >>"$work/figures"; }
sim() { "$programs/zentinel-sim" "$@" --json; }
# What of a summary goes into the table.
summarise() {
    python3 - "$1" "$2" <<'PYTHON' | while IFS=$'\t' read -r name figure; do note "$name" "$figure"; done
import json, sys
what, summary = sys.argv[1], json.load(open(sys.argv[2]))
latency, errors = summary["latency_ms"], summary["errors"]
def show(name, figure): print(f"{what}: {name}\t{figure}")
show("answered per second", f"{summary['per_second']:.0f}")
if summary["server"]:
    show("server CPU per request", f"{summary['server']['cpu_us_per_request']:.1f} us")
show("simulator CPU per request", f"{summary['simulator']['cpu_us_per_request']:.1f} us")
for name in ("all", "all, from sending", "heartbeat with news"):
    if name in latency:
        show(f"p50 / p99, {name}", f"{latency[name]['p50']:.1f} / {latency[name]['p99']:.1f} ms")
show("errors", f"{errors['share'] * 100:.2f} %")
if summary["storm"]:
    storm = summary["storm"]
    show("returned", f"{storm['returned']} of {storm['of']}, the last after {storm['last_after_seconds']:.1f} s")
    show("told to come back", errors["told_to_wait"])
PYTHON
}

measure() {
    local rate=$1 identities=$work/nodes.jsonl empty token
    rm -rf "$work/data" "$identities"
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    export ZENTINEL_DATA_DIR=$work/data ZENTINEL_LISTEN=127.0.0.1:$port ZENTINEL_LOG=error
    export ZENTINEL__HTTP__RATE_LIMITS__REGISTRATION=100000000 ZENTINEL__HTTP__RATE_LIMITS__NODE=100000000
    say "$store, $nodes nodes"
    "$programs/zentinel-server" --json init --organisation Bench --project bench --email bench@example.com \
        >"$work/init.json"
    token=$(field "$work/init.json" join_token)
    start_server
    note "start, empty" "$cold_ms ms"
    empty=$(memory)
    local to=(--server "http://127.0.0.1:$port" --project bench --nodes "$nodes" --identities "$identities")
    ZENTINEL_TOKEN=$token sim register "${to[@]}" >"$work/out.json"
    note "registrations per second" "$(python3 -c 'import json, sys; print(round(json.load(open(sys.argv[1]))["registration"]["per_second"]))' "$work/out.json")"
    note "memory after registration" "$(($(memory) - empty)) MiB over $empty"
    # Long enough that every node has reported once before anything is measured.
    local warm=$((nodes * 3 / rate + 3))
    sim "${to[@]}" --connections "$connections" --rate "$rate" --warm-up "$warm" --duration "$seconds" \
        --server-pid "$server_pid" --max-errors 100 >"$work/out.json"
    summarise "mix at $rate/s" "$work/out.json"
    note "memory after a heartbeat each" "$(($(memory) - empty)) MiB over $empty"
    sim "${to[@]}" --connections 256 --rate max --warm-up 2 --duration "$seconds" \
        --server-pid "$server_pid" --max-errors 100 >"$work/out.json"
    summarise "as fast as it goes" "$work/out.json"
    kill_server
    start_server
    note "start after kill -9" "$cold_ms ms"
    sim "${to[@]}" --connections "$storm_connections" --storm "$storm" --duration 120 \
        --server-pid "$server_pid" --max-errors 100 >"$work/out.json"
    summarise "storm within $storm s" "$work/out.json"
    kill_server
}

for store in $stores; do
    for nodes in $fleets; do
        case $store in
        sqlite)
            unset DATABASE_URL
            measure "$rate_sqlite"
            ;;
        postgres)
            psql -q "$ZENTINEL_TEST_DATABASE_URL" -c "create database bench_$nodes"
            export DATABASE_URL="${ZENTINEL_TEST_DATABASE_URL%/*}/bench_$nodes"
            measure "$rate_postgres"
            ;;
        *)
            echo "there is no store $store; choose of sqlite and postgres" >&2
            exit 64
            ;;
        esac
    done
done

printf '\n%-10s %8s  %-50s %s\n' store nodes what figure
awk -F '\t' '{ printf "%-10s %8s  %-50s %s\n", $1, $2, $3, $4 }' "$work/figures"
if [ "$with_cargo" = yes ]; then
    printf '\n'
    cargo bench --locked -q -p zentinel-rollout --bench tick --bench engine
    cargo bench --locked -q -p zentinel-http --bench node_path
    cargo bench --locked -q -p zentinel-compiler --bench compile
fi
