use super::*;
use crate::approval::Hearing;
use crate::fixture::{World, at};
use chrono::TimeDelta;
use proptest::prelude::*;
use uuid::Uuid;
use zentinel_core::entity::{FreezeOverride, FreezeSpan, RolloutSpec};
use zentinel_core::id::{ApiKeyId, OrganisationId, ProjectId, UserId};

fn user(number: u128) -> Actor {
    Actor::User(UserId::from_uuid(Uuid::from_u128(number)))
}

fn scope() -> (OrganisationId, ProjectId) {
    (OrganisationId::from_uuid(Uuid::from_u128(1)), ProjectId::from_uuid(Uuid::from_u128(2)))
}

fn environment(name: &str, needed: u32) -> Environment {
    let mut environment = Environment::new(scope(), name, None, None, at(0)).unwrap();
    environment.settings.approval_required = needed > 0;
    environment.settings.approvals_needed = needed;
    environment
}

fn window(name: &str, environment: Option<EnvironmentId>, from: i64, to: i64) -> FreezeWindow {
    FreezeWindow {
        id: FreezeWindowId::random(),
        organisation_id: scope().0,
        project_id: scope().1,
        name: name.to_owned(),
        reason: None,
        environment_id: environment,
        span: FreezeSpan::Once { starts_at: at(from), ends_at: at(to) },
        created_by: Actor::System,
        created_at: at(0),
        updated_at: at(0),
    }
}

struct Case {
    rollout: Rollout,
    project: ProjectSettings,
    environments: Vec<Environment>,
    closed: Vec<Environment>,
    freezes: Vec<FreezeWindow>,
    author: Option<Actor>,
}

impl Case {
    fn new() -> Self {
        let mut rollout = World::new(1, RolloutSpec::default()).state.rollout().clone();
        rollout.requested_by = Some(user(1));
        Self {
            rollout,
            project: ProjectSettings::default(),
            environments: Vec::new(),
            closed: Vec::new(),
            freezes: Vec::new(),
            author: Some(user(9)),
        }
    }

    fn judge(&self, now: i64) -> Judgement {
        let situation = Situation {
            rollout: &self.rollout,
            project: &self.project,
            environments: &self.environments,
            closed: &self.closed,
            author: self.author,
            freezes: &self.freezes,
        };
        super::judge(&situation, at(now))
    }

    /// Somebody approves, if it is allowed.
    fn approve(&mut self, by: Actor) -> zentinel_core::Result<()> {
        self.rollout.approval = self.judge(0).approval;
        let hearing = Hearing { rollout: &self.rollout, author: self.author, by, now: at(0) };
        self.rollout.approval = hearing.approve(None)?;
        Ok(())
    }
}

#[test]
fn without_rules_it_starts() {
    let judgement = Case::new().judge(0);
    assert!(judgement.may_start());
    assert_eq!(judgement.approval.state, ApprovalState::NotRequired);
    assert_eq!((judgement.ask_again_at(), judgement.summary()), (None, String::new()));
}

#[test]
fn the_stricter_of_project_and_environments_holds() {
    let mut case = Case::new();
    for (project, environments, needed) in
        [(0, vec![], 0), (1, vec![], 1), (0, vec![0, 2], 2), (3, vec![1, 2], 3), (1, vec![4], 4)]
    {
        case.project.approval_required = project > 0;
        case.project.approvals_needed = project;
        case.environments = environments.iter().map(|needed| environment("x", *needed)).collect();
        assert_eq!(case.judge(0).approval.needed, needed, "{project} {environments:?}");
    }
    // A figure of 0 asks for one.
    case.environments.clear();
    case.project.approval_required = true;
    case.project.approvals_needed = 0;
    assert_eq!(case.judge(0).summary(), "Waits for approval.");
}

#[test]
fn approvals_are_counted_once_per_person_and_never_by_the_creator() {
    let mut case = Case::new();
    case.environments = vec![environment("Production", 2)];
    assert_eq!(case.judge(0).summary(), "Waits for 2 approvals.");
    assert_eq!(case.approve(user(1)).unwrap_err().message(), "self_approval");
    case.approve(user(2)).unwrap();
    assert_eq!(case.approve(user(2)).unwrap_err().message(), "already_approved");
    assert_eq!(case.judge(0).summary(), "Waits for 1 of 2 approvals.");
    let key = Actor::ApiKey(ApiKeyId::random());
    case.approve(key).unwrap();
    assert!(case.judge(0).may_start());
    assert_eq!(case.approve(user(3)).unwrap_err().message(), "invalid_state");
    // The settings became stricter before it started, then were taken back.
    case.environments = vec![environment("Production", 3)];
    assert_eq!(case.judge(0).summary(), "Waits for 1 of 3 approvals.");
    case.environments.clear();
    assert_eq!(case.judge(0).approval.state, ApprovalState::Approved);
}

#[test]
fn the_author_of_the_bundle_is_not_enough() {
    let mut case = Case::new();
    case.environments = vec![environment("Production", 1)];
    case.approve(user(9)).unwrap();
    let judgement = case.judge(0);
    assert_eq!(judgement.approval.state, ApprovalState::PendingApproval);
    assert!(judgement.summary().contains("other than the author"), "{}", judgement.summary());
    case.approve(user(2)).unwrap();
    assert!(case.judge(0).may_start());
}

#[test]
fn a_rejection_needs_a_comment_and_is_final() {
    let mut case = Case::new();
    case.environments = vec![environment("Production", 1)];
    case.rollout.approval = case.judge(0).approval;
    let hearing = Hearing { rollout: &case.rollout, author: None, by: user(2), now: at(0) };
    assert_eq!(hearing.reject("  ").unwrap_err().message(), "comment_required");
    case.rollout.approval = hearing.reject("not today").unwrap();
    assert_eq!(case.judge(0).summary(), "Rejected: not today");
    assert_eq!(case.approve(user(3)).unwrap_err().message(), "invalid_state");
    // Not even settings that ask nobody bring it back.
    case.environments.clear();
    assert!(!case.judge(0).may_start());
}

