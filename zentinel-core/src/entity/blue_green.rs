//! Slots and traffic weights: which half of a blue-green fleet gets how much of the traffic.

use crate::value::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// One half of a blue-green fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Slot {
    /// Serves when a rollout begins, and catches up at its end.
    Blue,
    /// Gets the bundle first, then the traffic.
    Green,
}

impl Slot {
    /// The wire name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Blue => "blue",
            Self::Green => "green",
        }
    }

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Blue => Self::Green,
            Self::Green => Self::Blue,
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Slot {
    type Err = crate::Error;
    fn from_str(text: &str) -> crate::Result<Self> {
        match text {
            "blue" => Ok(Self::Blue),
            "green" => Ok(Self::Green),
            _ => Err(crate::Error::invalid_field("slot", "must be blue or green")),
        }
    }
}

/// The slot that a node belongs to and the weight it shall be given by whatever stands in front of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeTraffic {
    /// Its slot.
    pub slot: Slot,
    /// 0 (no traffic) to 100 (its full share).
    pub weight: u8,
}

/// How the traffic is split between the slots; both get 100 when both serve fully.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TrafficSplit {
    /// Weight of the green slot, 0 to 100.
    pub green: u8,
    /// Weight of the blue slot, 0 to 100.
    pub blue: u8,
}

impl TrafficSplit {
    /// The weight of a slot.
    #[must_use]
    pub fn weight(&self, slot: Slot) -> u8 {
        match slot {
            Slot::Blue => self.blue,
            Slot::Green => self.green,
        }
    }
}

/// A split that an external load balancer was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShiftRequest {
    /// Counts the shifts of one rollout, from 1: a higher number replaces a lower one.
    pub number: u32,
    /// What is asked for.
    pub split: TrafficSplit,
    /// Since when.
    pub requested_at: Timestamp,
    /// When the load balancer acknowledged it; no step goes on before.
    pub acknowledged_at: Option<Timestamp>,
    /// What went wrong with the last try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What a blue-green rollout knows of its traffic beyond its steps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutTraffic {
    /// An operator swapped the slots since the last weight came into force.
    #[serde(default)]
    pub swapped: bool,
    /// The green slot gets nothing until the gates of the active step have passed again.
    #[serde(default)]
    pub withheld: bool,
    /// The last split that the load balancer was asked for.
    #[serde(default)]
    pub shift: Option<ShiftRequest>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_a_slot_costs_next_to_nothing() {
        assert!(std::mem::size_of::<Option<NodeTraffic>>() <= 2);
        assert!(std::mem::size_of::<Option<Box<RolloutTraffic>>>() <= 8);
    }

    #[test]
    fn slots_are_read_as_they_are_written() {
        for slot in [Slot::Blue, Slot::Green] {
            assert_eq!(slot.as_str().parse::<Slot>().unwrap(), slot);
            assert_eq!(slot.other().other(), slot);
        }
        assert!("red".parse::<Slot>().unwrap_err().to_string().contains("must be blue or green"));
    }
}
