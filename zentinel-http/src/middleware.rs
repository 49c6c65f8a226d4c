//! What every request goes through: request id, access log and counters, security headers, panics,
//! body limit, time limit, rate-limit headers. One layer instead of one each: a layer costs every
//! request a few allocations.

mod guard;
mod trace;

pub(crate) use trace::serve;
