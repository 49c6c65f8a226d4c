//! Lists: paging, orders, filters, counts.

use crate::conformance::Backend;
use crate::conformance::fixture::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use uuid::Uuid;
use zentinel_core::port::{Order, Query, Store};
use zentinel_core::{Kind, Page, PageRequest, RecordKind, Row, Scope, Stored};

const ORDERS: [Order; 3] = [Order::NewestFirst, Order::OldestFirst, Order::Name];

/// Walking through 1,000 rows, many of them with the same time or name, shows each exactly once
/// in every order and with every page size.
pub async fn pages_show_every_row_once_in_each_order(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let tenant = Tenant::random();
    let rows = many_rows(&tenant, 1_000);
    store.commit(inserts(&rows)).await.unwrap();
    let ids: BTreeSet<Uuid> = rows.iter().map(|row| row.id).collect();
    for order in ORDERS {
        for limit in [7, 100, 999, 1_000, 1_001] {
            let walked = walk(&*store, &tenant, order, limit).await;
            assert_eq!(walked.len(), 1_000, "{order:?}, {limit} a page");
            let seen: BTreeSet<Uuid> = walked.iter().map(|row| row.id).collect();
            assert!(seen == ids, "{order:?}, {limit} a page: rows are missing");
            let mut sorted: Vec<&Row> = rows.iter().collect();
            sort(&mut sorted, order);
            let expected: Vec<Uuid> = sorted.iter().map(|row| row.id).collect();
            let walked: Vec<Uuid> = walked.iter().map(|row| row.id).collect();
            assert!(walked == expected, "{order:?}, {limit} a page: out of order");
        }
    }
}

/// Newest and oldest first go by creation; names go by their bytes, whatever the locale of the
/// back end, none first. The id settles what is left.
pub async fn orders_sort_as_documented(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let tenant = Tenant::random();
    let names = ["Zebra", "apple", "Äpfel", "_x", "a b", "ab", "a-b", "A", "10", "9", "🦀", "", "~"];
    let mut rows: Vec<Row> = Vec::new();
    for (number, name) in names.iter().enumerate() {
        rows.push(Row { created_at: at(number as i64 % 4), ..tenant.named(name) });
    }
    rows.extend((0..3).map(|_| tenant.row(RecordKind::Bundle)));
    store.commit(inserts(&rows)).await.unwrap();
    for order in ORDERS {
        let query = Query::all(RecordKind::Bundle).ordered(order);
        let page = store.query(&tenant.scope(), &query).await.unwrap();
        let mut expected: Vec<&Row> = rows.iter().collect();
        sort(&mut expected, order);
        let show = |row: &Row| (row.created_at, row.natural_key.clone(), row.id);
        let read: Vec<_> = page.items.iter().map(|row| show(row)).collect();
        let expected: Vec<_> = expected.into_iter().map(show).collect();
        assert_eq!(read, expected, "{order:?}");
    }
}

/// Paging goes by key, not by number: deletions and insertions meanwhile neither repeat nor skip
/// any other row.
pub async fn a_page_continues_after_its_last_row_is_gone(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let tenant = Tenant::random();
    for order in ORDERS {
        let rows = many_rows(&tenant, 40);
        store.commit(inserts(&rows)).await.unwrap();
        let query = Query::all(RecordKind::Bundle).ordered(order);
        let first = store.query(&tenant.scope(), &query.clone().page(PageRequest::first(10))).await.unwrap();
        store.commit(writes(first.items.iter().map(|row| delete(&row.value, 1)))).await.unwrap();
        let rest = PageRequest::first(500).after(first.next_cursor.clone());
        let rest = store.query(&tenant.scope(), &query.page(rest)).await.unwrap();
        assert_eq!((rest.items.len(), rest.total, rest.next_cursor), (30, 30, None), "{order:?}");
        let seen: BTreeSet<Uuid> = first.items.iter().chain(&rest.items).map(|row| row.id).collect();
        assert_eq!(seen.len(), 40, "{order:?}");
        store.commit(writes(rest.items.iter().map(|row| delete(&row.value, 1)))).await.unwrap();
    }
}

