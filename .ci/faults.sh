#!/usr/bin/env bash
# The long forms of the fault tests; the ordinary tests run short ones. Takes about half an hour on two
# cores. Prints the seed of every run; with ZENTINEL_FAULT_SEED it plays those chances again.
#   ZENTINEL_FAULT_KILLS     kills of the server per back end and of the replicas (100); PostgreSQL
#                            itself is killed half as often
#   ZENTINEL_OUTAGE_SECONDS  how long the database and S3 stay away (60)
#   ZENTINEL_STORM_NODES     nodes that return at once (10,000)
# Arguments choose tests by name, for example: .ci/faults.sh kills::postgresql_itself
set -euo pipefail
cd "$(dirname "$0")/.."
export ZENTINEL_FAULT_KILLS=${ZENTINEL_FAULT_KILLS:-100}
export ZENTINEL_OUTAGE_SECONDS=${ZENTINEL_OUTAGE_SECONDS:-60}
export ZENTINEL_STORM_NODES=${ZENTINEL_STORM_NODES:-10000}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
bash .ci/services.sh cargo test --locked -p zentinel-tests --test faults -- --nocapture --test-threads 2 "$@" 2>&1 |
    tee "$log" || status=$?
printf '\n== summary\n'
grep -E 'ZENTINEL_FAULT_SEED=|: [0-9]+ calls, |nodes back after|resident before|^FAULT|^test .* \.\.\. |^test result' "$log" || true
exit "$status"
