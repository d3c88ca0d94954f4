//! What a text must look like to be a slot name, a list of brokers and the like. Each rule answers with what it expects.

use std::net::ToSocketAddrs as _;

use globset::Glob;

use super::value::Period;
use crate::{
    avro::flat::Metadata,
    record::{TemplateError, TopicNames},
    types::{Mask, Placeholder},
};

/// A rule over one text; the error completes the sentence "… must be".
pub type Rule = fn(&str) -> Result<(), &'static str>;

/// Anything but nothing.
pub fn text(text: &str) -> Result<(), &'static str> {
    expect(!text.trim().is_empty(), "a text that is not empty")
}

/// Manual, "Replication Slots": lower-case letters, digits and underscores; identifiers have at most 63 bytes.
pub fn slot(text: &str) -> Result<(), &'static str> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    expect(
        (1..=63).contains(&text.len()) && text.chars().all(plain),
        "1 to 63 lower-case letters, digits and underscores",
    )
}

/// An SQL identifier of at most 63 bytes, unquoted.
pub fn identifier(text: &str) -> Result<(), &'static str> {
    expect((1..=63).contains(&text.len()) && !text.contains('\0'), "an identifier of 1 to 63 bytes")
}

/// Identifiers between commas.
pub fn column_list(text: &str) -> Result<(), &'static str> {
    let fits = text.split(',').all(|name| identifier(name.trim()).is_ok());
    expect(fits, "names of columns between commas, each of 1 to 63 bytes and without quotes")
}

/// What is published in place of a column.
pub fn mask(text: &str) -> Result<(), &'static str> {
    text.parse::<Mask>().map(drop)
}

/// A topic's name, or the beginning of one: what Kafka allows, short enough to leave room for the table's name.
pub fn topic(text: &str) -> Result<(), &'static str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    expect(
        (1..=120).contains(&text.len()) && text.chars().all(plain) && !matches!(text, "." | ".."),
        "1 to 120 letters, digits, dots, underscores and hyphens",
    )
}

/// The names of tables' topics.
pub fn table_topics(text: &str) -> Result<(), &'static str> {
    let names = TopicNames::of_templates(text, "{prefix}.message", "p", "d");
    names.map(drop).map_err(TemplateError::expectation)
}

/// The name of the topic of logical messages.
pub fn message_topic(text: &str) -> Result<(), &'static str> {
    let names = TopicNames::of_templates("{prefix}.{schema}.{table}", text, "p", "d");
    names.map(drop).map_err(TemplateError::expectation)
}

/// The name of the topic of transactions.
pub fn transaction_topic(text: &str) -> Result<(), &'static str> {
    TopicNames::new("p").with_transactions(text, "p", "d").map(drop).map_err(TemplateError::expectation)
}

/// The name of the topic of dead letters.
pub fn dead_letter_topic(text: &str) -> Result<(), &'static str> {
    TopicNames::new("p").with_dead_letters(text, "p", "d").map(drop).map_err(TemplateError::expectation)
}

/// A period that is not 0, or `off`.
pub fn period_or_off(text: &str) -> Result<(), &'static str> {
    let period = text.parse::<Period>().ok().filter(|period| !period.0.is_zero());
    expect(text == "off" || period.is_some(), "a period like \"10s\", or \"off\"")
}

/// `host:port`
pub fn address(text: &str) -> Result<(), &'static str> {
    let parts = text.rsplit_once(':').filter(|(host, _)| !host.is_empty() && !host.contains('/'));
    let port = parts.and_then(|(_, port)| port.parse::<u16>().ok());
    expect(port.is_some_and(|port| port != 0), "host:port")
}

/// An address to listen on (port 0: any free one), or `off`.
pub fn listen(text: &str) -> Result<(), &'static str> {
    expect(text == "off" || text.to_socket_addrs().is_ok(), "address:port of this machine, or off")
}

