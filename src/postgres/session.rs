//! Session settings that every connection pins at start-up.
//!
//! Defaults of the role, the database or the server change how values are printed and read, and when a session is ended (trap
//! T42): under `array_nulls = off` an array's NULL is read as a text, and under `xmloption = document` what is no document is
//! refused.
//! A session whose client's host is gone ends within half a minute instead of two hours, and with it its locks (trap T14). It
//! needs to be idle: what is sent to it without an answer is the walsender's own time-out's matter, and a client that does not read
//! for a while must not be ended over it, as `tcp_user_timeout` would.
//! What is given at start-up wins over all of them (manual, "Setting Parameters").

/// Names and values.
pub const PINNED: [(&str, &str); 16] = [
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("lc_monetary", "C"),
    ("array_nulls", "on"),
    ("xmloption", "content"),
    ("standard_conforming_strings", "on"),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "4"),
];

/// The first server version with `transaction_timeout`; others refuse a session that names it at start-up.
pub const TRANSACTION_TIMEOUT_SINCE: u32 = 170_000;

/// The pinned settings and `extra` as the start-up parameter `options`: `-c name=value …`.
#[must_use]
pub fn options(extra: &[(&str, &str)]) -> String {
    let settings = PINNED.iter().chain(extra);
    let escaped = |value: &str| value.replace('\\', r"\\").replace(' ', r"\ ");
    let settings = settings.map(|(name, value)| format!("-c {name}={}", escaped(value)));
    settings.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn option_values_escape_spaces_and_backslashes() {
        let options = options(&[("search_path", r"a b\c")]);
        assert!(options.starts_with("-c client_encoding=UTF8 -c DateStyle=ISO "), "{options}");
        assert!(options.ends_with(r" -c search_path=a\ b\\c"), "{options}");
    }
}
