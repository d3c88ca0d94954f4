//! The figures as a table and as `target/bench/report.json`.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use serde::Serialize;

use crate::Outcome;

/// One figure and its references.
#[derive(Clone, Debug, Serialize)]
pub struct Measurement {
    name: String,
    value: f64,
    unit: &'static str,
    /// This figure as a multiple of the reference's, by reference.
    ratios: BTreeMap<&'static str, f64>,
    /// What is to be reached, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    /// Whether it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    met: Option<bool>,
    /// The references' own figures; the table shows them.
    #[serde(skip)]
    references: BTreeMap<&'static str, f64>,
}

impl Measurement {
    /// A figure without references.
    pub fn new(name: &str, value: f64, unit: &'static str) -> Self {
        Self {
            name: name.to_owned(),
            value: rounded(value),
            unit,
            ratios: BTreeMap::new(),
            target: None,
            met: None,
            references: BTreeMap::new(),
        }
    }

    /// Adds a reference's figure of the same unit.
    pub fn beside(mut self, reference: &'static str, value: f64) -> Self {
        self.ratios.insert(reference, (self.value / value * 1000.0).round() / 1000.0);
        self.references.insert(reference, rounded(value));
        self
    }

    /// Adds the time that a reference takes for the same, as which this one is so many times faster.
    pub fn faster_than(mut self, reference: &'static str, time: f64) -> Self {
        self.ratios.insert(reference, (time / self.value * 1000.0).round() / 1000.0);
        self.references.insert(reference, rounded(time));
        self
    }

    /// Says that the figure is to be at most so much.
    pub fn at_most(mut self, most: f64) -> Self {
        self.target = Some(format!("≤ {most} {}", self.unit));
        self.met = Some(self.value <= most);
        self
    }

    /// Says that the figure is to be at most so much, and the ratio to a reference at least so much.
    pub fn against(mut self, most: f64, reference: &'static str, ratio: f64) -> Self {
        self.target = Some(format!("≤ {most} {}, ≥ {ratio} × {reference}", self.unit));
        self.met = Some(self.value <= most && self.ratios.get(reference).is_some_and(|found| *found >= ratio));
        self
    }
}

fn rounded(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Cargo's target folder.
pub fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), Into::into)
}

/// All figures of a run.
pub struct Report {
    rows: u64,
    measurements: Vec<Measurement>,
}

impl Report {
    /// An empty report over this many rows.
    pub const fn new(rows: u64) -> Self {
        Self { rows, measurements: Vec::new() }
    }

    /// Adds a figure and shows it at once: a run takes minutes.
    pub fn add(&mut self, measurement: Measurement) {
        println!("{}: {:.0} {}", measurement.name, measurement.value, measurement.unit);
        self.measurements.push(measurement);
    }

    /// The table.
    pub fn table(&self) -> String {
        let mut text = format!("\n{:<44} {:>12} {:<9}  beside ({} rows a step)\n", "work", "walrelay", "", self.rows);
        for one in &self.measurements {
            let beside = |(name, value): (&&str, &f64)| {
                format!("{name} {value:.0} (×{:.2})", one.ratios.get(*name).copied().unwrap_or_default())
            };
            let mut references: Vec<String> = one.references.iter().map(beside).collect();
            if let (Some(target), Some(met)) = (&one.target, one.met) {
                references.push(format!("target {target}: {}", if met { "met" } else { "missed" }));
            }
            writeln!(text, "{:<44} {:>12.0} {:<9}  {}", one.name, one.value, one.unit, references.join(", "))
                .expect("writing to a string cannot fail");
        }
        text
    }

    /// Writes the report.
    pub fn write(&self) -> Outcome<()> {
        let folder = target_folder().join("bench");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("report.json"), serde_json::to_string_pretty(&self.measurements)?)?;
        Ok(())
    }
}
