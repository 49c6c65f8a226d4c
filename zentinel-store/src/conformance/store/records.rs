//! Single records.

use crate::conformance::Backend;
use crate::conformance::fixture::*;
use serde_json::json;
use uuid::Uuid;
use zentinel_core::entity::{Organisation, Project, Role, User};
use zentinel_core::id::{OrganisationId, ProjectId};
use zentinel_core::port::{Query, StoreExt as _};
use zentinel_core::{Changes, Error, Kind, RecordKind, Revision, Row, Scope, Timestamp, Write};

/// A record of every kind comes back with every column, at revision 1.
pub async fn a_record_reads_back_as_written(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let tenant = Tenant::random();
    for kind in RecordKind::ALL {
        let row = Row {
            natural_key: Some("natural".to_owned()),
            lookup_key: Some("lookup".to_owned()),
            state: Some("ready".to_owned()),
            body: json!({ "text": "ü", "list": [1, -2, 3.5, null, true], "nested": { "a": { "b": {} } } }),
            ..tenant.row(kind)
        };
        insert(&*store, &row).await;
        let read = get(&*store, &row).await.unwrap();
        assert_eq!(read.value, row);
        assert_eq!(read.revision, Revision(1));
    }
    let now = at(5);
    let organisation = Organisation::new("Example", now).unwrap();
    let project = Project::new(organisation.id, "Edge", now).unwrap();
    let user = User::new("a@example.com", "hash".to_owned(), Role::Admin, now).unwrap();
    let changes =
        Changes::new().insert(&organisation).and_then(|c| c.insert(&project)).and_then(|c| c.insert(&user));
    store.commit(changes.unwrap()).await.unwrap();
    let read = store.fetch::<Project>(&project.scope(), project.id).await.unwrap();
    assert_eq!(read.value, project);
    let read = store.fetch::<User>(&Scope::Instance, user.id).await.unwrap();
    assert_eq!(read.value, user);
}

/// Unknown ids, and ids of another kind, are absent.
pub async fn an_unknown_id_is_absent(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let row = Tenant::random().row(RecordKind::Node);
    assert!(get(&*store, &row).await.is_none());
    insert(&*store, &row).await;
    let other = store.get(&Scope::Instance, RecordKind::Bundle, row.id).await.unwrap();
    assert!(other.is_none(), "kinds must not share ids");
    assert!(store.lookup(RecordKind::Node, "unknown").await.unwrap().is_none());
}

/// Every update gives the next revision and replaces every column.
pub async fn an_update_counts_the_revision(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let row = Tenant::random().named("1.0");
    insert(&*store, &row).await;
    let new = Row {
        natural_key: Some("2.0".to_owned()),
        lookup_key: Some("key".to_owned()),
        state: Some("compiled".to_owned()),
        body: json!({ "second": true }),
        ..row.clone()
    };
    store.commit(writes([update(&new, 1)])).await.unwrap();
    let read = get(&*store, &row).await.unwrap();
    assert_eq!((read.revision, &read.value), (Revision(2), &new));
    store.commit(writes([update(&row, 2)])).await.unwrap();
    let read = get(&*store, &row).await.unwrap();
    assert_eq!((read.revision, &read.value), (Revision(3), &row));
}

/// An update or deletion that names an old or a future revision is `Stale` and changes nothing.
pub async fn a_stale_update_is_refused(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let row = Tenant::random().row(RecordKind::Node);
    insert(&*store, &row).await;
    let new = with_body(&row, json!({ "new": 1 }));
    store.commit(writes([update(&new, 1)])).await.unwrap();
    for write in [update(&row, 1), update(&row, 3), delete(&row, 1), check(&row, 1)] {
        let error = store.commit(writes([write.clone()])).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Stale, "{write:?}");
    }
    let read = get(&*store, &row).await.unwrap();
    assert_eq!((read.revision, read.value), (Revision(2), new));
}

