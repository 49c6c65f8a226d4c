//! HTTP/1.1, as much of it as a node needs: requests as bytes, answers from bytes.
//!
//! The simulator shares its machine with the server it measures. A general client costs more per
//! request than the server does; this one writes from parts and reads heads in place.

/// Largest head of an answer.
pub(super) const MAX_HEAD: usize = 16 << 10;
/// Largest body of an answer; archives are fetched elsewhere.
pub(super) const MAX_BODY: usize = 1 << 20;
/// Most header fields of an answer.
const MAX_FIELDS: usize = 48;

/// The head of an answer. Its body follows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    /// The status.
    pub(super) status: u16,
    /// Length of the head in bytes.
    pub(super) head: usize,
    /// Length of the body in bytes.
    pub(super) body: usize,
    /// Whether the connection ends after this answer.
    pub(super) close: bool,
    /// Seconds after which to try again.
    pub(super) retry_after: Option<u32>,
    /// Seconds after which to poll again.
    pub(super) poll_after: Option<u32>,
    /// Where the `ETag` is.
    pub(super) etag: Option<(usize, usize)>,
}

impl Head {
    /// Length of the answer in bytes.
    pub(super) fn len(&self) -> usize {
        self.head + self.body
    }

    /// Whether another answer to the same request follows.
    pub(super) fn is_interim(&self) -> bool {
        self.status < 200
    }
}

/// Reads the head at the start of `bytes`; `None` when more bytes are needed.
///
/// # Errors
/// What is wrong with the answer; nothing after it can be read.
pub(super) fn head(bytes: &[u8]) -> Result<Option<Head>, &'static str> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    let length = match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length <= MAX_HEAD => length,
        Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD => return Ok(None),
        Ok(_) => return Err("the head of an answer is too long"),
        Err(_) => return Err("an answer is not HTTP"),
    };
    let status = response.code.unwrap_or_default();
    let mut head = Head { status, head: length, close: response.version == Some(0), ..Head::default() };
    let mut declared = None;
    for field in response.headers.iter() {
        let name = field.name;
        if name.eq_ignore_ascii_case("content-length") {
            let length = number(field.value).ok_or("a content length is not a number")?;
            if declared.replace(length).is_some_and(|before| before != length) {
                return Err("an answer has two lengths");
            }
        } else if name.eq_ignore_ascii_case("etag") {
            let start = field.value.as_ptr() as usize - bytes.as_ptr() as usize;
            head.etag = Some((start, start + field.value.len()));
        } else if name.eq_ignore_ascii_case("x-zentinel-poll-after") {
            head.poll_after = number(field.value);
        } else if name.eq_ignore_ascii_case("retry-after") {
            head.retry_after = number(field.value);
        } else if name.eq_ignore_ascii_case("connection") {
            head.close |= field.value.eq_ignore_ascii_case(b"close");
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err("an answer of unknown length is not understood");
        }
    }
    let has_body = !(matches!(status, 204 | 304) || head.is_interim());
    head.body = match declared {
        _ if !has_body => 0,
        Some(length) => usize::try_from(length).unwrap_or(usize::MAX),
        None => return Err("an answer has no length"),
    };
    if head.body > MAX_BODY { Err("the body of an answer is too long") } else { Ok(Some(head)) }
}

/// A decimal number; more digits than it can hold make it the largest.
fn number(text: &[u8]) -> Option<u32> {
    let digits = text.trim_ascii();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let add = |sum: u32, digit: &u8| sum.saturating_mul(10).saturating_add(u32::from(digit - b'0'));
    Some(digits.iter().fold(0, add))
}

