//! Text with U+0000, which PostgreSQL stores in neither `text` nor `jsonb`.
//!
//! U+E000, a private-use character, becomes the escape: U+0000 is stored as U+E000 `0`, and U+E000
//! itself as U+E000 `1`. Text without either, that is practically all, is stored as it is.

use std::borrow::Cow;

const ESCAPE: char = '\u{e000}';
const NUL: &str = "\u{e000}0";
const ITSELF: &str = "\u{e000}1";

/// Text as it is stored.
pub(super) fn hide(text: Cow<'_, str>) -> Cow<'_, str> {
    if text.contains(['\0', ESCAPE]) {
        return Cow::Owned(text.replace(ESCAPE, ITSELF).replace('\0', NUL));
    }
    text
}

/// Text as it was before [`hide`].
pub(super) fn show(text: String) -> String {
    if text.contains(ESCAPE) {
        return text.replace(NUL, "\0").replace(ITSELF, "\u{e000}");
    }
    text
}

/// A JSON document as it is stored. Our serialiser writes U+0000 as `\u0000`, everything above
/// U+001F as itself.
pub(super) fn hide_json(json: String) -> String {
    if !json.contains("\\u0000") && !json.contains(ESCAPE) {
        return json;
    }
    let json = json.replace(ESCAPE, ITSELF);
    let mut hidden = String::with_capacity(json.len() + 16);
    let mut rest = json.as_str();
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        hidden.push_str(before);
        // An escape is two characters long, or six; what follows a `\\` is not part of one.
        let length = if escape.starts_with("\\u") { 6 } else { 2 };
        let (escape, after) = escape.split_at_checked(length).unwrap_or((escape, ""));
        hidden.push_str(if escape == "\\u0000" { NUL } else { escape });
        rest = after;
    }
    hidden.push_str(rest);
    hidden
}

/// A JSON document as it was before [`hide_json`].
pub(super) fn show_json(json: String) -> String {
    if json.contains(ESCAPE) {
        return json.replace(NUL, "\\u0000").replace(ITSELF, "\u{e000}");
    }
    json
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_survives(text in r#"[\x00\u{e000}01u\\"a]{0,24}"#) {
            let hidden = hide(Cow::Borrowed(&text)).into_owned();
            prop_assert!(!hidden.contains('\0'));
            prop_assert_eq!(show(hidden), text);
        }

        #[test]
        fn documents_survive(key in r#"[\x00\u{e000}01u\\"a\n]{0,24}"#, text in r#"[\x00\u{e000}01u\\"a\n]{0,24}"#) {
            let value = serde_json::json!({ key: [text] });
            let hidden = hide_json(value.to_string());
            let stored: serde_json::Value = serde_json::from_str(&hidden).unwrap();
            prop_assert!(!stored.to_string().contains("\\u0000") || hidden.contains("\\\\u0000"));
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&show_json(hidden)).unwrap(), value);
        }
    }
}