#[test]
fn it_starts_at_its_time_and_after_the_freeze_of_that_time() {
    let mut case = Case::new();
    case.rollout.scheduled_at = Some(at(100));
    case.freezes = vec![window("now", None, -10, 50)];
    let judgement = case.judge(0);
    assert_eq!(judgement.obstacles, [Obstacle::Schedule { at: at(100) }], "the freeze is over by then");
    assert_eq!(judgement.ask_again_at(), Some(at(100)));
    assert!(case.judge(100).may_start());

    case.freezes.push(window("then", None, 90, 200));
    let judgement = case.judge(0);
    assert_eq!(judgement.obstacles.len(), 2);
    assert_eq!(judgement.ask_again_at(), Some(at(201)), "its last instant belongs to the window");
    assert!(judgement.summary().ends_with("ends at 1970-01-12T13:50:00Z."), "{}", judgement.summary());
    assert!(!case.judge(200).may_start());
    assert!(case.judge(201).may_start());
}

#[test]
fn overlapping_windows_end_with_the_last_and_only_those_concerned_count() {
    let (prod, dev) = (environment("Production", 0), environment("Development", 0));
    let mut case = Case::new();
    case.freezes = vec![
        window("first", None, 0, 10),
        window("second", Some(prod.id), 5, 20),
        window("third", Some(prod.id), 21, 30),
        window("elsewhere", Some(dev.id), 0, 90),
    ];
    let until = |case: &Case| case.judge(5).obstacles.first().and_then(Obstacle::until);
    assert_eq!(until(&case), Some(at(10)), "without environment the global one alone");
    case.environments = vec![prod.clone()];
    assert_eq!(until(&case), Some(at(30)), "one begins when a rollout could start after the other");
    case.environments = vec![prod, dev];
    assert_eq!(until(&case), Some(at(90)));
    case.rollout.freeze_override =
        Some(FreezeOverride { by: user(1), reason: "outage".to_owned(), at: at(0) });
    assert!(case.judge(5).may_start());
}

#[test]
fn an_environment_without_the_bundle_is_closed() {
    let mut case = Case::new();
    case.closed = vec![environment("Production", 0)];
    let judgement = case.judge(0);
    assert_eq!(judgement.summary(), "The bundle is not promoted to Production.");
    let refusal = judgement.obstacles[0].refusal(&judgement.approval);
    assert_eq!(refusal.message(), "Bundle is not promoted to this environment");
}

#[test]
fn a_rollback_asks_nobody() {
    let mut case = Case::new();
    case.environments = vec![environment("Production", 3)];
    case.closed = case.environments.clone();
    case.freezes = vec![window("always", None, -100, 100)];
    assert_eq!(case.judge(0).obstacles.len(), 3);
    case.rollout.revert = Some("outage".to_owned());
    assert_eq!(case.judge(0).summary(), "The bundle is not promoted to Production.");
    case.closed.clear();
    assert!(case.judge(0).may_start());
    case.closed = case.environments.clone();
    case.rollout.rollback_of = Some(case.rollout.id);
    assert!(case.judge(0).may_start());
}

proptest! {
    /// It never starts frozen, early, or with fewer approvals than asked for; and asking again when told to
    /// finds it one obstacle further.
    #[test]
    fn no_rule_is_ever_passed_over(
        needed in 0_u32..4,
        approvers in proptest::collection::vec(0_u128..6, 0..6),
        scheduled in proptest::option::of(0_i64..100),
        windows in proptest::collection::vec((0_i64..150, 1_i64..60, any::<bool>()), 0..6),
        now in 0_i64..150,
    ) {
        let mut case = Case::new();
        case.author = Some(user(5));
        case.environments = vec![environment("Production", needed)];
        let prod = case.environments[0].id;
        case.rollout.scheduled_at = scheduled.map(at);
        case.freezes = windows
            .iter()
            .map(|(from, length, global)| window("w", (!global).then_some(prod), *from, from + length))
            .collect();
        for number in approvers {
            let _refused = case.approve(user(number));
        }
        let judgement = case.judge(now);
        let frozen = |second: i64| case.freezes.iter().any(|window| window.until(at(second)).is_some());
        let given: BTreeSet<String> = judgement.approval.given.iter().map(|verdict| format!("{:?}", verdict.by)).collect();
        prop_assert_eq!(given.len(), judgement.approval.given.len(), "somebody counted twice");
        prop_assert!(judgement.approval.given.iter().all(|verdict| verdict.by != user(1)), "the creator counted");
        if judgement.may_start() {
            prop_assert!(!frozen(now));
            prop_assert!(scheduled.is_none_or(|at| at <= now));
            prop_assert!(given.len() >= usize::try_from(needed).unwrap());
            let others = judgement.approval.given.iter().filter(|verdict| verdict.by != user(5)).count();
            prop_assert!(needed == 0 || others > 0);
        } else if let Some(next) = judgement.ask_again_at() {
            prop_assert!(next > at(now));
            let seconds = (next - at(0)).num_seconds();
            let later = case.judge(seconds);
            prop_assert!(later.obstacles.iter().all(|obstacle| obstacle.until().is_none()), "{:?}", later);
            prop_assert!(next - at(0) <= TimeDelta::seconds(400));
        } else {
            prop_assert_eq!(judgement.approval.state, ApprovalState::PendingApproval);
        }
    }
}
