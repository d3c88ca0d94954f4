//! What an SQLSTATE says about another attempt (manual, appendix "PostgreSQL Error Codes").

use crate::retry::Severity;

/// Whether another attempt can succeed without anyone changing anything.
///
/// Transient: connection (08), rollback by concurrency (40001, 40P01), resources (53), locks and objects in use (55006,
/// 55P03), shutdown and recovery (57P01–57P04), system errors (58). The rest is fatal, since neither an operator nor a
/// repeat of the statement changes what it means.
#[must_use]
pub fn severity(code: &str) -> Severity {
    match code {
        "40001" | "40P01" | "55006" | "55P03" | "57P01" | "57P02" | "57P03" | "57P04" | "57P05" => Severity::Transient,
        _ if ["08", "53", "58"].iter().any(|class| code.starts_with(class)) => Severity::Transient,
        _ => Severity::Fatal,
    }
}

/// Whether the code says that the credentials, the role or the database are wrong.
#[must_use]
pub fn is_login_refusal(code: &str) -> bool {
    matches!(code, "28000" | "28P01" | "3D000")
}

/// Whether the code says that this role, this server (a stand-by), or who holds a lock lets nothing be changed.
#[must_use]
pub fn refuses_change(code: &str) -> bool {
    matches!(code, "42501" | "25006" | "55P03")
}

/// Whether messages of this class quote values of rows (data exceptions, integrity violations).
#[must_use]
pub fn quotes_values(code: &str) -> bool {
    code.starts_with("22") || code.starts_with("23")
}

/// What the operator can do about the code, where the server's own hint does not say it.
#[must_use]
pub fn hint(code: &str) -> Option<&'static str> {
    Some(match code {
        "28P01" => "Check the user and the password.",
        "28000" => "Check that the role exists, may log in, and that pg_hba.conf has a line for this connection.",
        "3D000" => "Create the database, or correct its name.",
        "42501" => "Grant the role the privilege that the message names (a walsender: ALTER ROLE … REPLICATION;).",
        "53300" => "Raise max_connections (for replication: max_wal_senders), or close idle connections.",
        "53400" => "Raise max_replication_slots, or drop slots that nobody uses.",
        "53100" => "Free disk space on the server.",
        "55000" => "If the message names wal_level: ALTER SYSTEM SET wal_level = 'logical'; then restart the server.",
        "55006" => "Another session holds the object; it is tried again until that session has ended.",
        "57P03" => "The server is starting up or shutting down; it is tried again.",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_heal_by_themselves_are_transient() {
        for code in ["08006", "08P01", "40001", "40P01", "53300", "55006", "57P01", "57P02", "57P03", "58030"] {
            assert_eq!(severity(code), Severity::Transient, "{code}");
        }
        for code in ["28P01", "28000", "3D000", "42501", "42P01", "42601", "57014", "XX000", "55000"] {
            assert_eq!(severity(code), Severity::Fatal, "{code}");
        }
    }
}
