//! Text of the replication commands (manual, "Streaming Replication Protocol").

use crate::{lsn::Lsn, schema::quote_identifier};

/// How a logical slot is created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotOptions {
    /// Dropped when the connection ends.
    pub temporary: bool,
    /// Synchronised to stand-bys (PostgreSQL 17; ignored below; trap T16).
    pub failover: bool,
    /// Export the snapshot at the consistent point; it lives until the next command on the connection (trap T19).
    pub export_snapshot: bool,
}

/// Whether transactions are sent before they commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Streaming {
    /// Only committed transactions.
    #[default]
    Off,
    /// Large ones in blocks while they run (protocol 2, PostgreSQL 14).
    On,
    /// As `On`, with the position and time of aborts (protocol 4, PostgreSQL 16).
    Parallel,
}

/// Options of the output plug-in. Two-phase is never asked for (trap T39).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamOptions {
    /// Protocol version, 1 to 4.
    pub protocol: u8,
    /// Send logical messages.
    pub messages: bool,
    /// Send values in binary where the type has a send function.
    pub binary: bool,
    /// Send large transactions before they commit.
    pub streaming: Streaming,
    /// Leave out what was itself replicated from elsewhere (`origin 'none'`, PostgreSQL 16; trap T41).
    pub local_only: bool,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self { protocol: 1, messages: true, binary: false, streaming: Streaming::Off, local_only: false }
    }
}

/// `CREATE_REPLICATION_SLOT`; the options are in parentheses from PostgreSQL 15 on.
#[must_use]
pub fn create_slot(slot: &str, options: SlotOptions, server_version: u32) -> String {
    let temporary = if options.temporary { " TEMPORARY" } else { "" };
    let head = format!("CREATE_REPLICATION_SLOT {}{temporary} LOGICAL pgoutput", quote_identifier(slot));
    if server_version < 150_000 {
        let snapshot = if options.export_snapshot { "EXPORT_SNAPSHOT" } else { "NOEXPORT_SNAPSHOT" };
        return format!("{head} {snapshot}");
    }
    let snapshot = if options.export_snapshot { "export" } else { "nothing" };
    let failover = if options.failover && server_version >= 170_000 { ", FAILOVER true" } else { "" };
    format!("{head} (SNAPSHOT '{snapshot}'{failover})")
}

/// `ALTER_REPLICATION_SLOT`, which PostgreSQL 17 and later know.
#[must_use]
pub fn alter_slot(slot: &str, failover: bool) -> String {
    format!("ALTER_REPLICATION_SLOT {} (FAILOVER {failover})", quote_identifier(slot))
}

/// `START_REPLICATION`.
#[must_use]
pub fn start_replication(slot: &str, start: Lsn, publications: &[&str], options: StreamOptions) -> String {
    let names = publications.iter().map(|name| quote_identifier(name)).collect::<Vec<_>>().join(",");
    let mut plugin =
        vec![format!("proto_version '{}'", options.protocol), format!("publication_names {}", literal(&names))];
    if options.messages {
        plugin.push("messages 'true'".to_owned());
    }
    if options.binary {
        plugin.push("binary 'true'".to_owned());
    }
    match options.streaming {
        Streaming::Off => {}
        Streaming::On => plugin.push("streaming 'on'".to_owned()),
        Streaming::Parallel => plugin.push("streaming 'parallel'".to_owned()),
    }
    if options.local_only {
        plugin.push("origin 'none'".to_owned());
    }
    format!("START_REPLICATION SLOT {} LOGICAL {start} ({})", quote_identifier(slot), plugin.join(", "))
}

/// A literal of the replication grammar, which knows no `E''` form and takes backslashes as they are.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_options_follow_the_server_version() {
        let options = SlotOptions { temporary: true, failover: true, export_snapshot: true };
        let head = "CREATE_REPLICATION_SLOT \"s\" TEMPORARY LOGICAL pgoutput";
        assert_eq!(create_slot("s", options, 140_012), format!("{head} EXPORT_SNAPSHOT"));
        assert_eq!(create_slot("s", options, 150_000), format!("{head} (SNAPSHOT 'export')"));
        assert_eq!(create_slot("s", options, 170_000), format!("{head} (SNAPSHOT 'export', FAILOVER true)"));
        assert_eq!(alter_slot("s", false), "ALTER_REPLICATION_SLOT \"s\" (FAILOVER false)");
        let plain = "CREATE_REPLICATION_SLOT \"s\" LOGICAL pgoutput";
        assert_eq!(create_slot("s", SlotOptions::default(), 140_000), format!("{plain} NOEXPORT_SNAPSHOT"));
        assert_eq!(create_slot("s", SlotOptions::default(), 160_000), format!("{plain} (SNAPSHOT 'nothing')"));
    }

    #[test]
    fn publication_names_are_quoted_twice() {
        let sql = start_replication("s", Lsn(0x1_0000_0002), &["a\"b", "it's"], StreamOptions::default());
        let names = r#"'"a""b","it''s"'"#;
        let expected = format!(
            "START_REPLICATION SLOT \"s\" LOGICAL 1/2 (proto_version '1', publication_names {names}, messages 'true')"
        );
        assert_eq!(sql, expected);
        let all = StreamOptions {
            protocol: 4,
            messages: true,
            binary: true,
            streaming: Streaming::Parallel,
            local_only: true,
        };
        let sql = start_replication("s", Lsn(1), &["p"], all);
        assert!(sql.contains("proto_version '4'") && sql.ends_with("streaming 'parallel', origin 'none')"), "{sql}");
    }
}
