//! The effective configuration as TOML: every key, its value, and where it comes from; secrets masked.

use std::fmt::Write as _;

use toml::Value;

use super::{
    key::{Key, Kind},
    keys::KEYS,
    layers::{Entry, Layers},
    reserved,
};

const MASK: &str = "\"********\"";
/// Column of the trailing comments.
const COMMENT: usize = 48;

/// Renders the merged configuration; it reads back as TOML.
#[must_use]
pub fn effective(layers: &Layers) -> String {
    let mut out = String::new();
    let mut section = "";
    for key in KEYS.iter().filter(|key| !key.kind.is_open_table()) {
        let Some((parent, name)) = key.path.rsplit_once('.') else { continue };
        if parent != section {
            open_tables(&mut out, layers, section);
            heading(&mut out, parent);
            section = parent;
        }
        match layers.entry(key.path) {
            Some(entry) => line(&mut out, &format!("{name} = {}", shown(key, name, entry)), &entry.origin.to_string()),
            None => line(&mut out, &format!("# {name} ="), "not set"),
        }
    }
    open_tables(&mut out, layers, section);
    out
}

/// The open tables of a section (`[kafka.properties]`), those that hold something.
fn open_tables(out: &mut String, layers: &Layers, section: &str) {
    for key in KEYS.iter().filter(|key| key.kind.is_open_table()) {
        if key.path.rsplit_once('.').is_none_or(|(parent, _)| parent != section) {
            continue;
        }
        let entries: Vec<_> = layers.open_entries(key.path).collect();
        if !entries.is_empty() {
            heading(out, key.path);
        }
        for (name, entry) in entries {
            let quoted = Value::from(name);
            line(out, &format!("{quoted} = {}", shown(key, name, entry)), &entry.origin.to_string());
        }
    }
}

fn heading(out: &mut String, section: &str) {
    let gap = if out.is_empty() { "" } else { "\n" };
    write_line(out, format_args!("{gap}[{section}]"));
}

fn line(out: &mut String, setting: &str, origin: &str) {
    write_line(out, format_args!("{setting:COMMENT$} # {origin}"));
}

fn write_line(out: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{text}").expect("writing to a string cannot fail");
}

fn shown(key: &Key, name: &str, entry: &Entry) -> String {
    let hidden = match key.kind {
        Kind::Secret => true,
        Kind::Properties(_) => reserved::is_secret(name),
        _ => false,
    };
    if hidden { MASK.to_owned() } else { entry.value.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(environment: &[(&str, &str)]) -> Layers {
        Layers::read(None, environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))).unwrap()
    }

    #[test]
    fn it_names_each_value_and_origin_and_masks_secrets() {
        let text = effective(&layers(&[
            ("WALRELAY_SOURCE__PASSWORD", "hunter2"),
            ("WALRELAY_KAFKA__PROPERTIES__SASL_PASSWORD", "hunter3"),
            ("WALRELAY_KAFKA__PROPERTIES__SASL_USERNAME", "anna"),
            ("WALRELAY_APPLY__SCHEMAS__PUBLIC", "copy"),
        ]));
        assert!(!text.contains("hunter"), "{text}");
        let lines: Vec<_> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        for line in [
            "port = 5432 # default",
            "password = \"********\" # environment WALRELAY_SOURCE__PASSWORD",
            "\"sasl.password\" = \"********\" # environment WALRELAY_KAFKA__PROPERTIES__SASL_PASSWORD",
            "\"sasl.username\" = \"anna\" # environment WALRELAY_KAFKA__PROPERTIES__SASL_USERNAME",
            "\"public\" = \"copy\" # environment WALRELAY_APPLY__SCHEMAS__PUBLIC",
            "# host = # not set",
        ] {
            assert!(lines.iter().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn it_reads_back_as_the_same_configuration() {
        let layers = layers(&[("WALRELAY_SOURCE__HOST", "a\"b"), ("WALRELAY_KAFKA__PRODUCER__LINGER_MS", "7")]);
        let back: toml::Table = toml::from_str(&effective(&layers)).unwrap();
        assert_eq!(back["source"]["host"].as_str(), Some("a\"b"));
        assert_eq!(back["kafka"]["producer"]["linger.ms"].as_str(), Some("7"));
        let mut expected = layers.table();
        for section in ["kafka", "capture"] {
            let section = expected[section].as_table_mut().unwrap();
            section.retain(|_, value| !value.as_table().is_some_and(toml::Table::is_empty));
            assert!(!section.is_empty());
        }
        assert_eq!(back["capture"], expected["capture"]);
    }
}
