//! Whether text is a JSON object or array, and can be embedded as it is (RFC 8259).
//!
//! `serde_json` skips a value with an allocation where it is nested, and to any depth. This check allocates nothing and
//! has a bound: a reader of the envelope must not fail for what somebody else has published. Its twin in the tests is
//! `serde_json`.

/// How deep an embedded value may be nested. With the envelope around it, it is what `serde_json` reads at most.
pub const NESTING_MAX: u32 = 126;

/// Whether `text` is one JSON object or array, with white space around it or not, and nested at most
/// [`NESTING_MAX`] deep. UTF-8 is not checked.
pub fn is_object_or_array(text: &[u8]) -> bool {
    let mut scan = Scan { bytes: text };
    scan.white_space();
    matches!(scan.bytes.first(), Some(b'{' | b'[')) && scan.value().is_some() && {
        scan.white_space();
        scan.bytes.is_empty()
    }
}

/// The values that are open, the innermost one in the lowest bit: 1 is an object, 0 an array.
#[derive(Default)]
struct Nesting {
    objects: u128,
    depth: u32,
}

impl Nesting {
    fn enter(&mut self, is_object: bool) -> Option<()> {
        self.depth += 1;
        self.objects = self.objects << 1 | u128::from(is_object);
        (self.depth <= NESTING_MAX).then_some(())
    }

    fn leave(&mut self) {
        self.depth -= 1;
        self.objects >>= 1;
    }

    fn in_object(&self) -> bool {
        self.objects & 1 != 0
    }
}

/// What is still to be read. `None` says that it is not JSON.
struct Scan<'a> {
    bytes: &'a [u8],
}

impl Scan<'_> {
    fn value(&mut self) -> Option<()> {
        let mut nesting = Nesting::default();
        loop {
            // A value begins here.
            self.white_space();
            let is_open = match self.next()? {
                b'{' => {
                    nesting.enter(true)?;
                    self.white_space();
                    !self.skip(b'}')
                }
                b'[' => {
                    nesting.enter(false)?;
                    self.white_space();
                    !self.skip(b']')
                }
                first => {
                    self.scalar(first)?;
                    self.behind_value(&mut nesting)?;
                    if nesting.depth == 0 {
                        return Some(());
                    }
                    continue;
                }
            };
            if !is_open {
                nesting.leave();
                self.behind_value(&mut nesting)?;
                if nesting.depth == 0 {
                    return Some(());
                }
            } else if nesting.in_object() {
                self.key()?;
            }
        }
    }

    /// Goes on to where the next value begins, out of all objects and arrays that end here.
    fn behind_value(&mut self, nesting: &mut Nesting) -> Option<()> {
        while nesting.depth > 0 {
            self.white_space();
            match (self.next()?, nesting.in_object()) {
                (b',', true) => {
                    self.white_space();
                    return self.key();
                }
                (b',', false) => return Some(()),
                (b'}', true) | (b']', false) => nesting.leave(),
                _ => return None,
            }
        }
        Some(())
    }

    /// A key and its colon.
    fn key(&mut self) -> Option<()> {
        if self.next()? != b'"' {
            return None;
        }
        self.string()?;
        self.white_space();
        (self.next()? == b':').then_some(())
    }

    fn scalar(&mut self, first: u8) -> Option<()> {
        match first {
            b'"' => self.string(),
            b't' => self.word(b"rue"),
            b'f' => self.word(b"alse"),
            b'n' => self.word(b"ull"),
            b'-' => {
                let digit = self.next()?;
                self.number(digit)
            }
            digit => self.number(digit),
        }
    }

    /// The rest of a string, behind its first quotation mark.
    fn string(&mut self) -> Option<()> {
        loop {
            let special = self.bytes.iter().position(|&byte| !PLAIN[usize::from(byte)])?;
            self.bytes = &self.bytes[special..];
            match self.next()? {
                b'"' => return Some(()),
                b'\\' => match self.next()? {
                    b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                    b'u' => {
                        let (digits, rest) = self.bytes.split_first_chunk::<4>()?;
                        if !digits.iter().all(u8::is_ascii_hexdigit) {
                            return None;
                        }
                        self.bytes = rest;
                    }
                    _ => return None,
                },
                _ => return None,
            }
        }
    }

    /// The rest of a number, behind its first digit.
    fn number(&mut self, first: u8) -> Option<()> {
        match first {
            b'0' => {}
            b'1'..=b'9' => self.digits(),
            _ => return None,
        }
        if self.skip(b'.') {
            self.some_digits()?;
        }
        if self.skip(b'e') || self.skip(b'E') {
            let _ = self.skip(b'+') || self.skip(b'-');
            self.some_digits()?;
        }
        Some(())
    }

    fn some_digits(&mut self) -> Option<()> {
        self.bytes.first()?.is_ascii_digit().then(|| self.digits())
    }

    fn digits(&mut self) {
        let len = self.bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.bytes = &self.bytes[len..];
    }

    fn word(&mut self, rest: &[u8]) -> Option<()> {
        self.bytes = self.bytes.strip_prefix(rest)?;
        Some(())
    }

    fn white_space(&mut self) {
        while let Some((b' ' | b'\t' | b'\n' | b'\r', rest)) = self.bytes.split_first() {
            self.bytes = rest;
        }
    }

    fn skip(&mut self, byte: u8) -> bool {
        let is_there = self.bytes.first() == Some(&byte);
        if is_there {
            self.bytes = &self.bytes[1..];
        }
        is_there
    }

    fn next(&mut self) -> Option<u8> {
        let (&first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(first)
    }
}

