use super::{PlannedStep, Strategy};
use zentinel_core::Result;
use zentinel_core::entity::RolloutSpec;
use zentinel_core::id::NodeId;

/// `all_at_once`: one step with every node.
#[derive(Clone, Copy, Debug, Default)]
pub struct AllAtOnce;

impl Strategy for AllAtOnce {
    fn name(&self) -> &str {
        "all_at_once"
    }

    fn plan(&self, _spec: &RolloutSpec, targets: &[NodeId]) -> Result<Vec<PlannedStep>> {
        Ok(match targets {
            [] => Vec::new(),
            targets => vec![PlannedStep::deploy(targets)],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_one_step() {
        let targets = [NodeId::random(), NodeId::random()];
        let steps = AllAtOnce.plan(&RolloutSpec::default(), &targets).unwrap();
        assert_eq!(steps, [PlannedStep::deploy(targets)]);
        assert_eq!(AllAtOnce.plan(&RolloutSpec::default(), &[]).unwrap(), []);
    }
}
