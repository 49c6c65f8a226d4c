//! A supervised proxy that is a small shell script.
