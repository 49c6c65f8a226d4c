//! What every request goes through, outermost first: request id, access log and counters,
//! security headers, panics, body limit, time limit, rate-limit headers.

mod guard;
mod trace;

pub(crate) use guard::{accepts_json, guard, security_headers};
pub(crate) use trace::trace;
