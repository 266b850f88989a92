//! Keys of the server API, as an operator gives them: `NAME:KEY`.
//!
//! The key itself is not kept, only its digest: so it can't be printed or logged, and a comparison takes the same time
//! whatever its length.

use std::{
    fmt::{self, Debug, Formatter},
    fs::File,
    io::Read,
    str::FromStr,
};

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::value::Refusal;

/// The shortest key, in characters.
pub const KEY_LEN_MIN: usize = 16;

const NAME_LEN_MAX: usize = 64;
const KEY_LEN_MAX: usize = 512;

/// A file of keys is read up to here.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A key with the name under which it is spoken of.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    name: String,
    digest: [u8; 32],
}

impl ApiKey {
    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether this is the key of that digest. Takes the same time whatever the answer.
    pub fn is(&self, digest: &[u8; 32]) -> bool {
        self.digest.ct_eq(digest).into()
    }
}

impl Debug for ApiKey {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}:…", self.name)
    }
}

/// What a key is compared by.
pub fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key).into()
}

impl FromStr for ApiKey {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let (name, key) = text
            .split_once(':')
            .ok_or_else(|| Refusal::form("expected NAME:KEY, such as backend: and 32 random letters"))?;
        let in_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty() || name.len() > NAME_LEN_MAX || !name.bytes().all(in_name) {
            return Err(Refusal::form("the name before the colon is 1 to 64 letters, digits and -_."));
        }
        if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Refusal::form("a key has visible ASCII characters only, and no spaces"));
        }
        if !(KEY_LEN_MIN..=KEY_LEN_MAX).contains(&key.len()) {
            return Err(Refusal::Form(format!(
                "a key has {KEY_LEN_MIN} to {KEY_LEN_MAX} characters: `openssl rand -hex 16` makes one"
            )));
        }
        Ok(Self { name: name.to_owned(), digest: digest(key) })
    }
}

/// A file with a key on each line. Empty lines and those that begin with `#` are left out.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKeyFile {
    /// Where it is.
    pub path: String,
    /// What was in it.
    pub keys: Vec<ApiKey>,
}

impl ApiKeyFile {
    /// Reads a file.
    ///
    /// # Errors
    /// It can't be read, has no key, or has a line that is none; the text does not show the line.
    pub fn read(path: &str) -> Result<Self, Refusal> {
        let mut text = String::new();
        File::open(path)
            .and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text))
            .map_err(|error| Refusal::Form(format!("can't be read: {error}")))?;
        let lines = text.lines().map(str::trim).enumerate();
        let keys = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).map(|(at, line)| {
            line.parse().map_err(|refusal| match refusal {
                Refusal::Form(why) => Refusal::Form(format!("line {}: {why}", at + 1)),
                Refusal::Range => Refusal::Range,
            })
        });
        let keys = keys.collect::<Result<Vec<_>, Refusal>>()?;
        if keys.is_empty() {
            return Err(Refusal::form("there is no key in it: a line is NAME:KEY"));
        }
        Ok(Self { path: path.to_owned(), keys })
    }
}

impl Debug for ApiKeyFile {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.path, self.keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0123456789abcdef";

    #[test]
    fn a_key_is_known_by_its_digest_and_never_shown() {
        let key: ApiKey = format!("back-end.1:{KEY}:x").parse().expect("a key");
        assert_eq!(key.name(), "back-end.1");
        assert!(key.is(&digest(&format!("{KEY}:x"))));
        for other in [KEY, "", "0123456789abcdef:X", "0123456789abcdef:x "] {
            assert!(!key.is(&digest(other)), "{other}");
        }
        assert_eq!(format!("{key:?}"), "back-end.1:…");
    }

    #[test]
    fn what_is_no_key_is_refused_without_showing_it() {
        for text in [
            "",
            KEY,
            ":0123456789abcdef",
            "a:0123456789abcde",
            "a b:0123456789abcdef",
            "a:0123456789abcde f",
            "a:0123456789abcdef\u{e9}",
            "a:0123456789abcdef\n",
            &format!("{}:{KEY}", "a".repeat(65)),
            &format!("a:{}", "x".repeat(513)),
        ] {
            let refusal = text.parse::<ApiKey>().expect_err(text);
            assert!(
                matches!(&refusal, Refusal::Form(why) if !why.contains("0123456789")),
                "{text}: {refusal:?}"
            );
        }
    }
}
