//! What the micro benchmark has measured just before: the row of the targets through the compiled plans and through apache-avro.

use std::{fs, path::Path};

use serde_json::Value as Json;

use crate::{
    Outcome,
    report::{Measurement, Report, target_folder},
};

const APACHE_AVRO: &str = "apache-avro";

/// Adds the figures, in nanoseconds a row.
pub fn add(report: &mut Report) -> Outcome<()> {
    let ways = [
        ("orders_encode by plan", "encode", "encode an orders row", 400.0),
        ("orders in binary_encode by plan", "encode", "encode an orders row that comes in binary", 400.0),
        ("orders_decode to a borrowed row", "decode", "decode an orders row to a borrowed row", 600.0),
    ];
    for (ours, way, name, most) in ways {
        let theirs = median(&format!("orders_{way} by apache-avro"))?;
        let measurement = Measurement::new(name, median(ours)?, "ns");
        report.add(measurement.faster_than(APACHE_AVRO, theirs).against(most, APACHE_AVRO, 10.0));
    }
    let theirs = median("orders_decode by apache-avro")?;
    let event =
        Measurement::new("decode an orders row to an event with texts", median("orders_decode to an event")?, "ns");
    report.add(event.faster_than(APACHE_AVRO, theirs));
    Ok(())
}

/// Criterion's median of a benchmark.
fn median(name: &str) -> Outcome<f64> {
    let path = target_folder().join("criterion/rows").join(name).join("new/estimates.json");
    read(&path).map_err(|error| format!("{}: {error}; run `make bench`", path.display()).into())
}

fn read(path: &Path) -> Outcome<f64> {
    let estimates: Json = serde_json::from_str(&fs::read_to_string(path)?)?;
    estimates["median"]["point_estimate"].as_f64().ok_or_else(|| "it has no median".into())
}