/// Every page tells how many rows match in all, unless nobody wants to know; only the last one has no
/// cursor.
pub async fn a_page_tells_the_total(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let tenant = Tenant::random();
    let query = |limit, cursor| Query::all(RecordKind::Bundle).page(PageRequest { limit, cursor });
    let empty = store.query(&tenant.scope(), &query(10, None)).await.unwrap();
    assert_eq!(empty, Page { items: Vec::new(), total: 0, next_cursor: None });
    store.commit(inserts(&many_rows(&tenant, 20))).await.unwrap();
    let first = store.query(&tenant.scope(), &query(10, None)).await.unwrap();
    assert_eq!((first.items.len(), first.total), (10, 20));
    let second = store.query(&tenant.scope(), &query(10, first.next_cursor)).await.unwrap();
    assert_eq!((second.items.len(), second.total, second.next_cursor), (10, 20, None));
    let none = store.query(&tenant.scope(), &query(0, None)).await.unwrap();
    assert_eq!(none.items.len(), 1, "the smallest page has one item");
    let uncounted = store.query(&tenant.scope(), &query(10, None).uncounted()).await.unwrap();
    assert_eq!((uncounted.items, uncounted.total, uncounted.next_cursor.is_some()), (first.items, 10, true));
}

/// Text that no list gave out, and the cursor of another list or order, is `Malformed`.
pub async fn foreign_cursors_are_malformed(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let tenant = Tenant::random();
    store.commit(inserts(&many_rows(&tenant, 5))).await.unwrap();
    let query = |kind, order: Order, cursor: Option<String>| {
        Query::all(kind).ordered(order).page(PageRequest::first(2).after(cursor))
    };
    let mut foreign: Vec<String> =
        ["", "x", "!", "0", "ä", "AAAA", "' OR 1=1", &"A".repeat(5_000)].map(str::to_owned).into();
    let names = query(RecordKind::Bundle, Order::Name, None);
    foreign.extend(store.query(&tenant.scope(), &names).await.unwrap().next_cursor);
    for cursor in foreign {
        let query = query(RecordKind::Bundle, Order::NewestFirst, Some(cursor.clone()));
        let error = store.query(&tenant.scope(), &query).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Malformed, "{cursor:?}: {error:?}");
    }
    let newest = query(RecordKind::Bundle, Order::NewestFirst, None);
    let cursor = store.query(&tenant.scope(), &newest).await.unwrap().next_cursor.unwrap();
    assert!(
        cursor.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)),
        "{cursor} is not URL-safe"
    );
    let other = query(RecordKind::Node, Order::NewestFirst, Some(cursor));
    assert_eq!(store.query(&tenant.scope(), &other).await.unwrap_err().kind(), Kind::Malformed);
}

/// Conditions are combined with "and"; several states with "or".
pub async fn filters_combine(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let (tenant, other) = (Tenant::random(), Uuid::new_v4());
    let make = |name: &str, state: Option<&str>, owner: Option<Uuid>| Row {
        state: state.map(str::to_owned),
        owner: owner.unwrap_or(tenant.row(RecordKind::Node).owner),
        body: json!({ "labels": { "env": name } }),
        ..tenant.named(name)
    };
    let a = make("a", Some("ready"), None);
    let b = make("b", Some("failed"), None);
    let c = make("c", None, None);
    let d = make("a", Some("ready"), Some(other));
    store.commit(inserts([&a, &b, &c, &d])).await.unwrap();
    let all = || Query::all(RecordKind::Bundle);
    let owned = |owner| owned_by(all(), owner);
    let ids = |query, rows: &[&Row]| with_ids(query, rows.iter().map(|row| row.id));
    let label = |value: &str| vec![("env".to_owned(), value.to_owned())];
    let cases: Vec<(Query, Vec<&Row>)> = vec![
        (all(), vec![&a, &b, &c, &d]),
        (owned(a.owner), vec![&a, &b, &c]),
        (owned(other), vec![&d]),
        (owned(Uuid::new_v4()), vec![]),
        (all().named("a"), vec![&a, &d]),
        (owned(other).named("a"), vec![&d]),
        (owned(other).named("b"), vec![]),
        (all().in_states(&["ready"]), vec![&a, &d]),
        (all().in_states(&["ready", "failed"]), vec![&a, &b, &d]),
        (all().in_states(&["unknown"]), vec![]),
        (owned(a.owner).in_states(&["ready"]), vec![&a]),
        (ids(all(), &[&a, &c, &c]), vec![&a, &c]),
        (ids(all(), &[&a, &c]).in_states(&["ready"]), vec![&a]),
        (ids(owned(other), &[&a, &b]), vec![]),
        (ids(owned(other), &[&a, &b]).named("a"), vec![]),
        (all().labelled(label("a")), vec![&a, &d]),
        (owned(other).labelled(label("a")).in_states(&["ready"]).named("a"), vec![&d]),
        (owned(other).labelled(label("b")), vec![]),
    ];
    for (query, expected) in cases {
        let page = store.query(&tenant.scope(), &query).await.unwrap();
        let found: BTreeSet<Uuid> = page.items.iter().map(|row| row.id).collect();
        let expected: BTreeSet<Uuid> = expected.iter().map(|row| row.id).collect();
        assert_eq!((page.total as usize, &found), (expected.len(), &expected), "{query:?}");
    }
}

