#!/usr/bin/env bash
# Checks a running server from the outside with tools from PyPI:
# - a bundle's SBOM against the official CycloneDX 1.5 schema (cyclonedx-python-lib, strict);
# - both APIs, fuzzed from the server's own OpenAPI document (schemathesis): no answer may be a 5xx.
#   The fuzzer gets a real project, node, bundle and rollout, to reach what lies behind "not found".
# ZENTINEL_FUZZ_EXAMPLES sets the number of examples per operation (default 40).
set -euo pipefail
cd "$(dirname "$0")/.."
examples=${ZENTINEL_FUZZ_EXAMPLES:-40}
dir=$(mktemp -d)
server=""
stop() {
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    rm -rf "$dir"
}
trap stop EXIT
trap 'exit 130' INT TERM

if ! python3 -c 'import ensurepip' 2>/dev/null; then
    sudo=""
    [ "$(id -u)" = 0 ] || sudo="sudo"
    $sudo apt-get update -qq >&2
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv >&2
fi
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet "schemathesis==4.32.5" "cyclonedx-python-lib[json-validation]==11.12.0"
cargo build --locked -q -p zentinel-server
"${CARGO_TARGET_DIR:-target}/debug/zentinel-server" demo --json --nodes 2 --listen 127.0.0.1:0 --data "$dir/data" >"$dir/events" 2>"$dir/log" &
server=$!
for _ in $(seq 600); do
    ! grep -q '"event":"over"' "$dir/events" || break
    kill -0 "$server" || { cat "$dir/log"; exit 1; }
    sleep 0.2
done
grep -q '"event":"over"' "$dir/events" || { echo "the demo did not come to its end" >&2; cat "$dir/events" "$dir/log"; exit 1; }

python3 - "$dir" <<'PYTHON'
import json, sys, urllib.request

directory = sys.argv[1]
ready = next(event for event in map(json.loads, open(f"{directory}/events")) if event["event"] == "ready")

def call(path, body=None, **headers):
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **headers}
    return json.load(urllib.request.urlopen(urllib.request.Request(ready["url"] + path, data, headers)))

key = {"Authorization": "Bearer " + ready["api_key"]}
project = f"/api/v1/projects/{ready['project']}"
first = lambda kind: call(f"{project}/{kind}", **key)[kind][0]["id"]
node = call(f"/api/v1/projects/{ready['empty_project']}/nodes/register", {"name": "fuzzed"},
            **{"X-Zentinel-Join-Token": ready["join_token"]})
ids = {kind: first(kind) for kind in ("nodes", "bundles", "rollouts")}
with open(f"{directory}/schemathesis.toml", "w") as out:
    out.write(f'[parameters]\n"path.project_slug" = "{ready["project"]}"\n"path.node_id" = "{node["node_id"]}"\n')
    for kind, id in ids.items():
        out.write(f'[[operations]]\ninclude-path-regex = "/{kind}/{{id}}"\nparameters = {{ "path.id" = "{id}" }}\n')
with open(f"{directory}/sbom.json", "w") as out:
    json.dump(call(f"{project}/bundles/{ids['bundles']}/sbom", **key), out)
with open(f"{directory}/run", "w") as out:
    out.write(f"url={ready['url']}\nkey={ready['api_key']}\nnode_key={node['node_key']}\n")
PYTHON
. "$dir/run"

"$dir/venv/bin/python" - "$dir/sbom.json" <<'PYTHON'
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

problem = JsonStrictValidator(SchemaVersion.V1_5).validate_str(open(sys.argv[1]).read())
sys.exit(f"the SBOM is not CycloneDX 1.5: {problem}" if problem else 0)
PYTHON
echo "the SBOM is CycloneDX 1.5"

# One worker: CPython 3.11 can fail to compile source in two threads at once (AST recursion depth).
fuzz() {
    (cd "$dir" && exec "$dir/venv/bin/schemathesis" --config-file "$dir/schemathesis.toml" run "$url/api/openapi.json" \
        --checks not_a_server_error --phases examples,coverage,fuzzing --max-examples "$examples" \
        --request-timeout 30 --workers 1 --no-color --suppress-health-check all "$@")
}
# Revoking and deleting keys would lock the fuzzer out; a long poll would hold it up.
fuzz --header "Authorization: Bearer $key" --exclude-path-regex '^/api/v1/nodes/|/api-keys/\{id\}'
fuzz --header "X-Zentinel-Node-Key: $node_key" --include-path-regex '^/api/v1/nodes/' \
    --exclude-path-regex '/bundles/latest$|/key/rotate$'
