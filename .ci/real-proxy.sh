#!/usr/bin/env bash
# The whole story with the real proxy on this machine: two agents, each running a proxy, through good
# and bad bundles, with a stream of requests through both of which every one is counted; and what the
# agent relies on in the proxy, which the stand-in of the other tests must do too.
# ZENTINEL_PROXY_BINARY names a proxy that is there already; otherwise the release that nodes run is
# built from crates.io, once (25 minutes on two cores), into the user's cache.
set -euo pipefail
cd "$(dirname "$0")/.."
version=0.6.45
if [ -z "${ZENTINEL_PROXY_BINARY:-}" ]; then
    root="${XDG_CACHE_HOME:-$HOME/.cache}/zentinel-proxy/$version"
    ZENTINEL_PROXY_BINARY="$root/bin/zentinel"
    if [ ! -x "$ZENTINEL_PROXY_BINARY" ]; then
        sudo=""
        [ "$(id -u)" = 0 ] || sudo="sudo"
        $sudo apt-get update -qq >&2
        $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
            cmake protobuf-compiler clang pkg-config >&2
        cargo install "zentinel-proxy@$version" --locked --root "$root"
    fi
fi
"$ZENTINEL_PROXY_BINARY" --version
export ZENTINEL_PROXY_BINARY
# One test after another: the figures are those of two proxies, not of a busy machine.
cargo test --locked -p zentinel-tests --test agent -- --nocapture --test-threads 1 conformance story
