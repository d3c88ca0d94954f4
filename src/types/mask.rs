//! Masks: what is published in place of a column's text.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// What stands in the place of a text. NULL stays NULL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Mask {
    /// SHA-256 of the salt and the text behind it, in UTF-8, as 64 hexadecimal digits in lower case.
    Hash,
    /// So many asterisks, whatever the text is.
    Asterisks(u32),
    /// The first so many characters (code points) of the text.
    Truncate(u32),
}

/// What is put before a text that is hashed; never shown.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Salt(Arc<str>);

/// Most characters that a mask may say.
const LONGEST: u32 = 10_000;

const EXPECTATION: &str = "hash, or asterisks:12 or truncate:20 with a number of characters from 0 to 10000";

impl FromStr for Mask {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let count = |digits: &str| digits.parse().ok().filter(|count| *count <= LONGEST);
        let mask = match text.split_once(':') {
            None if text == "hash" => Some(Self::Hash),
            Some(("asterisks", digits)) => count(digits).map(Self::Asterisks),
            Some(("truncate", digits)) => count(digits).map(Self::Truncate),
            _ => None,
        };
        mask.ok_or(EXPECTATION)
    }
}

impl fmt::Display for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hash => f.write_str("hash"),
            Self::Asterisks(count) => write!(f, "asterisks:{count}"),
            Self::Truncate(count) => write!(f, "truncate:{count}"),
        }
    }
}

impl Mask {
    /// Whether it tells different texts apart, as a key has to.
    #[must_use]
    pub const fn tells_apart(self) -> bool {
        matches!(self, Self::Hash)
    }

    /// The text's mask.
    #[must_use]
    pub fn of(self, salt: &Salt, text: &[u8]) -> Vec<u8> {
        match self {
            Self::Hash => salt.hash(text).into_bytes(),
            Self::Asterisks(count) => vec![b'*'; count as usize],
            Self::Truncate(count) => text[..end(text, count)].to_vec(),
        }
    }
}

/// Where the first so many characters of UTF-8 end.
fn end(text: &[u8], count: u32) -> usize {
    let is_first = |byte: &u8| byte & 0xc0 != 0x80;
    let mut firsts = text.iter().enumerate().filter(|(_, byte)| is_first(byte)).map(|(at, _)| at);
    firsts.nth(count as usize).unwrap_or(text.len())
}

impl Salt {
    /// A salt.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The text itself, for the server that hashes the same.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The hash of a text behind the salt.
    #[must_use]
    pub fn hash(&self, text: &[u8]) -> String {
        let hash = Sha256::new().chain_update(self.0.as_bytes()).chain_update(text).finalize();
        hash.iter().fold(String::with_capacity(64), |mut hex, byte| {
            for digit in [byte >> 4, byte & 15] {
                hex.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
            }
            hex
        })
    }
}

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("********")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(mask: &str, text: &str) -> String {
        String::from_utf8(mask.parse::<Mask>().unwrap().of(&Salt::new("salt"), text.as_bytes())).unwrap()
    }

    /// What PostgreSQL's sha256('saltabc') gives.
    #[test]
    fn a_hash_is_that_of_salt_and_text() {
        assert_eq!(masked("hash", "abc"), "3681099918be28c95b81e27e7e5c2e4c6a6dea566d2d10e7f49139ebb779eb6f");
        assert_ne!(masked("hash", "abc"), masked("hash", "abd"));
        assert_eq!(format!("{:?}", Salt::new("hunter2")), "********");
    }

    #[test]
    fn characters_are_counted_and_not_bytes() {
        assert_eq!(masked("truncate:2", "éüa"), "éü");
        assert_eq!(masked("truncate:5", "éüa"), "éüa");
        assert_eq!(masked("truncate:0", "éüa"), "");
        assert_eq!(masked("asterisks:3", "a long text"), "***");
        assert_eq!(masked("asterisks:0", "text"), "");
    }

    #[test]
    fn masks_are_written_as_they_are_read() {
        for text in ["hash", "asterisks:12", "truncate:20"] {
            assert_eq!(text.parse::<Mask>().unwrap().to_string(), text);
        }
        for bad in ["", "hash:1", "asterisks", "truncate:", "truncate:-1", "truncate:10001", "md5"] {
            assert_eq!(bad.parse::<Mask>(), Err(EXPECTATION), "{bad}");
        }
    }
}
