//! What a comparison found, as data, as text for people and as JSON.

use std::{fmt, time::Duration};

use serde::{Serialize, Serializer};

use crate::{lsn::Lsn, schema::TableName};

/// The outcome of one run over all tables.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Both sides hold exactly the transactions whose commit LSN is below this one.
    #[serde(serialize_with = "display")]
    pub lsn: Lsn,
    /// Whether every table is equal.
    pub equal: bool,
    /// How long `apply` stood still for it, in seconds: the time until the target's snapshot was open.
    pub held_seconds: f64,
    /// One per compared table, in order of the source's names.
    pub tables: Vec<TableReport>,
}

/// What was found in one table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TableReport {
    /// The table at the source.
    #[serde(serialize_with = "display")]
    pub source: TableName,
    /// The table at the target.
    #[serde(serialize_with = "display")]
    pub target: TableName,
    /// Rows at the source.
    pub rows_source: u64,
    /// Rows at the target.
    pub rows_target: u64,
    /// Rows that only the source has.
    pub missing: u64,
    /// Rows that only the target has.
    pub extra: u64,
    /// Rows with the same key and other contents.
    pub different: u64,
    /// Differences of shape, as sentences without a period: a table or a column that the target lacks.
    pub shape: Vec<String>,
    /// What was left out of the comparison and why; no difference.
    pub notes: Vec<String>,
    /// The first differing rows, up to the limit of each kind.
    pub differences: Vec<Difference>,
    /// Time that the table took, in seconds.
    pub seconds: f64,
}

/// How a row differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Only the source has it.
    Missing,
    /// Only the target has it.
    Extra,
    /// Both have the key, with other contents.
    Different,
}

/// A row that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// How.
    pub kind: Kind,
    /// The key as PostgreSQL prints a row of its columns: `(42,"a b")`; the MD5 of the row in a table without a key.
    pub key: String,
    /// How many rows with this key: more than one only where nothing makes the key unique.
    pub rows: u64,
    /// The columns that differ, where both sides have the row.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<ColumnDifference>,
}

/// A column that differs in a row that both sides have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ColumnDifference {
    /// The column's name.
    pub name: String,
    /// The source's and the target's value as a field of a row (empty for NULL), when values were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values: Option<(String, String)>,
}

impl Report {
    /// Sums up the tables.
    #[must_use]
    pub fn new(lsn: Lsn, held: Duration, tables: Vec<TableReport>) -> Self {
        let equal = tables.iter().all(TableReport::is_equal);
        Self { lsn, equal, held_seconds: held.as_secs_f64(), tables }
    }
}

impl TableReport {
    /// A report that has found nothing yet.
    #[must_use]
    pub const fn new(source: TableName, target: TableName) -> Self {
        Self {
            source,
            target,
            rows_source: 0,
            rows_target: 0,
            missing: 0,
            extra: 0,
            different: 0,
            shape: Vec::new(),
            notes: Vec::new(),
            differences: Vec::new(),
            seconds: 0.0,
        }
    }

    /// Whether the target's table is a faithful copy.
    #[must_use]
    pub const fn is_equal(&self) -> bool {
        self.shape.is_empty() && self.rows_source == self.rows_target && self.missing + self.extra + self.different == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.tables.iter().map(TableReport::title).collect();
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max(5);
        writeln!(
            f,
            "{:width$}  {:>12}  {:>12}  {:>9}  {:>9}  {:>9}  {:>8}  verdict",
            "table", "rows source", "rows target", "missing", "extra", "different", "seconds"
        )?;
        for (table, name) in self.tables.iter().zip(&names) {
            writeln!(
                f,
                "{name:width$}  {:>12}  {:>12}  {:>9}  {:>9}  {:>9}  {:>8.2}  {}",
                table.rows_source,
                table.rows_target,
                table.missing,
                table.extra,
                table.different,
                table.seconds,
                if table.is_equal() { "equal" } else { "DIFFERENT" }
            )?;
        }
        for table in &self.tables {
            table.write_details(f)?;
        }
        let differing = self.tables.iter().filter(|table| !table.is_equal()).count();
        let total = self.tables.len();
        if self.equal {
            write!(f, "equal at {}: {total} {}", self.lsn, tables(total))
        } else {
            write!(f, "NOT EQUAL at {}: {differing} of {total} {} differ", self.lsn, tables(total))
        }
    }
}