/// Updating or deleting what is not there is `NotFound`; checking it fails, too.
pub async fn writing_an_absent_record_is_not_found(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let row = Tenant::random().row(RecordKind::Node);
    for write in [update(&row, 1), delete(&row, 1)] {
        let error = store.commit(writes([write])).await.unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
    }
    let error = store.commit(writes([check(&row, 1)])).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::Stale | Kind::NotFound), "{error:?}");
    insert(&*store, &row).await;
    store.commit(writes([delete(&row, 1)])).await.unwrap();
    assert!(get(&*store, &row).await.is_none());
    let error = store.commit(writes([update(&row, 1)])).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    // Deleted for good: the next life begins at revision 1.
    insert(&*store, &row).await;
    assert_eq!(get(&*store, &row).await.unwrap().revision, Revision(1));
}

/// An upsert inserts at revision 1 and then replaces, one revision up each time.
pub async fn an_upsert_inserts_then_replaces(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let row = Row { state: Some("online".to_owned()), ..Tenant::random().row(RecordKind::NodeReport) };
    for number in 1..=3u64 {
        let row = with_body(&row, json!({ "number": number }));
        store.commit(writes([Write::Upsert(row.clone())])).await.unwrap();
        let read = get(&*store, &row).await.unwrap();
        assert_eq!((read.revision, read.value), (Revision(number), row));
    }
    let moved = Row { state: row.state.clone(), id: row.id, ..Tenant::random().row(RecordKind::NodeReport) };
    store.commit(writes([Write::Upsert(moved.clone())])).await.unwrap();
    let kept = Row { body: moved.body, ..row.clone() };
    assert_eq!(get(&*store, &row).await.unwrap().value, kept, "an upsert moves nothing");
    let taken = Tenant::random().named("taken");
    let other = Row { id: Uuid::new_v4(), ..taken.clone() };
    insert(&*store, &taken).await;
    is_taken(store.commit(writes([Write::Upsert(other)])).await.unwrap_err(), "version");
}

/// A second record with an id that is taken is refused, also in another tenant.
pub async fn a_taken_id_is_refused(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let row = Tenant::random().row(RecordKind::Node);
    insert(&*store, &row).await;
    let other = Row { id: row.id, ..Tenant::random().row(RecordKind::Node) };
    for copy in [&row, &other] {
        let error = store.commit(inserts([copy])).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
    }
    assert_eq!(get(&*store, &row).await.unwrap().value, row);
}

/// A natural key is unique within kind and owner, and refused with the contract's field.
pub async fn a_natural_key_is_unique_per_owner(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let (tenant, other) = (Tenant::random(), Tenant::random());
    insert(&*store, &tenant.named("1.0")).await;
    is_taken(store.commit(inserts([&tenant.named("1.0")])).await.unwrap_err(), "version");
    insert(&*store, &other.named("1.0")).await;
    insert(&*store, &Row { kind: RecordKind::Node, ..tenant.named("1.0") }).await;
    let taken = Row { kind: RecordKind::Node, ..tenant.named("1.0") };
    is_taken(store.commit(inserts([&taken])).await.unwrap_err(), "name");
    // None is never a duplicate, and keys differ by case.
    insert(&*store, &tenant.row(RecordKind::Bundle)).await;
    insert(&*store, &tenant.row(RecordKind::Bundle)).await;
    insert(&*store, &tenant.named("a")).await;
    insert(&*store, &tenant.named("A")).await;
}

/// Keys of a deleted record can be used again.
pub async fn a_deleted_record_frees_its_keys(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let tenant = Tenant::random();
    let old = Row { lookup_key: Some("digest".to_owned()), ..tenant.named("1.0") };
    insert(&*store, &old).await;
    store.commit(writes([delete(&old, 1)])).await.unwrap();
    assert!(store.lookup(old.kind, "digest").await.unwrap().is_none());
    let new = Row { lookup_key: Some("digest".to_owned()), ..tenant.named("1.0") };
    insert(&*store, &new).await;
    assert_eq!(store.lookup(new.kind, "digest").await.unwrap().unwrap().value, new);
}

