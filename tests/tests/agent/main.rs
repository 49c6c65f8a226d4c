//! The agent's binary with a proxy that it runs, against the server's binary: what serves, what is
//! reported, and that traffic goes on whatever happens.
//!
//! `conformance` and `story` run with the proxy that `ZENTINEL_PROXY_BINARY` names, the stand-in by
//! default; `.ci/real-proxy.sh` runs them with the real one. The others need the stand-in.

mod conformance;
mod crash;
mod disk;
mod gates;
mod lifecycle;
mod poison;
mod story;
mod wire;