impl TableReport {
    fn title(&self) -> String {
        if self.source == self.target { self.source.to_string() } else { format!("{} > {}", self.source, self.target) }
    }

    fn write_details(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.shape.is_empty() && self.notes.is_empty() && self.differences.is_empty() {
            return Ok(());
        }
        writeln!(f, "\n{}", self.title())?;
        for text in &self.shape {
            writeln!(f, "  shape      {text}")?;
        }
        for text in &self.notes {
            writeln!(f, "  note       {text}")?;
        }
        for difference in &self.differences {
            writeln!(f, "  {difference}")?;
        }
        let listed: u64 = self.differences.iter().map(|difference| difference.rows).sum();
        let unlisted = (self.missing + self.extra + self.different).saturating_sub(listed);
        if unlisted > 0 {
            writeln!(f, "  … and {unlisted} more")?;
        }
        Ok(())
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Missing => "missing",
            Kind::Extra => "extra",
            Kind::Different => "different",
        };
        write!(f, "{kind:<9}  {}", self.key)?;
        if self.rows > 1 {
            write!(f, " × {}", self.rows)?;
        }
        for (i, column) in self.columns.iter().enumerate() {
            write!(f, "{}{}", if i == 0 { "  in " } else { ", " }, column.name)?;
            if let Some((source, target)) = &column.values {
                write!(f, " ({} > {})", or_null(source), or_null(target))?;
            }
        }
        Ok(())
    }
}

fn or_null(field: &str) -> &str {
    if field.is_empty() { "NULL" } else { field }
}

const fn tables(count: usize) -> &'static str {
    if count == 1 { "table" } else { "tables" }
}

fn display<T: fmt::Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str) -> TableReport {
        TableReport::new(TableName::new("public", name), TableName::new("public", name))
    }

    #[test]
    fn a_report_is_equal_only_if_every_table_is() {
        let report = Report::new(Lsn(16), Duration::ZERO, vec![table("a"), table("b")]);
        assert!(report.equal && report.to_string().ends_with("\nequal at 0/10: 2 tables"), "{report}");
        for change in [
            |t: &mut TableReport| t.missing = 1,
            |t: &mut TableReport| t.extra = 1,
            |t: &mut TableReport| t.different = 1,
            |t: &mut TableReport| t.rows_target = 1,
            |t: &mut TableReport| t.shape.push("column x is missing at the target".into()),
        ] {
            let mut changed = table("b");
            change(&mut changed);
            let report = Report::new(Lsn(16), Duration::ZERO, vec![table("a"), changed]);
            assert!(!report.equal && report.to_string().ends_with("1 of 2 tables differ"), "{report}");
        }
    }

    #[test]
    fn notes_do_not_make_a_table_different() {
        let mut noted = table("a");
        noted.notes.push("generated column g is not published".into());
        assert!(noted.is_equal());
    }

    #[test]
    fn text_lists_keys_columns_and_what_the_limit_left_out() {
        let mut changed = table("a");
        changed.different = 5;
        let columns = vec![ColumnDifference { name: "body".into(), values: Some((String::new(), "x".into())) }];
        changed.differences.push(Difference { kind: Kind::Different, key: "(1)".into(), rows: 1, columns });
        let text = Report::new(Lsn(16), Duration::ZERO, vec![changed]).to_string();
        assert!(text.contains("  different  (1)  in body (NULL > x)\n  … and 4 more\n"), "{text}");
    }

    #[test]
    fn json_has_names_and_lsn_as_text() {
        let report = Report::new("1/A".parse().unwrap(), Duration::ZERO, vec![table("a")]);
        let json: serde_json::Value = serde_json::to_value(&report).unwrap();
        assert_eq!(json["lsn"], "1/A");
        assert_eq!(json["tables"][0]["source"], "public.a");
    }
}
