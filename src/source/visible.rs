//! Which transactions a snapshot shows (`pg_current_snapshot()`; manual, "Transaction ID and Snapshot Information Functions").

/// A snapshot: transactions below `xmin` are visible, unless they were rolled back; those from `xmax` on are not, nor are those in between
/// that were running.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Visible {
    xmin: u64,
    xmax: u64,
    running: Vec<u64>,
}

impl Visible {
    /// Reads `xmin:xmax:xip,…`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, ':');
        let (xmin, xmax) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let running = parts.next()?.split(',').filter(|xid| !xid.is_empty());
        let mut running: Vec<u64> = running.map(|xid| xid.parse().ok()).collect::<Option<_>>()?;
        running.sort_unstable();
        Some(Self { xmin, xmax, running })
    }

    /// The ids of 32 bits of the transactions that were running.
    #[must_use]
    pub fn running(&self) -> Vec<u32> {
        #[expect(clippy::cast_possible_truncation, reason = "the lower half is what the stream has")]
        self.running.iter().map(|xid| *xid as u32).collect()
    }

    /// Whether it shows what a transaction has committed. The stream has ids of 32 bits; they are less than 2^31 from the snapshot's.
    #[must_use]
    pub fn sees(&self, xid: u32) -> bool {
        #[expect(clippy::cast_possible_truncation, reason = "the lower half is what is compared")]
        let ahead = xid.wrapping_sub(self.xmax as u32).cast_signed();
        let xid = self.xmax.saturating_add_signed(i64::from(ahead));
        xid < self.xmin || xid < self.xmax && self.running.binary_search(&xid).is_err()
    }
}

impl From<Visible> for String {
    fn from(Visible { xmin, xmax, running }: Visible) -> Self {
        let running: Vec<_> = running.iter().map(u64::to_string).collect();
        format!("{xmin}:{xmax}:{}", running.join(","))
    }
}

impl TryFrom<String> for Visible {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("no snapshot is written like this")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_running_or_came_later_is_not_seen() {
        let visible = Visible::parse("10:20:10,15").unwrap();
        assert_eq!(String::from(visible.clone()), "10:20:10,15");
        let seen: Vec<u32> = (8..22).filter(|xid| visible.sees(*xid)).collect();
        assert_eq!(seen, [8, 9, 11, 12, 13, 14, 16, 17, 18, 19]);
        assert!(Visible::parse("20:20:").unwrap().sees(19));
    }

    #[test]
    fn ids_are_compared_across_the_wrap() {
        let wrap = 1_u64 << 32;
        let visible = Visible::parse(&format!("{}:{}:{}", wrap - 2, wrap + 10, wrap - 2)).unwrap();
        assert!(visible.sees(u32::MAX - 5) && visible.sees(u32::MAX) && visible.sees(3));
        assert_eq!(visible.running(), [u32::MAX - 1]);
        assert!(!visible.sees(u32::MAX - 1) && !visible.sees(10) && !visible.sees(11));
    }

    #[test]
    fn what_no_server_writes_is_refused() {
        for text in ["", "1", "1:2", "a:2:", "1:2:x", "1:2:3,,x"] {
            assert_eq!(Visible::parse(text), None, "{text}");
        }
    }
}
