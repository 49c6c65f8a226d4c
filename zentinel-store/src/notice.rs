//! What the watchers are told of a commit, the same in every back end.

use std::collections::HashSet;
use uuid::Uuid;
use zentinel_core::RecordKind;
use zentinel_core::id::ProjectId;
use zentinel_core::port::Notice;

/// The notices about the written records of one kind: changed ones and renewed ones apart.
pub(crate) fn records(
    kind: RecordKind,
    project_id: Option<ProjectId>,
    ids: Vec<Uuid>,
    renewed: &HashSet<Uuid>,
) -> impl Iterator<Item = Notice> {
    let (again, changed): (Vec<Uuid>, Vec<Uuid>) = ids.into_iter().partition(|id| renewed.contains(id));
    let notice = move |(ids, renewed): (Vec<Uuid>, bool)| {
        (!ids.is_empty()).then_some(Notice::Records { kind, project_id, ids, renewed })
    };
    [(changed, false), (again, true)].into_iter().filter_map(notice)
}
