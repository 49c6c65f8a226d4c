#!/usr/bin/env bash
# Starts the real services that tests need on free loopback ports, runs the given command with
# their addresses in the environment, and stops them whatever happens:
#   ZENTINEL_TEST_DATABASE_URL   a PostgreSQL server where the user may create databases
# The S3-compatible server runs inside the test processes (s3s-fs, which verifies signatures).
set -euo pipefail

# Debian keeps the server's programs off the PATH, by version.
programs() {
    local found
    found=$(ls -d /usr/lib/postgresql/*/bin/initdb 2>/dev/null | sort -V | tail -n 1)
    [ -n "$found" ] || found=$(command -v initdb) || return 1
    dirname "$found"
}
if ! programs >/dev/null; then
    echo "installing PostgreSQL" >&2
    sudo=""
    [ "$(id -u)" = 0 ] || sudo="sudo"
    # The tests start a server of their own; Debian's default cluster is not wanted.
    $sudo mkdir -p /etc/postgresql-common
    [ -e /etc/postgresql-common/createcluster.conf ] ||
        echo "create_main_cluster = false" | $sudo tee /etc/postgresql-common/createcluster.conf >/dev/null
    $sudo apt-get update -qq >&2
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql >&2
fi
bin=$(programs) || { echo "PostgreSQL's initdb was not found and could not be installed" >&2; exit 1; }

dir=$(mktemp -d)
# PostgreSQL refuses to run as root.
as() { if [ "$(id -u)" = 0 ]; then setpriv --reuid=postgres --regid=postgres --init-groups "$@"; else "$@"; fi; }
[ "$(id -u)" != 0 ] || chown postgres "$dir"
stop() {
    (cd / && as "$bin/pg_ctl" -D "$dir/data" -m immediate stop >/dev/null 2>&1) || true
    rm -rf "$dir"
}
trap stop EXIT
trap 'exit 130' INT TERM

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
# Tests need no durability; whoever measures or crashes the server does.
durability="-c fsync=off -c synchronous_commit=off -c full_page_writes=off"
[ -z "${ZENTINEL_POSTGRES_DURABLE:-}" ] || durability=""
start() {
    cd / # initdb complains when it can't read the current directory
    as "$bin/initdb" -D "$dir/data" -U zentinel --auth=trust --encoding=UTF8 --locale=C --no-sync >/dev/null
    as "$bin/pg_ctl" -D "$dir/data" -w -t 60 -l "$dir/log" start -o "-c listen_addresses=127.0.0.1 -p $port \
        -c unix_socket_directories=$dir $durability -c max_connections=300" >/dev/null
    as "$bin/createdb" -h 127.0.0.1 -p "$port" -U zentinel zentinel
}
(start) || { cat "$dir/log" >&2; exit 1; }
export ZENTINEL_TEST_DATABASE_URL="postgres://zentinel@127.0.0.1:$port/zentinel"
"$@"
