//! The guard against the real parser.

use super::*;
use crate::validate::stack;
use proptest::prelude::*;
use std::time::Duration;

fn guard(text: &str) -> Result<(), Code> {
    check(text, &Limits::default()).map_err(|finding| finding.code())
}

fn kdl(text: &str) -> bool {
    stack::run(|| kdl::KdlDocument::parse_v2(text).is_ok()).unwrap()
}

#[test]
fn good_texts_pass() {
    for text in [
        "",
        "\u{feff}a",
        "a",
        "a;b",
        "a 1 2.5 -3 +4 0x1f 0b1_0 0o17 1e10 1_000.5E-3",
        "a #true #null #-inf",
        "a b=1 c = \"x\" \"d\"=2",
        "(t)a (u)\"b\" c=(w)1",
        "a { b; c { d } }",
        "a {b}",
        "a { }; b",
        "a \\\n  b",
        "a \\ // why\n b",
        "a /* x /* y */ z */ b",
        "/* * / */ a",
        "// c\na // d\n",
        "a/* c */",
        "/-a",
        "/-a b { c }\nd",
        "/- // c\n a\nb",
        "a /-b c",
        "a /-b=1 { c }",
        "a /-{ b } { c }",
        "a { b } /-{ c }",
        "a \"x\\n\\\"\\\\\\u{1f600}\\s\"",
        "a \"x \\\n   y\"",
        "a #\"raw \\ \" } { \"#",
        "a ##\"x\"#y\"##",
        "a #\"\"#",
        "a \"\"\"\n    one {\n      two \"\" quotes\n\n    \"\"\"",
        "a #\"\"\"\n  {{{ \\\n  \"\"\"# b",
        "\"quoted name\" 1",
        "- + --.5 .a -.b",
        "a\u{a0}b\u{3000}c\u{2028}d",
        "a 1\r\nb 2\rc",
        "é \"ü\"",
        "a \"\"",
        "a \"\"\"\n\"\"\"",
    ] {
        assert_eq!(guard(text), Ok(()), "{text:?}");
        assert!(kdl(text), "{text:?}");
    }
}

#[test]
fn bad_texts_are_refused_with_a_reason() {
    for (text, code) in [
        ("a {", Code::UnmatchedBrace),
        ("a { b { }", Code::UnmatchedBrace),
        ("}", Code::UnmatchedBrace),
        ("a { } }", Code::UnmatchedBrace),
        ("a \"x", Code::Syntax),
        ("a \"x\ny\"", Code::Syntax),
        ("a #\"x\"", Code::Syntax),
        ("a true", Code::Syntax),
        ("a 30s", Code::Syntax),
        ("a [1]", Code::Syntax),
        ("a = 1", Code::Syntax),
        ("a {} {}", Code::Syntax),
        ("{}", Code::Syntax),
        ("a\"b\"", Code::Syntax),
        ("a \"b\"\"c\"", Code::Syntax),
        ("a /* b", Code::Syntax),
        ("a;;b", Code::Syntax),
        ("1 a", Code::Syntax),
        ("a \"\\q\"", Code::Syntax),
        ("a \"\\u{d800}\"", Code::Syntax),
        ("a #yes", Code::Syntax),
        ("(a b", Code::Syntax),
        ("a (t)", Code::Syntax),
        ("a \\ b", Code::Syntax),
        ("a .5", Code::Syntax),
        ("a 1.", Code::Syntax),
        ("a 0x", Code::Syntax),
        ("/-", Code::Syntax),
        ("a { /- }", Code::Syntax),
        ("a {} b", Code::Syntax),
        ("a /-{} b", Code::Syntax),
        ("a b=", Code::Syntax),
        ("a \"\"\"x\"\"\"", Code::Syntax),
        ("a \"\"\"\n  x\n \"\"\" b \"\"\"\n", Code::Syntax),
        ("a \"\"\"\n x\n  \"\"\"", Code::Syntax),
        ("a \u{200e}", Code::Syntax),
        ("a\0", Code::NulByte),
        ("a #\"\"\"#", Code::Syntax),
    ] {
        assert_eq!(guard(text), Err(code), "{text:?}");
    }
}

#[test]
fn limits_hold_exactly() {
    let nested = |depth: usize| "a {".repeat(depth) + &"}".repeat(depth);
    assert_eq!(guard(&nested(32)), Ok(()));
    assert_eq!(guard(&nested(33)), Err(Code::NestingTooDeep));
    let comments = |depth: usize| "/*".repeat(depth) + &"*/".repeat(depth);
    assert_eq!(guard(&comments(8)), Ok(()));
    assert_eq!(guard(&comments(9)), Err(Code::CommentTooDeep));
    let stars = |count: usize| format!("/*{} */", " *".repeat(count));
    assert_eq!(guard(&stars(500)), Ok(()));
    assert_eq!(guard(&stars(501)), Err(Code::CommentTooDeep));
    let slashed = |depth: usize| "/-a {\n".repeat(depth) + &"}\n".repeat(depth);
    assert_eq!(guard(&slashed(3)), Ok(()));
    assert_eq!(guard(&slashed(4)), Err(Code::SlashdashTooDeep));
    // One after the other is no nesting.
    assert_eq!(guard(&"/-a { b }\n".repeat(1_000)), Ok(()));
    assert_eq!(guard(&"a /-b /-c=1 d\n".repeat(1_000)), Ok(()));
}

