//! Text with placeholders, as typed on the command line: parsed once, rendered per topic.
//!
//! `{topic}`, `{payload}` and `{payload_bytes}` are placeholders. Another lower-case word in braces is a mistake and
//! is refused by name; any other brace is itself, so that JSON needs no escaping. `\r`, `\n`, `\t`, `\\`, `\{` and
//! `\xHH` are what they are elsewhere; any other backslash is itself, so that JSON's own escapes survive.

/// What may stand in braces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Placeholder {
    Topic,
    Payload,
    PayloadBytes,
}

impl Placeholder {
    fn of(name: &str) -> Option<Self> {
        match name {
            "topic" => Some(Self::Topic),
            "payload" => Some(Self::Payload),
            "payload_bytes" => Some(Self::PayloadBytes),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Bytes(Vec<u8>),
    Placeholder(Placeholder),
}

/// Parsed text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template(Vec<Piece>);

impl Template {
    /// Text in which only `{topic}` may stand. The error is a sentence for the person who typed it.
    pub(crate) fn message(text: &str) -> Result<Self, String> {
        let template = Self(pieces(text)?);
        let strange = [(Placeholder::Payload, "{payload}"), (Placeholder::PayloadBytes, "{payload_bytes}")];
        match strange.into_iter().find(|(placeholder, _)| template.count(*placeholder) > 0) {
            Some((_, name)) => Err(format!("{name} has no meaning here, only {{topic}} has")),
            None => Ok(template),
        }
    }

    /// Text in which `{payload}` stands once, and all other placeholders may.
    pub(crate) fn publication(text: &str) -> Result<Self, String> {
        let template = Self(pieces(text)?);
        match template.count(Placeholder::Payload) {
            1 => Ok(template),
            0 => Err("{payload} is missing".into()),
            _ => Err("{payload} stands more than once".into()),
        }
    }

    /// `{topic}` stands in it.
    pub(crate) fn names_topic(&self) -> bool {
        self.count(Placeholder::Topic) > 0
    }

    fn count(&self, placeholder: Placeholder) -> usize {
        self.0.iter().filter(|piece| **piece == Piece::Placeholder(placeholder)).count()
    }

    /// The bytes of a message.
    pub(crate) fn render(&self, topic: &str) -> Vec<u8> {
        self.wrap(topic, 0).before
    }

    /// What stands before and behind a payload of `payload_bytes`.
    pub(crate) fn wrap(&self, topic: &str, payload_bytes: usize) -> Wrap {
        let mut wrap = Wrap::default();
        let mut part = &mut wrap.before;
        for piece in &self.0 {
            match piece {
                Piece::Bytes(bytes) => part.extend_from_slice(bytes),
                Piece::Placeholder(Placeholder::Topic) => part.extend_from_slice(topic.as_bytes()),
                Piece::Placeholder(Placeholder::PayloadBytes) => {
                    part.extend_from_slice(payload_bytes.to_string().as_bytes());
                }
                Piece::Placeholder(Placeholder::Payload) => part = &mut wrap.after,
            }
        }
        wrap
    }
}

/// What stands around each payload of one topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wrap {
    /// In front of it.
    pub(crate) before: Vec<u8>,
    /// Behind it.
    pub(crate) after: Vec<u8>,
}

/// Checks text in which `{topic}` may stand and nothing is escaped: a URL or a query.
pub(crate) fn check_address(text: &str) -> Result<(), String> {
    text.match_indices('{').try_for_each(|(at, _)| match word(&text[at + 1..]) {
        Some("topic") | None => Ok(()),
        Some(name) => Err(unknown(name, "{topic}")),
    })
}

/// [`check_address`] for the command line.
pub(crate) fn parse_query(text: &str) -> Result<String, String> {
    check_address(text).map(|()| text.into())
}

/// The bytes of text in which nothing stands for anything else but escapes.
pub(crate) fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let (mut bytes, mut rest) = (Vec::new(), text);
    while let Some(c) = rest.chars().next() {
        rest = match c {
            '\\' => escape(rest, &mut bytes)?,
            c => literal(c, rest, &mut bytes),
        };
    }
    Ok(bytes)
}

