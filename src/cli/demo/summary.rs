//! The end of the demo: a table of what went through, and where to look next.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use super::{parts::Parts, settings::Settings, shop};

/// Rows at both ends and records between them, table by table.
pub struct Totals {
    /// Rows at the source, in the order of [`shop::TABLES`].
    pub source: Vec<Option<i64>>,
    /// Rows at the target.
    pub target: Vec<Option<i64>>,
    /// Records in Kafka, by table.
    pub records: BTreeMap<String, i64>,
}

impl Totals {
    /// The table as lines of text.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!("{:<12} {:>9} {:>9} {:>9}\n", "table", "source", "target", "records");
        for (index, (table, note)) in shop::TABLES.iter().enumerate() {
            let rows =
                |side: &[Option<i64>]| side.get(index).copied().flatten().map_or("-".to_owned(), |n| n.to_string());
            let records = self.records.get(*table).copied().unwrap_or_default();
            let (source, target) = (rows(&self.source), rows(&self.target));
            writeln!(text, "{table:<12} {source:>9} {target:>9} {records:>9}  {note}")
                .expect("writing to a string cannot fail");
        }
        text
    }
}

/// Commands that show the parts from inside, and how to see `verify` fail.
#[must_use]
pub fn guide(parts: &Parts, settings: &Settings, program: &Path, folder: &Path) -> String {
    let (kafka, registry) = (&parts.kafka, &parts.registry);
    let (walrelay, config) = (program.display(), folder.join("walrelay.toml"));
    let config = config.display();
    let psql = |port: u16| format!("psql -h 127.0.0.1 -p {port} -U postgres {}", shop::NAME);
    let (source, target) = (psql(parts.source.port), psql(parts.target.port));
    let (capture, apply) = (settings.text("http.capture"), settings.text("http.apply"));
    format!(
        "Where to look next (configuration and logs: {folder}):
  topics    kcat -b {kafka} -L | grep {name}   # Debian's package kcat
            kcat -b {kafka} -C -e -t {name}.public.notes -f '%p/%o %h %k\\n'
  schemas   curl -s {registry}/subjects
            curl -s {registry}/subjects/{name}.public.orders-value/versions/latest
  source    {source}
  target    {target} -c 'SELECT * FROM orders ORDER BY id DESC LIMIT 5'
  go on     {walrelay} capture --config {config} &
            {walrelay} apply --config {config} &
            status pages: http://{capture}/ and http://{apply}/ (also /metrics, /readyz)
  see verify fail, while both halves run: change one row of the target by hand, and ask again
            {target} -c 'UPDATE orders SET amount = amount + 1 WHERE id = (SELECT min(id) FROM orders)'
            {walrelay} verify --config {config}; echo \"exit code $?\"",
        folder = folder.display(),
        name = shop::NAME,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_line_for_every_table() {
        let totals = Totals { source: vec![Some(5)], target: vec![None], records: [("orders".to_owned(), 7)].into() };
        let text = totals.table();
        assert_eq!(text.lines().count(), shop::TABLES.len() + 1);
        let customers = text.lines().find(|line| line.starts_with("customers")).unwrap();
        assert!(customers.contains(" 5 ") && customers.contains(" - "), "{customers}");
    }
}
