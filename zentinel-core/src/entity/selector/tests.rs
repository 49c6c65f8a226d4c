use super::*;
use proptest::prelude::*;
use serde_json::json;

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn matches(selector: &str, pairs: &[(&str, &str)]) -> bool {
    selector.parse::<LabelSelector>().unwrap().matches(&labels(pairs))
}

#[test]
fn every_operator_means_what_it_says() {
    let node = [("region", "eu"), ("topology.kubernetes.io/zone", "eu-1"), ("canary", "")];
    for (selector, expected) in [
        ("region=eu", true),
        ("region == eu", true),
        ("region=us", false),
        ("region!=us", true),
        ("rack!=7", true),
        ("region in (us, eu)", true),
        ("rack in (7)", false),
        ("region notin (us,ap)", true),
        ("rack notin (7)", true),
        ("region notin (eu)", false),
        ("canary", true),
        ("rack", false),
        ("!rack", true),
        ("! canary", false),
        ("topology.kubernetes.io/zone=eu-1,region=eu,!rack", true),
        ("region=eu,rack", false),
        ("canary=\"\"", true),
    ] {
        assert_eq!(matches(selector, &node), expected, "{selector}");
    }
    assert!(matches("in in (in),notin", &[("in", "in"), ("notin", "x")]), "no word is reserved");
    assert!(matches(r#""a b"="c,\"d\"""#, &[("a b", "c,\"d\"")]));
}

#[test]
fn complaints_name_the_place() {
    for (text, message) in [
        ("", "at character 1: expected a label's key, found the end"),
        ("region=", "at character 8: expected a value, found the end"),
        ("region=eu,", "at character 11: expected a label's key, found the end"),
        ("region=eu env=x", "at character 11: expected a comma, found `e`"),
        ("region is eu", "at character 8: expected `=`, `!=`, `in`, `notin` or a comma, found `i`"),
        ("region in eu", "at character 11: expected `(`, found `e`"),
        ("region in ()", "at character 12: expected a value, found `)`"),
        ("region in (a b)", "at character 14: expected a comma or `)`, found `b`"),
        ("region!eu", "at character 8: expected `=` after `!`, found `e`"),
        ("\"region", "at character 8: expected a closing quote, found the end"),
        ("\"\"", "a label's key can't be blank"),
    ] {
        let error = text.parse::<LabelSelector>().unwrap_err();
        assert_eq!(error.fields()["selector"], [message], "{text}");
    }
    let many = vec!["a"; MAX_REQUIREMENTS + 1].join(",");
    assert!(many.parse::<LabelSelector>().is_err());
    assert!("a".repeat(254).parse::<LabelSelector>().is_err());
}

#[test]
fn both_forms_mean_the_same() {
    let list = json!([
        {"key": "region", "operator": "=", "values": ["eu"]},
        {"key": "env", "operator": "notin", "values": ["dev", "test"]},
        {"key": "old", "operator": "!exists"},
    ]);
    let text = json!("region=eu, env notin (test, dev), !old");
    assert_eq!(LabelSelector::from_json(&list).unwrap(), LabelSelector::from_json(&text).unwrap());
    for (wrong, message) in [
        (json!([]), "should have 1 to 64 requirement(s)"),
        (
            json!([{"key": "a", "operator": "~"}]),
            "requirement 0: the operator must be one of =, !=, in, notin, exists, !exists",
        ),
        (json!([{"key": "a", "operator": "=", "values": []}]), "requirement 0: `=` takes one value"),
        (
            json!([{"key": "a", "operator": "exists", "values": ["x"]}]),
            "requirement 0: `exists` takes no value",
        ),
        (json!([{"key": "a", "operator": "in"}]), "`a` needs 1 to 256 values"),
        (json!({}), "must be a text or a list of requirements"),
    ] {
        assert_eq!(LabelSelector::from_json(&wrong).unwrap_err().fields()["selector"], [message]);
    }
}

fn word() -> impl Strategy<Value = String> {
    "[a-c,=!()\"\\\\ ./ü-]{1,6}"
}

fn requirement() -> impl Strategy<Value = Requirement> {
    let set = || proptest::collection::btree_set(word(), 1..4);
    prop_oneof![
        (word(), word()).prop_map(|(key, value)| Requirement::Is(key, value)),
        (word(), word()).prop_map(|(key, value)| Requirement::IsNot(key, value)),
        (word(), set()).prop_map(|(key, values)| Requirement::In(key, values)),
        (word(), set()).prop_map(|(key, values)| Requirement::NotIn(key, values)),
        word().prop_map(Requirement::Exists),
        word().prop_map(Requirement::Absent),
    ]
}

proptest! {
    #[test]
    fn what_is_written_reads_back(requirements in proptest::collection::vec(requirement(), 1..6)) {
        let selector = LabelSelector::new(requirements).unwrap();
        let read: LabelSelector = selector.to_string().parse().unwrap();
        prop_assert_eq!(&read, &selector, "{}", selector);
        let stored: LabelSelector = serde_json::from_value(serde_json::to_value(&selector).unwrap()).unwrap();
        prop_assert_eq!(stored, selector);
    }

    #[test]
    fn no_text_panics_and_what_reads_can_be_written(text in "[a-c,=!()\"\\\\ innot]{0,24}") {
        if let Ok(selector) = text.parse::<LabelSelector>() {
            prop_assert_eq!(selector.to_string().parse::<LabelSelector>().unwrap(), selector);
        }
    }

    #[test]
    fn opposites_split_the_nodes(
        key in "[ab]", values in proptest::collection::btree_set("[xy]", 1..3),
        labels in proptest::collection::btree_map("[ab]", "[xyz]", 0..3),
    ) {
        let one = |requirement| LabelSelector::new(vec![requirement]).unwrap().matches(&labels);
        let value = values.iter().next().unwrap().clone();
        prop_assert_ne!(one(Requirement::In(key.clone(), values.clone())), one(Requirement::NotIn(key.clone(), values)));
        prop_assert_ne!(one(Requirement::Is(key.clone(), value.clone())), one(Requirement::IsNot(key.clone(), value)));
        prop_assert_ne!(one(Requirement::Exists(key.clone())), one(Requirement::Absent(key)));
    }
}