fn pieces(text: &str) -> Result<Vec<Piece>, String> {
    let (mut pieces, mut bytes, mut rest) = (Vec::new(), Vec::new(), text);
    while let Some(c) = rest.chars().next() {
        let name = rest.strip_prefix('{').and_then(word);
        rest = match (c, name) {
            (_, Some(name)) => {
                let known = "{topic}, {payload} and {payload_bytes}";
                let placeholder = Placeholder::of(name).ok_or_else(|| unknown(name, known))?;
                if !bytes.is_empty() {
                    pieces.push(Piece::Bytes(std::mem::take(&mut bytes)));
                }
                pieces.push(Piece::Placeholder(placeholder));
                &rest[name.len() + 2..]
            }
            ('\\', None) => escape(rest, &mut bytes)?,
            (c, None) => literal(c, rest, &mut bytes),
        };
    }
    if !bytes.is_empty() {
        pieces.push(Piece::Bytes(bytes));
    }
    Ok(pieces)
}

fn unknown(name: &str, known: &str) -> String {
    format!("{{{name}}} is no placeholder; known here: {known}")
}

/// The lower-case word at the front of `text`, if `}` follows it.
fn word(text: &str) -> Option<&str> {
    let (name, _) = text.split_once('}')?;
    let letters = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    letters.then_some(name)
}

/// Takes `c` from the front of `text`.
fn literal<'a>(c: char, text: &'a str, bytes: &mut Vec<u8>) -> &'a str {
    let (character, rest) = text.split_at(c.len_utf8());
    bytes.extend_from_slice(character.as_bytes());
    rest
}

/// Takes an escape from the front of `text`, which begins with a backslash.
fn escape<'a>(text: &'a str, bytes: &mut Vec<u8>) -> Result<&'a str, String> {
    let byte = match text.as_bytes().get(1) {
        Some(b'r') => b'\r',
        Some(b'n') => b'\n',
        Some(b't') => b'\t',
        Some(b'\\') => b'\\',
        Some(b'{') => b'{',
        Some(b'x') => {
            let digits = text.get(2..4).and_then(|digits| u8::from_str_radix(digits, 16).ok());
            bytes.push(digits.ok_or("\\x needs two hexadecimal digits")?);
            return Ok(&text[4..]);
        }
        _ => return Ok(literal('\\', text, bytes)),
    };
    bytes.push(byte);
    Ok(&text[2..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn placeholders_and_braces() {
        let nats = Template::publication("PUB {topic} {payload_bytes}\\r\\n{payload}\\r\\n").unwrap();
        let wrap = nats.wrap("bench3", 64);
        assert_eq!((text(&wrap.before), text(&wrap.after)), ("PUB bench3 64\r\n", "\r\n"));
        let json = Template::message(r#"{"id":1,"subscribe":{"channel":"{topic}","x":{}}}"#).unwrap();
        assert_eq!(text(&json.render("b")), r#"{"id":1,"subscribe":{"channel":"b","x":{}}}"#);
    }

    #[test]
    fn escapes() {
        assert_eq!(unescape(r"a\r\n\t\\\x1e\x00z").unwrap(), b"a\r\n\t\\\x1e\0z");
        assert_eq!(unescape(r#"{\"ü\u0041\"}"#).unwrap(), r#"{\"ü\u0041\"}"#.as_bytes());
        assert_eq!(unescape("\\").unwrap(), b"\\");
        assert_eq!(Template::message(r"\{topic}").unwrap().render("x"), b"{topic}");
        for bad in [r"\x", r"\x1", r"\xzz", r"\xü"] {
            assert!(unescape(bad).unwrap_err().contains("hexadecimal"), "{bad}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (result, words) in [
            (Template::message("{topics}"), "{topics}"),
            (Template::message("x{payload}"), "{payload}"),
            (Template::publication("{topic}"), "{payload} is missing"),
            (Template::publication("{payload}{payload}"), "more than once"),
            (Template::publication("{payload} {room}"), "{room}"),
        ] {
            let error = result.unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        assert!(check_address("ws://h/{topic}?a={b}").unwrap_err().contains("{b}"));
        assert_eq!(check_address("ws://h/{topic}?a={}{1}"), Ok(()));
    }
}