/// What passes the guard must not abort even the proxy, whose threads have 2 MiB.
#[test]
fn the_deepest_texts_fit_a_small_stack() {
    let deep = "a {".repeat(32) + &"}".repeat(32);
    let comment = format!("{}{}{}", "/*".repeat(8), "* ".repeat(500), "*/".repeat(8));
    let slashed = "a /-{".repeat(3) + &"}".repeat(3);
    for text in [deep, comment, slashed] {
        assert_eq!(guard(&text), Ok(()));
        let parse = move || kdl::KdlDocument::parse_v2(&text).is_ok();
        let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(parse).unwrap();
        assert!(thread.join().unwrap());
    }
}

/// A million repetitions take well under a second; were it their square, they would take many minutes.
#[test]
fn time_is_linear() {
    for unit in
        ["a 1;", "/**/ ", "\"", "a \"\\\n\" ", "#", "a \"\"\"\n x\n \"\"\"\n", "/-a\n", "(a", "\\\n", "é"]
    {
        let (done, finished) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let limits = Limits { max_bytes: usize::MAX, max_tokens: usize::MAX, ..Limits::default() };
            drop(check(&unit.repeat(1_000_000), &limits));
            done.send(()).unwrap();
        });
        assert!(finished.recv_timeout(Duration::from_secs(60)).is_ok(), "{unit:?}");
    }
}

fn token_soup() -> impl Strategy<Value = String> {
    let token = prop::sample::select(vec![
        "a", "b", "node", " ", " ", " ", "\n", "\n", ";", "{", "}", "(", ")", "(t)", "=", "\"", "\"x\"",
        "#\"y\"#", "\"\"\"", "\"\"\"\n", "#", "#true", "#null", "1", "-2", "0x1f", "1.5", "1e3", "/-", "/*",
        "*/", "//", "*", "/", "\\", "\\\n", "\r\n", "é", "\u{a0}", "\u{2028}", "true", ".", "-", "+.", "_",
        "[", ",", "\\n", "\\u{41}", "\u{feff}", "\t", "a=1",
    ]);
    prop::collection::vec(token, 0..40).prop_map(|tokens| tokens.concat())
}

/// Well-formed text of every construct.
fn well_formed() -> impl Strategy<Value = String> {
    let value = prop::sample::select(vec![
        "x",
        "\"a b\"",
        "#\"r\"#",
        "1",
        "-2.5",
        "0xff",
        "#true",
        "#null",
        "(t)u",
        "\"\\\"{\\u{41}\"",
        "k=1",
        "\"k\" = #false",
        "/-z",
    ]);
    let space = prop::sample::select(vec![" ", "  ", "\t", " /* c */ ", " \\\n  "]);
    let end = prop::sample::select(vec!["\n", ";", " // c\n", "\r\n"]);
    let entries = prop::collection::vec((space, value), 0..5);
    let leaf = (entries.clone(), end.clone()).prop_map(|(entries, end)| node(&entries, None, end));
    leaf.prop_recursive(4, 40, 5, move |inner| {
        let children = prop::collection::vec(inner, 0..5);
        (entries.clone(), children, end.clone())
            .prop_map(|(entries, children, end)| node(&entries, Some(children.concat()), end))
    })
}

fn node(entries: &[(&str, &str)], children: Option<String>, end: &str) -> String {
    let entries: String = entries.iter().map(|(space, value)| format!("{space}{value}")).collect();
    match children {
        Some(children) => format!("n{entries} {{ {children} }}{end}"),
        None => format!("n{entries}{end}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn what_passes_the_parser_takes(text in token_soup()) {
        if guard(&text).is_ok() {
            prop_assert!(kdl(&text), "the guard lets through {text:?}");
        }
    }

    #[test]
    fn any_text_is_survived(text in "\\PC*|[{}()/*\\-#\"\\\\\n a]*") {
        if guard(&text).is_ok() {
            prop_assert!(kdl(&text), "the guard lets through {text:?}");
        }
    }

    #[test]
    fn well_formed_text_passes(text in well_formed()) {
        if kdl(&text) {
            prop_assert_eq!(guard(&text), Ok(()), "{}", text);
        }
    }
}