/// An update takes its new keys and frees the old ones; taken ones are refused.
pub async fn an_update_moves_its_keys(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let tenant = Tenant::random();
    let first = Row { lookup_key: Some("one".to_owned()), ..tenant.named("1.0") };
    let second = Row { lookup_key: Some("two".to_owned()), ..tenant.named("2.0") };
    store.commit(inserts([&first, &second])).await.unwrap();
    let name = Row { natural_key: first.natural_key.clone(), ..second.clone() };
    is_taken(store.commit(writes([update(&name, 1)])).await.unwrap_err(), "version");
    let lookup = Row { lookup_key: first.lookup_key.clone(), ..second.clone() };
    is_taken(store.commit(writes([update(&lookup, 1)])).await.unwrap_err(), "version");
    let moved =
        Row { natural_key: Some("3.0".to_owned()), lookup_key: Some("three".to_owned()), ..first.clone() };
    store.commit(writes([update(&moved, 1)])).await.unwrap();
    assert!(store.lookup(first.kind, "one").await.unwrap().is_none());
    let both = Row { natural_key: first.natural_key, lookup_key: first.lookup_key, ..second };
    store.commit(writes([update(&both, 1)])).await.unwrap();
    assert_eq!(store.lookup(both.kind, "one").await.unwrap().unwrap().value, both);
}

/// A lookup key is unique within its kind, whatever the tenant.
pub async fn a_lookup_key_is_unique_over_all_tenants(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let keyed = |kind| Row { lookup_key: Some("digest".to_owned()), ..Tenant::random().row(kind) };
    insert(&*store, &keyed(RecordKind::Node)).await;
    is_taken(store.commit(inserts([&keyed(RecordKind::Node)])).await.unwrap_err(), "name");
    insert(&*store, &keyed(RecordKind::ApiKey)).await;
}

/// A lookup needs no scope: that is how a credential finds its tenant.
pub async fn a_lookup_finds_records_of_any_tenant(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    for number in 0..3 {
        let key = format!("digest {number}+/=");
        let row = Row { lookup_key: Some(key.clone()), ..Tenant::random().row(RecordKind::Node) };
        insert(&*store, &row).await;
        let read = store.lookup(RecordKind::Node, &key).await.unwrap().unwrap();
        assert_eq!((read.revision, read.value), (Revision(1), row));
    }
    assert!(store.lookup(RecordKind::Bundle, "digest 0+/=").await.unwrap().is_none());
}

/// Another tenant's rows are as absent as unknown ones, in every read.
pub async fn a_scope_shows_only_its_rows(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let mine = Tenant::random();
    let sibling = Tenant { project: ProjectId::random(), ..mine };
    let other = Tenant::random();
    let kind = RecordKind::Bundle;
    let rows = [mine, sibling, other].map(|tenant| tenant.row(kind));
    let no_project = Row { project_id: None, ..mine.row(kind) };
    let no_tenant = Row { organisation_id: None, project_id: None, ..mine.row(kind) };
    store.commit(inserts(rows.iter().chain([&no_project, &no_tenant]))).await.unwrap();
    let crossed = Scope::Project(other.organisation, mine.project);
    let nobody = Scope::Organisation(OrganisationId::random());
    for (scope, visible) in [
        (Scope::Instance, 5),
        (Scope::Organisation(mine.organisation), 3),
        (mine.scope(), 1),
        (sibling.scope(), 1),
        (crossed, 0),
        (nobody, 0),
    ] {
        let page = store.query(&scope, &Query::all(kind)).await.unwrap();
        assert_eq!((page.items.len() as u64, page.total), (visible, visible), "{scope:?}");
        let mut gets = 0;
        for row in rows.iter().chain([&no_project, &no_tenant]) {
            gets += u64::from(store.get(&scope, kind, row.id).await.unwrap().is_some());
        }
        assert_eq!(gets, visible, "{scope:?}");
        let counted: u64 = store.count_by_state(&scope, kind).await.unwrap().values().sum();
        assert_eq!(counted, visible, "{scope:?}");
    }
    let by_id = with_ids(Query::all(kind), [rows[2].id]);
    assert_eq!(store.query(&mine.scope(), &by_id).await.unwrap().total, 0);
}