/// The URL of an HTTP server.
pub fn url(text: &str) -> Result<(), &'static str> {
    let url = reqwest::Url::parse(text).ok();
    let fits = |url: &reqwest::Url| matches!(url.scheme(), "http" | "https") && url.has_host() && url.username() == "";
    expect(url.as_ref().is_some_and(fits), "a URL that begins with http:// or https:// and holds no credentials")
}

/// A part of the envelope, with the name behind a colon that it is to have in a flat record.
pub fn metadata(text: &str) -> Result<(), &'static str> {
    expect(
        Metadata::new(text, "").is_some(),
        "a field of the envelope, of source or of transaction, like op, source.ts_ms or lsn:position",
    )
}

/// What names begin with that are added to a flat record; may be nothing.
pub fn name_prefix(text: &str) -> Result<(), &'static str> {
    expect(
        text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')),
        "letters, digits, dots, underscores and hyphens",
    )
}

/// What stands for values that were not sent.
pub fn placeholder(text: &str) -> Result<(), &'static str> {
    expect(Placeholder::new(text).is_ok(), "a text that is not empty, or \"hex:\" with pairs of hexadecimal digits")
}

/// A glob over `schema.table`.
pub fn table_glob(text: &str) -> Result<(), &'static str> {
    expect(text.contains('.') && Glob::new(text).is_ok(), "a glob over schema.table, like public.* or *.orders")
}

/// `schema.table`
pub fn table(text: &str) -> Result<(), &'static str> {
    let parts = text.split_once('.');
    let fits = parts.is_some_and(|(schema, table)| identifier(schema).is_ok() && identifier(table).is_ok());
    expect(fits, "a table as schema.table")
}

/// `topic:partition`
pub fn partition(text: &str) -> Result<(), &'static str> {
    let parts = text.rsplit_once(':').filter(|(topic, _)| !topic.is_empty());
    let number = parts.and_then(|(_, partition)| partition.parse::<i32>().ok());
    expect(number.is_some_and(|number| number >= 0), "topic:partition, like shop.public.orders:0")
}

/// A tracing filter: a level, or levels by module.
pub fn filter(text: &str) -> Result<(), &'static str> {
    expect(
        !text.is_empty() && tracing_subscriber::EnvFilter::try_new(text).is_ok(),
        "error, warn, info, debug, trace, or a list like info,walrelay::source=debug",
    )
}

fn expect(holds: bool, expectation: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(expectation) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_takes_good_and_refuses_bad_texts() {
        let cases: [(Rule, &[&str], &[&str]); 10] = [
            (table, &["public.signals", "a.b.c"], &["signals", ".a", "a."]),
            (text, &["a"], &["", " "]),
            (slot, &["walrelay_1"], &["", "Walrelay", "a-b"]),
            (identifier, &["a b"], &[""]),
            (topic, &["shop.eu-1"], &["", "..", "a b", "é"]),
            (address, &["localhost:9092", "[::1]:9092"], &["localhost", ":9092", "a:b", "a:0", "http://a:1"]),
            (listen, &["off", "127.0.0.1:0", "[::1]:80"], &["", "9090", "256.0.0.1:1"]),
            (url, &["http://a:8081/apis", "https://a"], &["a:8081", "ftp://a", "http://u:p@a"]),
            (table_glob, &["public.*", "*.*", "a.{b,c}"], &["orders", "a.{b"]),
            (partition, &["a.b:0"], &["a.b", ":0", "a:-1", "a:x"]),
        ];
        for (number, (rule, good, bad)) in cases.into_iter().enumerate() {
            for text in good {
                assert_eq!(rule(text), Ok(()), "rule {number}, {text:?}");
            }
            for text in bad {
                assert!(rule(text).is_err(), "rule {number}, {text:?}");
            }
        }
        assert!(filter("info,walrelay=debug").is_ok());
        assert!(filter("walrelay=loud").is_err());
    }
}
