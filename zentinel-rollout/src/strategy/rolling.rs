use super::{PlannedStep, Strategy};
use zentinel_core::Result;
use zentinel_core::entity::RolloutSpec;
use zentinel_core::id::NodeId;

/// `rolling`: batches of `batch_size`, or of `batch_percentage` of the targets rounded down, at least one node.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rolling;

impl Strategy for Rolling {
    fn name(&self) -> &str {
        "rolling"
    }

    fn plan(&self, spec: &RolloutSpec, targets: &[NodeId]) -> Result<Vec<PlannedStep>> {
        let size = match spec.batch_percentage {
            Some(percentage) => percentage.floor_of(targets.len()),
            None => usize::try_from(spec.batch_size).unwrap_or(usize::MAX),
        };
        Ok(targets.chunks(size.max(1)).map(PlannedStep::deploy).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zentinel_core::Percent;

    fn sizes(spec: &RolloutSpec, nodes: usize) -> Vec<usize> {
        let targets: Vec<_> = (0..nodes).map(|_| NodeId::random()).collect();
        let steps = Rolling.plan(spec, &targets).unwrap();
        assert_eq!(steps.iter().flat_map(|step| step.nodes.clone()).collect::<Vec<_>>(), targets);
        steps.iter().map(|step| step.nodes.len()).collect()
    }

    #[test]
    fn cuts_batches_of_a_size() {
        let spec = RolloutSpec { batch_size: 3, ..RolloutSpec::default() };
        assert_eq!(sizes(&spec, 10), [3, 3, 3, 1]);
        assert_eq!(sizes(&spec, 2), [2]);
    }

    #[test]
    fn cuts_batches_of_a_share_rounded_down_but_never_empty() {
        let share = |percent| RolloutSpec {
            batch_percentage: Some(Percent::new(percent).unwrap()),
            ..RolloutSpec::default()
        };
        assert_eq!(sizes(&share(25), 10), [2, 2, 2, 2, 2]);
        assert_eq!(sizes(&share(1), 3), [1, 1, 1]);
        assert_eq!(sizes(&share(100), 3), [3]);
    }
}
