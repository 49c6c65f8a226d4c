use super::{PlannedStep, Strategy};
use zentinel_core::Result;
use zentinel_core::entity::RolloutSpec;
use zentinel_core::id::NodeId;

/// `rolling`: batches of `batch_size`, or of `batch_percentage` of the targets rounded down, at least one node. With
/// `batch_doubling` each batch is twice as large as the one before, up to `max_batch_size`: a later batch only begins when the ones
/// before went well.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rolling;

impl Strategy for Rolling {
    fn name(&self) -> &str {
        "rolling"
    }

    fn plan(&self, spec: &RolloutSpec, mut targets: &[NodeId]) -> Result<Vec<PlannedStep>> {
        let nodes = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
        let most = spec.max_batch_size.map_or(usize::MAX, nodes).max(1);
        let first = spec
            .batch_percentage
            .map_or_else(|| nodes(spec.batch_size), |percentage| percentage.floor_of(targets.len()));
        let (mut size, mut steps) = (first.max(1), Vec::new());
        while !targets.is_empty() {
            let (batch, rest) = targets.split_at(size.min(most).min(targets.len()));
            steps.push(PlannedStep::deploy(batch));
            targets = rest;
            if spec.batch_doubling {
                size = size.saturating_mul(2);
            }
        }
        Ok(steps)
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

    #[test]
    fn batches_double_up_to_a_limit() {
        let spec = RolloutSpec { batch_doubling: true, ..RolloutSpec::default() };
        assert_eq!(sizes(&spec, 20), [1, 2, 4, 8, 5]);
        let spec = RolloutSpec { batch_size: 3, max_batch_size: Some(5), ..spec };
        assert_eq!(sizes(&spec, 20), [3, 5, 5, 5, 2]);
        let spec = RolloutSpec { batch_doubling: false, max_batch_size: Some(2), ..spec };
        assert_eq!(sizes(&spec, 5), [2, 2, 1]);
    }
}