/// Who a node is: its id and how it proves it.
#[derive(Clone)]
pub(super) struct Credential {
    /// The node's id, as text.
    pub(super) id: Box<str>,
    /// The header field with the key or token, with its line end.
    field: Box<str>,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Credential {
    /// The static key; `None` for a text that no header can carry.
    pub(super) fn key(id: &str, key: &str) -> Option<Self> {
        visible(key).then(|| Self { id: id.into(), field: format!("x-zentinel-node-key: {key}\r\n").into() })
    }

    /// A token; `None` for a text that no header can carry.
    pub(super) fn token(id: &str, token: &str) -> Option<Self> {
        visible(token)
            .then(|| Self { id: id.into(), field: format!("authorization: Bearer {token}\r\n").into() })
    }
}

fn visible(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Writes requests for one server.
#[derive(Clone, Debug)]
pub(super) struct Writer {
    /// `/prefix/api/v1/`
    base: String,
    /// The end of every head but its last line.
    tail: String,
}

impl Writer {
    /// `authority` is host and port, `path` what the server's URL has in front of the API.
    pub(super) fn new(authority: &str, path: &str) -> Self {
        let base = format!("{}/api/v1/", path.trim_end_matches('/'));
        let tail = format!(" HTTP/1.1\r\nhost: {authority}\r\naccept: application/json\r\n");
        Self { base, tail }
    }

    fn start(&self, out: &mut Vec<u8>, method: &str, node: &Credential, rest: &str) {
        let parts = [method, " ", &self.base, "nodes/", &node.id, rest, &self.tail, &node.field];
        parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
    }

    /// Asks what to run.
    pub(super) fn poll(&self, out: &mut Vec<u8>, node: &Credential, etag: Option<&[u8]>) {
        self.start(out, "GET", node, "/bundles/latest");
        if let Some(etag) = etag {
            out.extend_from_slice(b"if-none-match: ");
            out.extend_from_slice(etag);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Reports that the node lives.
    pub(super) fn heartbeat(&self, out: &mut Vec<u8>, node: &Credential, body: &[u8]) {
        self.start(out, "POST", node, "/heartbeat");
        with_body(out, body);
    }

    /// Exchanges the static key for a token.
    pub(super) fn token(&self, out: &mut Vec<u8>, node: &Credential) {
        self.start(out, "POST", node, "/token");
        with_body(out, b"");
    }

    /// Registers a node.
    pub(super) fn register(&self, out: &mut Vec<u8>, project: &str, token: &str, body: &[u8]) {
        let parts = ["POST ", &self.base, "projects/", project, "/nodes/register", &self.tail];
        parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
        let parts = ["x-zentinel-join-token: ", token, "\r\n"];
        parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
        with_body(out, body);
    }
}

fn with_body(out: &mut Vec<u8>, body: &[u8]) {
    out.extend_from_slice(b"content-type: application/json\r\ncontent-length: ");
    out.extend_from_slice(body.len().to_string().as_bytes());
    out.extend_from_slice(b"\r\n\r\n");
    out.extend_from_slice(body);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Head {
        head(text.as_bytes()).unwrap().unwrap()
    }

    #[test]
    fn reads_what_the_server_sends() {
        let text = "HTTP/1.1 304 Not Modified\r\nx-zentinel-poll-after: 31\r\nETag: \"1f\"\r\n\
            content-length: 5\r\n\r\n";
        let answer = read(text);
        assert_eq!((answer.status, answer.body, answer.poll_after), (304, 0, Some(31)), "a 304 has no body");
        let (from, to) = answer.etag.unwrap();
        assert_eq!(&text[from..to], "\"1f\"");
        let refused =
            read("HTTP/1.1 503 x\r\nRetry-After: 7\r\nconnection: Close\r\ncontent-length: 12\r\n\r\n");
        assert_eq!((refused.retry_after, refused.close, refused.body), (Some(7), true, 12));
        assert!(read("HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n").close);
        assert!(read("HTTP/1.1 100 Continue\r\n\r\n").is_interim());
    }

    #[test]
    fn refuses_what_it_cannot_delimit() {
        for text in [
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n",
            "SSH-2.0-OpenSSH\r\n",
        ] {
            assert!(head(text.as_bytes()).is_err(), "{text}");
        }
        let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(MAX_HEAD));
        assert!(head(endless.as_bytes()).is_err());
    }

    #[test]
    fn requests_are_complete() {
        let writer = Writer::new("127.0.0.1:4000", "/fleet/");
        let node = Credential::key("n1", "k1").unwrap();
        let mut out = Vec::new();
        writer.heartbeat(&mut out, &node, b"{}");
        writer.poll(&mut out, &node, Some(b"\"a\""));
        let text = String::from_utf8(out).unwrap();
        let head = "host: 127.0.0.1:4000\r\naccept: application/json\r\nx-zentinel-node-key: k1\r\n";
        let expected = format!(
            "POST /fleet/api/v1/nodes/n1/heartbeat HTTP/1.1\r\n{head}content-type: application/json\r\n\
             content-length: 2\r\n\r\n{{}}\
             GET /fleet/api/v1/nodes/n1/bundles/latest HTTP/1.1\r\n{head}if-none-match: \"a\"\r\n\r\n"
        );
        assert_eq!(text, expected);
        assert!(Credential::key("n1", "k\r\nx: y").is_none());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ignored = head(&bytes);
        }

        #[test]
        fn no_answer_panics_or_exceeds_its_bounds(
            status in 0_u16..1000,
            fields in proptest::collection::vec(
                ("(content-length|etag|retry-after|x-zentinel-poll-after|connection|x)", "[ -~]{0,30}"), 0..8,
            ),
        ) {
            let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let text = format!("HTTP/1.1 {status:03} x\r\n{fields}\r\n");
            if let Ok(Some(answer)) = head(text.as_bytes()) {
                prop_assert_eq!(answer.head, text.len());
                prop_assert!(answer.body <= MAX_BODY);
                if let Some((from, to)) = answer.etag {
                    prop_assert!(from <= to && to <= text.len());
                }
            }
        }

        #[test]
        fn a_head_is_read_only_when_it_is_whole(cut in 0_usize..100) {
            let text = "HTTP/1.1 200 OK\r\netag: \"0\"\r\ncontent-length: 37\r\nx-zentinel-poll-after: 30\r\n\r\n";
            let cut = cut.min(text.len() - 1);
            prop_assert_eq!(head(&text.as_bytes()[..cut]), Ok(None));
            prop_assert_eq!(read(text).len(), text.len() + 37);
        }
    }
}
