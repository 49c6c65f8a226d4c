//! Faults on purpose: processes killed at random instants, dependencies away, full disks, storms,
//! poison. `.ci/faults.sh` runs the long forms.

mod disk;
mod kills;
mod outages;
mod poison;
mod storm;
