//! What handlers take from a request. Every refusal goes through [`ApiError`](crate::error::ApiError).

mod body;
mod client_ip;
mod field;
mod params;
mod path;

pub(crate) use body::{Input, read_body};
pub(crate) use client_ip::ClientIp;
pub use client_ip::Network;
pub(crate) use field::Field;
pub(crate) use params::Params;
pub(crate) use path::{PathId, parse_id, path_param};
