//! What is asked of a running capture, whichever way it came: as a message of [`signal`](super::signal), or as Debezium has signals, a `type`
//! with JSON `data` (Debezium's manual, "Sending signals to a Debezium connector").
//!
//! Of Debezium's words all are read that are about snapshots beside the stream. What they ask for in addition and what nobody needs here
//! (`surrogate-key`, a snapshot that blocks the stream) changes nothing.

use regex::{Regex, RegexBuilder};
use serde::Deserialize;

use super::{
    condition,
    signal::{Kind, Signal},
};
use crate::event::Condition;

/// Patterns and conditions of one signal: who may insert a row must not be able to have capture's memory.
const MOST_PATTERNS: usize = 500;
/// A compiled pattern, in bytes.
const MOST_PATTERN_BYTES: usize = 1 << 18;

/// What is asked for.
#[derive(Clone, Debug)]
pub enum Request {
    /// To read tables again: of each the rows for which its conditions hold.
    Resync {
        /// The tables.
        tables: Vec<Named>,
        /// Conditions, each with the tables that it is about, or about all; of several the first counts.
        conditions: Vec<(Option<Named>, Vec<Condition>)>,
    },
    /// To read nothing more for now.
    Pause,
    /// To go on reading.
    GoOn,
    /// To give up reading tables again; without tables, all of them.
    Stop(Vec<Named>),
    /// To let stopped tables go on; without tables, all of them.
    ResumeTables(Vec<Named>),
    /// Nothing: it is between Debezium and itself.
    Nothing,
}

/// Tables, by a name or by a regular expression over `schema.table`.
#[derive(Clone, Debug)]
pub struct Named {
    text: String,
    pattern: Option<Regex>,
}

impl Named {
    fn exactly(text: &str) -> Self {
        Self { text: text.to_owned(), pattern: None }
    }

    /// The whole name has to match, as in Debezium. What matches nothing is a name: `expand` takes it so.
    fn matching(text: &str) -> Result<Self, String> {
        let compiled = |text: &str| RegexBuilder::new(text).size_limit(MOST_PATTERN_BYTES).build();
        // Alone first: what closes the group would undo that the whole name has to match.
        let pattern = compiled(text).and_then(|_alone| compiled(&format!("^(?:{text})$")));
        let pattern =
            pattern.map_err(|_broken| format!("{:?} is no regular expression that can be read", shortened(text)))?;
        Ok(Self { text: text.to_owned(), pattern: Some(pattern) })
    }

    /// Whether a table of this name is meant.
    #[must_use]
    pub fn is(&self, table: &str) -> bool {
        self.text == table || self.pattern.as_ref().is_some_and(|pattern| pattern.is_match(table))
    }

    /// Those of the tables that are meant; where there are none, what stands for them, as a name.
    pub fn expand<'a>(&self, tables: impl Iterator<Item = &'a str>) -> Vec<String> {
        let found: Vec<_> = tables.filter(|table| self.is(table)).map(ToOwned::to_owned).collect();
        if found.is_empty() { vec![self.text.clone()] } else { found }
    }
}

impl From<Signal> for Request {
    fn from(Signal { kind, tables, conditions, .. }: Signal) -> Self {
        let tables = tables.iter().map(|table| Named::exactly(table)).collect();
        match kind {
            Kind::Resync => Self::Resync { tables, conditions: vec![(None, conditions)] },
            Kind::Pause => Self::Pause,
            Kind::Resume => Self::GoOn,
            Kind::Stop => Self::Stop(tables),
            Kind::ResumeTables => Self::ResumeTables(tables),
        }
    }
}

/// The `data` of Debezium's signals about snapshots.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Data {
    #[serde(default)]
    data_collections: Option<Vec<String>>,
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    additional_conditions: Vec<AdditionalCondition>,
    /// The older form, of all tables.
    #[serde(default)]
    additional_condition: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct AdditionalCondition {
    data_collection: String,
    filter: String,
}

/// The value of a record of Debezium's signal topic.
#[derive(Debug, Deserialize)]
struct RecordValue {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    data: serde_json::Value,
}