/// An empty list of ids is a condition that nothing meets, not the absence of one.
pub async fn an_empty_id_list_matches_nothing(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let tenant = Tenant::random();
    insert(&*store, &tenant.row(RecordKind::Node)).await;
    let query = with_ids(Query::all(RecordKind::Node), []);
    let page = store.query(&tenant.scope(), &query).await.unwrap();
    assert_eq!((page.items.len(), page.total), (0, 0));
}

/// A label condition holds when the body's `labels` object has the key with exactly that string.
pub async fn labels_filter_exactly(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let tenant = Tenant::random();
    let odd = ["a.b", "a/b", "$.x", "x\"y", "x'y", "a\\b", "%", "ü", "", "[0]", "a:b", "0"];
    let with = |labels: Value| with_body(&tenant.row(RecordKind::Node), json!({ "labels": labels }));
    let plain = with(json!({ "env": "prod", "zone": "1" }));
    let mut rows = vec![
        plain.clone(),
        with(json!({ "env": "production", "zone": 1 })),
        with(json!({ "ENV": "prod", "env": "PROD" })),
        with(json!(["env", "prod"])),
        with(json!("env")),
        with(Value::Null),
        with_body(&plain, json!({ "env": "prod", "other": { "labels": { "env": "prod" } } })),
    ];
    rows[6].id = Uuid::new_v4();
    rows.extend(odd.map(|text| with(json!({ text: text }))));
    store.commit(inserts(&rows)).await.unwrap();
    let find = async |labels: &[(&str, &str)]| -> Vec<Uuid> {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let page =
            store.query(&tenant.scope(), &Query::all(RecordKind::Node).labelled(labels)).await.unwrap();
        page.items.iter().map(|row| row.id).collect()
    };
    assert_eq!(find(&[("env", "prod")]).await, [plain.id]);
    assert_eq!(find(&[("env", "prod"), ("zone", "1")]).await, [plain.id]);
    assert!(find(&[("env", "prod"), ("zone", "2")]).await.is_empty());
    assert!(find(&[("env", "")]).await.is_empty());
    for (row, text) in rows[7..].iter().zip(odd) {
        assert_eq!(find(&[(text, text)]).await, [row.id], "{text:?}");
    }
}

/// Counting goes by state and by scope; records without a state count under the empty text.
pub async fn counts_go_by_state(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let (tenant, other) = (Tenant::random(), Tenant::random());
    let kind = RecordKind::NodeReport;
    let in_state =
        |tenant: &Tenant, state: Option<&str>| Row { state: state.map(str::to_owned), ..tenant.row(kind) };
    let states = [Some("online"), Some("online"), Some("offline"), None];
    let mut rows: Vec<Row> = states.iter().map(|state| in_state(&tenant, *state)).collect();
    rows.push(in_state(&other, Some("online")));
    store.commit(inserts(&rows)).await.unwrap();
    let counts = async |scope| {
        let counts = store.count_by_state(&scope, kind).await.unwrap();
        counts.into_iter().map(|(state, count)| format!("{state}={count}")).collect::<Vec<_>>()
    };
    assert_eq!(counts(tenant.scope()).await, ["=1", "offline=1", "online=2"]);
    assert_eq!(counts(Scope::Instance).await, ["=1", "offline=1", "online=3"]);
    assert_eq!(counts(Tenant::random().scope()).await, [] as [&str; 0]);
    store
        .commit(writes([update(&Row { state: Some("offline".to_owned()), ..rows[0].clone() }, 1)]))
        .await
        .unwrap();
    assert_eq!(counts(tenant.scope()).await, ["=1", "offline=2", "online=1"]);
}

