//! End to end: real binary, real HTTP, real nodes, on every set of back ends.

mod blue_green;
mod cli;
mod ctl;
mod drift;
mod gates;
mod governance;
mod install;
mod outage;
mod replicas;
mod restart;
mod sim;
mod simulator;
mod story;
mod strategies;