impl Request {
    /// Reads the value of a record of the signal topic: `{"type": …, "data": …}`, of which the data is JSON, or such JSON as a text.
    ///
    /// # Errors
    /// Why it cannot be followed.
    pub fn of_record(value: &str) -> Result<Self, String> {
        let read = serde_json::from_str::<RecordValue>(value);
        let RecordValue { kind, data } = read.map_err(|error| {
            let what = if error.is_data() { "not the JSON that a signal has" } else { "no JSON" };
            format!("the record is {what} (line {}, column {})", error.line(), error.column())
        })?;
        let data = match data {
            serde_json::Value::Null => None,
            serde_json::Value::String(text) => Some(text),
            json => Some(json.to_string()),
        };
        Self::of_debezium(&kind, data.as_deref())
    }

    /// Reads a signal as Debezium's users write it.
    ///
    /// # Errors
    /// Why it cannot be followed.
    pub fn of_debezium(kind: &str, data: Option<&str>) -> Result<Self, String> {
        let kind = kind.trim();
        match kind {
            "execute-snapshot" => read(kind, data)?.resync(),
            "stop-snapshot" => {
                let data = read(kind, data)?;
                data.check_kind()?;
                // Debezium takes none for all.
                Ok(Self::Stop(named(data.data_collections.unwrap_or_default())?))
            }
            "pause-snapshot" => Ok(Self::Pause),
            "resume-snapshot" => Ok(Self::GoOn),
            "resume-tables" => Ok(Self::ResumeTables(named(read(kind, data)?.data_collections.unwrap_or_default())?)),
            // What Debezium writes for its own windows.
            "snapshot-window-open" | "snapshot-window-close" => Ok(Self::Nothing),
            other => Err(format!(
                "its type {:?} is none of execute-snapshot, stop-snapshot, pause-snapshot, resume-snapshot and resume-tables",
                shortened(other)
            )),
        }
    }
}

/// What is told of a text that may be of any length.
fn shortened(text: &str) -> String {
    text.chars().take(60).collect()
}

fn read(kind: &str, data: Option<&str>) -> Result<Data, String> {
    match data.map(str::trim).filter(|data| !data.is_empty()) {
        None => Ok(Data::default()),
        Some(data) => {
            let data = parsed(kind, data)?;
            let patterns = data.data_collections.as_ref().map_or(0, Vec::len).max(data.additional_conditions.len());
            if patterns > MOST_PATTERNS {
                return Err(format!("the data of {kind} has more than {MOST_PATTERNS} tables or conditions"));
            }
            Ok(data)
        }
    }
}

fn parsed(kind: &str, data: &str) -> Result<Data, String> {
    // The message of the error may quote the text: place and kind say enough.
    serde_json::from_str(data).map_err(|error| {
        let what = if error.is_data() { "not the JSON that such a signal has" } else { "no JSON" };
        format!("the data of {kind} is {what} (line {}, column {})", error.line(), error.column())
    })
}

fn named(texts: Vec<String>) -> Result<Vec<Named>, String> {
    texts.iter().map(|text| Named::matching(text.trim())).collect()
}

fn conditions(text: &str) -> Result<Vec<Condition>, String> {
    if text.trim().is_empty() { Ok(Vec::new()) } else { condition::parse(text).map_err(|error| error.to_string()) }
}

impl Data {
    /// A snapshot that blocks the stream gives nothing that one beside it does not give.
    fn check_kind(&self) -> Result<(), String> {
        match self.kind.as_deref().map(str::to_ascii_lowercase).as_deref() {
            None | Some("incremental" | "blocking") => Ok(()),
            Some(other) => Err(format!("{:?} is no type of snapshot: it is incremental", shortened(other))),
        }
    }