/// Text that trips up quoting, patterns and collations comes back unchanged.
pub async fn odd_text_survives(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let tenant = Tenant::random();
    let longest = "ß".repeat(253);
    let texts = [
        "",
        " ",
        "'; DROP TABLE nodes; --",
        "\"",
        "\\",
        "%",
        "_",
        "a%b_c",
        "$1",
        "?1",
        ":x",
        "{\"a\":1}",
        "ünïcödé",
        "é",
        "e\u{301}",
        "日本語",
        "🦀",
        "\u{200f}\u{202e}",
        "\u{feff}",
        "\u{ffff}",
        "line\nbreak\ttab\r",
        "\u{1}\u{7f}",
        &longest,
    ];
    for text in texts {
        let row = Row {
            lookup_key: Some(text.to_owned()),
            state: Some(text.to_owned()),
            body: json!({ "text": text, text: "as a key" }),
            ..tenant.named(text)
        };
        insert(&*store, &row).await;
        assert_eq!(get(&*store, &row).await.unwrap().value, row, "{text:?}");
        let found = store.lookup(row.kind, text).await.unwrap().unwrap();
        assert_eq!(found.value.id, row.id, "{text:?}");
        let named = store.query(&tenant.scope(), &Query::all(row.kind).named(text)).await.unwrap();
        assert_eq!((named.total, named.items[0].id), (1, row.id), "{text:?}");
        let in_state = store.query(&tenant.scope(), &Query::all(row.kind).in_states(&[text])).await.unwrap();
        assert_eq!((in_state.total, in_state.items[0].id), (1, row.id), "{text:?}");
    }
}

/// A NUL character is refused as `Invalid` or kept; it is never dropped or cut at.
pub async fn nul_is_refused_or_kept(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let tenant = Tenant::random();
    let in_body = with_body(&tenant.row(RecordKind::Node), json!({ "text": "a\0b", "key\0": 1 }));
    let in_key = tenant.named("a\0b");
    let in_lookup = Row { lookup_key: Some("a\0b".to_owned()), ..tenant.row(RecordKind::Node) };
    let in_state = Row { state: Some("a\0b".to_owned()), ..tenant.row(RecordKind::Node) };
    for row in [in_body, in_key, in_lookup, in_state] {
        match store.commit(inserts([&row])).await {
            Ok(_) => assert_eq!(get(&*store, &row).await.unwrap().value, row),
            Err(error) => {
                assert_eq!(error.kind(), Kind::Invalid, "{error:?}");
                assert!(get(&*store, &row).await.is_none());
            }
        }
    }
    // And the store still works.
    insert(&*store, &tenant.named("b")).await;
}

/// Bodies of several megabytes and of deep nesting come back unchanged.
pub async fn long_bodies_survive(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let tenant = Tenant::random();
    let text = "ä\"\\\n🦀".repeat(500_000);
    let deep = (0..60).fold(json!(null), |inner, _| json!([inner]));
    let row = with_body(&tenant.row(RecordKind::BundleSource), json!({ "text": text, "deep": deep }));
    insert(&*store, &row).await;
    assert!(get(&*store, &row).await.unwrap().value == row, "a body of 5 MB changed");
}

/// Instants from 1970 to 9999 keep their microseconds and their order.
pub async fn far_times_survive(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let tenant = Tenant::random();
    let instants = [0, 1, 999_999, 1_790_000_000_000_001, 253_402_300_799_999_999]
        .map(|micros| Timestamp::from_timestamp_micros(micros).unwrap());
    for created_at in instants {
        insert(&*store, &Row { created_at, ..tenant.row(RecordKind::Node) }).await;
    }
    let newest = store.query(&tenant.scope(), &Query::all(RecordKind::Node)).await.unwrap();
    let read: Vec<Timestamp> = newest.items.iter().rev().map(|row| row.created_at).collect();
    assert_eq!(read, instants);
}

/// Integers up to 64 bits, sequences above 2^53 among them, and fractions keep their value.
pub async fn numbers_survive(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let body = json!({
        "numbers": [0, -1, u64::MAX, i64::MIN, 9_007_199_254_740_993_u64, 0.1, -2.5e-7, 12.75],
    });
    let row = with_body(&Tenant::random().row(RecordKind::NodeReport), body);
    insert(&*store, &row).await;
    assert_eq!(get(&*store, &row).await.unwrap().value.body, row.body);
}

pub(super) fn is_taken(error: Error, field: &str) {
    assert_eq!(error.kind(), Kind::Invalid, "{error:?}");
    assert_eq!(
        error.fields().get(field).map(Vec::as_slice),
        Some(&["has already been taken".to_owned()][..])
    );
}
