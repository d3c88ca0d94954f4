//! Reads a half's health and metrics as an operator's tools do: over HTTP.

use std::{collections::BTreeMap, io, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const LIMIT: Duration = Duration::from_secs(2);

/// Status and body of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// HTTP status.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// Fetches a page. HTTP/1.0 keeps it simple: the answer ends where the connection ends.
pub async fn fetch(address: &str, path: &str) -> io::Result<Page> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        io::Result::Ok(answer)
    };
    let answer = tokio::time::timeout(LIMIT, exchange).await.map_err(|_| io::ErrorKind::TimedOut)??;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
    let status = head.split_whitespace().nth(1).and_then(|code| code.parse().ok());
    Ok(Page { status: status.ok_or(io::ErrorKind::InvalidData)?, body: body.to_owned() })
}

/// Whether `/readyz` says ready.
pub async fn is_ready(address: &str) -> bool {
    matches!(fetch(address, "/readyz").await, Ok(Page { status: 200, .. }))
}

/// The samples of one scrape.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples(Vec<Sample>);

#[derive(Clone, Debug, PartialEq)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Samples {
    /// Scrapes `/metrics`.
    pub async fn fetch(address: &str) -> io::Result<Self> {
        Ok(Self::parse(&fetch(address, "/metrics").await?.body))
    }

    /// Reads Prometheus' text format; lines that are none of its samples are passed over.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        Self(text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect())
    }

    /// Sum of a metric over all its labels; 0 where there is none (the sum of no floats is −0).
    #[must_use]
    pub fn sum(&self, name: &str) -> f64 {
        self.0.iter().filter(|sample| sample.name == name).fold(0.0, |sum, sample| sum + sample.value)
    }

    /// Sum of a metric where a label has this value.
    #[must_use]
    pub fn sum_where(&self, name: &str, label: &str, value: &str) -> f64 {
        let fits = |sample: &&Sample| sample.name == name && sample.labels.get(label).is_some_and(|is| is == value);
        self.0.iter().filter(fits).fold(0.0, |sum, sample| sum + sample.value)
    }

    /// Sum of a metric by the values of a label.
    #[must_use]
    pub fn sum_by(&self, name: &str, label: &str) -> BTreeMap<String, f64> {
        let mut sums = BTreeMap::new();
        for sample in self.0.iter().filter(|sample| sample.name == name) {
            if let Some(value) = sample.labels.get(label) {
                *sums.entry(value.clone()).or_default() += sample.value;
            }
        }
        sums
    }
}

/// `name{label="value",…} number`
fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.trim().rsplit_once(' ')?;
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    Some(Sample { name: name.to_owned(), labels: parse_labels(labels), value: value.parse().ok()? })
}

fn parse_labels(text: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once("=\"") {
        let mut value = String::new();
        let mut characters = after.char_indices();
        let mut end = after.len();
        while let Some((at, character)) = characters.next() {
            match character {
                '\\' => value.extend(characters.next().map(|(_, escaped)| if escaped == 'n' { '\n' } else { escaped })),
                '"' => {
                    end = at + 1;
                    break;
                }
                _ => value.push(character),
            }
        }
        labels.insert(name.trim_start_matches(',').to_owned(), value);
        rest = after.get(end..).unwrap_or_default();
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_by_label() {
        let text = "# HELP e x\ne{op=\"c\",table=\"a.b\"} 3\ne{op=\"u\",table=\"a.b\"} 4\ne{op=\"c\",table=\"q\\\"}\"} 1\nlag 0.5\n";
        let samples = Samples::parse(text);
        assert!((samples.sum("e") - 8.0).abs() < f64::EPSILON);
        assert!((samples.sum_where("e", "op", "c") - 4.0).abs() < f64::EPSILON);
        let tables: Vec<_> = samples.sum_by("e", "table").into_keys().collect();
        assert_eq!(tables, ["a.b", "q\"}"]);
        assert!((samples.sum("lag") - 0.5).abs() < f64::EPSILON);
    }
}