    fn resync(self) -> Result<Request, String> {
        self.check_kind()?;
        let tables = named(self.data_collections.unwrap_or_default())?;
        if tables.is_empty() {
            return Err("execute-snapshot names no tables (data-collections)".to_owned());
        }
        let mut all = Vec::with_capacity(self.additional_conditions.len() + 1);
        for AdditionalCondition { data_collection, filter } in &self.additional_conditions {
            let about = Named::matching(data_collection.trim())?;
            all.push((Some(about), conditions(filter)?));
        }
        if let Some(filter) = &self.additional_condition {
            all.push((None, conditions(filter)?));
        }
        Ok(Request::Resync { tables, conditions: all })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_again(data: &str) -> Result<(Vec<String>, Vec<String>), String> {
        let captured = ["public.orders", "public.order_lines", "sales.orders"];
        match Request::of_debezium("execute-snapshot", Some(data))? {
            Request::Resync { tables, conditions } => {
                let tables = tables.iter().flat_map(|named| named.expand(captured.into_iter())).collect();
                let text = |(about, all): &(Option<Named>, Vec<Condition>)| {
                    let all: Vec<_> = all.iter().map(condition::text).collect();
                    format!("{}: {}", about.as_ref().map_or("*", |about| &about.text), all.join(" AND "))
                };
                Ok((tables, conditions.iter().map(text).collect()))
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn tables_are_regular_expressions_over_whole_names_and_what_matches_none_is_a_name() {
        let tables = |names: &str| read_again(&format!(r#"{{"data-collections": {names}}}"#)).map(|(tables, _)| tables);
        assert_eq!(tables(r#"["public.orders"]"#).unwrap(), ["public.orders"]);
        assert_eq!(tables(r#"["public\\.order.*"]"#).unwrap(), ["public.orders", "public.order_lines"]);
        assert_eq!(tables(r#"["orders|sales.*", "public.gone"]"#).unwrap(), ["sales.orders", "public.gone"]);
        assert!(tables(r#"["public.x)|(?:.*"]"#).unwrap_err().contains("no regular expression"));
        assert!(tables(r#"["public.("]"#).unwrap_err().contains("no regular expression"));
        assert!(tables("[]").unwrap_err().contains("no tables"));
    }

    #[test]
    fn conditions_are_of_some_tables_or_in_the_older_form_of_all() {
        let newer = r#"{"data-collections": ["public.orders"], "type": "INCREMENTAL",
            "additional-conditions": [{"data-collection": "public.orders", "filter": "id >= 5 AND id < 9"}]}"#;
        let (_, conditions) = read_again(newer).unwrap();
        assert_eq!(conditions, [r#"public.orders: "id" >= '5' AND "id" < '9'"#]);
        let older = r#"{"data-collections": ["public.orders"], "type": "blocking", "additional-condition": "id = 7"}"#;
        assert_eq!(read_again(older).unwrap().1, [r#"*: "id" = '7'"#]);
        let wide = r#"{"data-collections": ["public.orders"], "additional-condition": "id = 7 OR true"}"#;
        assert!(read_again(wide).unwrap_err().contains("expected AND"));
    }

    #[test]
    fn what_cannot_be_read_is_told_without_what_it_says() {
        for (kind, data, told) in [
            ("execute-snapshot", Some("{\"data-collections\": [\"secret"), "no JSON"),
            ("execute-snapshot", Some(r#"{"data-collections": "secret"}"#), "not the JSON that such a signal has"),
            ("execute-snapshot", None, "names no tables"),
            ("execute-snapshot", Some(r#"{"data-collections": ["a.b"], "type": "other"}"#), "no type of snapshot"),
            ("log", Some("{}"), "none of execute-snapshot"),
        ] {
            let error = Request::of_debezium(kind, data).unwrap_err();
            assert!(error.contains(told) && !error.contains("secret"), "{kind}: {error}");
        }
    }

    #[test]
    fn the_other_signals_need_no_data() {
        for (kind, read) in [
            ("pause-snapshot", "Pause"),
            ("resume-snapshot", "GoOn"),
            ("stop-snapshot", "Stop([])"),
            ("resume-tables", "ResumeTables([])"),
            ("snapshot-window-open", "Nothing"),
        ] {
            for data in [None, Some(""), Some("{}"), Some(r#"{"type": "incremental"}"#)] {
                assert_eq!(format!("{:?}", Request::of_debezium(kind, data).unwrap()), read);
            }
        }
    }
}