/// Bytes that stand for themselves in a string.
const PLAIN: [bool; 256] = {
    let mut plain = [true; 256];
    let mut control = 0;
    while control < 0x20 {
        plain[control] = false;
        control += 1;
    }
    plain[b'"' as usize] = false;
    plain[b'\\' as usize] = false;
    plain
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;

    /// The twin. It knows no bound of nesting: only for texts that keep it.
    fn slowly(text: &str) -> bool {
        let text = text.trim_matches([' ', '\t', '\n', '\r']);
        text.starts_with(['{', '[']) && serde_json::from_str::<&RawValue>(text).is_ok()
    }

    #[test]
    fn each_rule() {
        for text in [
            "{}",
            "[]",
            " \t\r\n[ ] \n",
            "{\"a\":1}",
            "{ \"a\" : [ 1 , -0.5e+10 , true , false , null ] , \"\" : {} }",
            r#"["\"\\\/\b\f\n\r\t\u00e9\ud800"]"#,
            "[[],[[]],{}]",
            "[1e9,1E-9,0,-0,0.0,10]",
            "{\"a\":1,\"a\":2}",
            "[\"\u{7f}\u{2028}я🎺\"]",
            "[1e999999]",
        ] {
            assert!(is_object_or_array(text.as_bytes()), "{text}");
            assert!(slowly(text), "{text}");
        }
        for text in [
            "",
            " ",
            "1",
            "\"a\"",
            "null",
            "{",
            "[",
            "}",
            "{]",
            "[}",
            "[1,]",
            "[,1]",
            "[1 2]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{a:1}",
            "{1:1}",
            "[01]",
            "[-]",
            "[+1]",
            "[.5]",
            "[1.]",
            "[1e]",
            "[1e+]",
            "[0x1]",
            "[NaN]",
            "[tru]",
            "[truee]",
            "[\"a]",
            "[\"\\x\"]",
            "[\"\\u12g4\"]",
            "[\"\\u12\"]",
            "[\"\n\"]",
            "[]]",
            "{}{}",
            "[] x",
            "\u{feff}[]",
            "[\u{a0}]",
            "[1]\u{c}",
            "['a']",
            "[1,,2]",
            "{,}",
            "// c\n[]",
        ] {
            assert!(!is_object_or_array(text.as_bytes()), "{text}");
            assert!(!slowly(text), "{text}");
        }
    }

    #[test]
    fn nesting_has_its_bound() {
        let nested = |depth: usize| {
            let (opening, closing): (Vec<_>, Vec<_>) =
                (0..depth).map(|level| if level % 3 == 0 { ("{\"a\":", "}") } else { ("[", "]") }).unzip();
            let closing: Vec<_> = closing.into_iter().rev().collect();
            format!("{}0{}", opening.concat(), closing.concat())
        };
        let deepest = nested(NESTING_MAX as usize);
        assert!(is_object_or_array(deepest.as_bytes()));
        assert!(serde_json::from_str::<serde_json::Value>(&format!("{{\"data\":{deepest}}}")).is_ok());
        assert!(!is_object_or_array(nested(NESTING_MAX as usize + 1).as_bytes()));
        assert!(!is_object_or_array("[".repeat(1_000_000).as_bytes()));
        assert!(!is_object_or_array(nested(1_000_000).as_bytes()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn any_text_of_jsons_characters_like_the_twin(text in r#"[\[{][\[\]{}:,"\\ 01.eE+\-tu\n]{0,12}"#) {
            prop_assert_eq!(is_object_or_array(text.as_bytes()), slowly(&text), "{}", text);
        }

        #[test]
        fn json_that_lost_or_got_a_character_like_the_twin(
            at in 0..80usize, character in r#"[\[\]{}:,"\\ 0-9.eE+\-a-z\n]"#, is_lost: bool
        ) {
            const JSON: &str = r#" {"a": [1, -0.5e+1, {"b\"\u00e9": ""}, true,null ,[ ]], "c":{} , "d":[[0]] } "#;
            let at = at % JSON.len();
            let text = format!("{}{}{}", &JSON[..at], if is_lost { "" } else { &character }, &JSON[at + usize::from(is_lost)..]);
            prop_assert_eq!(is_object_or_array(text.as_bytes()), slowly(&text), "{}", text);
        }
    }
}
