//! One configuration that uses everything, for tests.

/// Loads with the proxy's parser and passes its validation.
pub(crate) const BASE: &str = include_str!("testing/base.kdl");

/// The configuration with one piece of text replaced; the piece must be there.
pub(crate) fn changed(from: &str, to: &str) -> String {
    assert!(BASE.contains(from), "{from:?} is not in the configuration");
    BASE.replacen(from, to, 1)
}

/// The configuration without one route.
pub(crate) fn without_route(id: &str) -> String {
    let start = BASE.find(&format!("    route \"{id}\" {{")).unwrap();
    let end = start + BASE[start..].find("\n    }\n").unwrap() + "\n    }\n".len();
    format!("{}{}", &BASE[..start], &BASE[end..])
}

/// The configuration with text put before the end of the block that starts with `block`.
pub(crate) fn with(block: &str, text: &str) -> String {
    let start = BASE.find(&format!("\n{block} {{\n")).unwrap() + block.len() + 3;
    format!("{}\n{text}\n{}", &BASE[..start], &BASE[start..])
}