/// Pages of thousands and conditions on thousands of ids are answered at once.
pub async fn bulk_reads_take_thousands(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let tenant = Tenant::random();
    let rows: Vec<Row> = (0..4_000).map(|_| tenant.row(RecordKind::Node)).collect();
    store.commit(inserts(&rows)).await.unwrap();
    let bulk = PageRequest { limit: 10_000, cursor: None };
    let query = Query::all(RecordKind::Node).page(bulk.clone());
    let page = store.query(&tenant.scope(), &query).await.unwrap();
    assert_eq!((page.items.len(), page.total, page.next_cursor), (4_000, 4_000, None));
    let mut ids: Vec<Uuid> = rows.iter().take(3_000).map(|row| row.id).collect();
    ids.extend((0..40_000).map(|_| Uuid::new_v4()));
    let query = with_ids(Query::all(RecordKind::Node), ids).page(bulk);
    let page = store.query(&tenant.scope(), &query).await.unwrap();
    assert_eq!((page.items.len(), page.total), (3_000, 3_000));
}

/// Rows with ten rows to an instant and four to a name.
fn many_rows(tenant: &Tenant, count: usize) -> Vec<Row> {
    let row = |number: usize| Row {
        created_at: at((number / 10) as i64),
        owner: Uuid::from_u128(number as u128 % 4),
        natural_key: (number >= 20).then(|| format!("name {}", number / 4)),
        ..tenant.row(RecordKind::Bundle)
    };
    (0..count).map(row).collect()
}

fn sort(rows: &mut [&Row], order: Order) {
    match order {
        Order::NewestFirst => rows.sort_by_key(|row| (std::cmp::Reverse(row.created_at), row.id)),
        Order::OldestFirst => rows.sort_by_key(|row| (row.created_at, row.id)),
        Order::Name => rows.sort_by_key(|row| (row.natural_key.clone(), row.id)),
    }
}

async fn walk(store: &dyn Store, tenant: &Tenant, order: Order, limit: u32) -> Vec<Stored<Row>> {
    let mut all = Vec::new();
    let mut cursor = None;
    loop {
        let query = Query::all(RecordKind::Bundle).ordered(order).page(PageRequest { limit, cursor });
        let page = store.query(&tenant.scope(), &query).await.unwrap();
        assert!(page.items.len() <= limit as usize);
        all.extend(page.items);
        assert!(all.len() <= page.total as usize, "rows repeat");
        match page.next_cursor {
            Some(next) => cursor = Some(next),
            None => return all,
        }
    }
}

/// A span of creation times holds both of its ends, counts and pages included.
pub async fn spans_of_creation_include_both_ends(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let tenant = Tenant::random();
    let rows: Vec<Row> =
        (0..10).map(|second| Row { created_at: at(second), ..tenant.row(RecordKind::Bundle) }).collect();
    store.commit(inserts(&rows)).await.unwrap();
    for (from, until, expected) in [
        (None, None, 10),
        (Some(3), None, 7),
        (None, Some(3), 4),
        (Some(3), Some(3), 1),
        (Some(2), Some(7), 6),
        (Some(7), Some(2), 0),
    ] {
        let query = Query::all(RecordKind::Bundle).created(from.map(at), until.map(at));
        let page = query.page(zentinel_core::PageRequest { limit: 2, cursor: None });
        let page = store.query(&tenant.scope(), &page).await.unwrap();
        assert_eq!(
            (page.total, page.items.len()),
            (expected, expected.min(2) as usize),
            "{from:?} {until:?}"
        );
    }
}
