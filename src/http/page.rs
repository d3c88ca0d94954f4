//! The status page: one HTML document without scripts or foreign assets that reloads itself.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    time::Duration,
};

use prometheus::proto::{Metric, MetricFamily};

use crate::{
    lsn::Lsn,
    pipeline::{
        health::Snapshot,
        metrics::{
            APPLY_BYTES, APPLY_EVENTS, APPLY_OFFSET, APPLY_POSITION, APPLY_QUEUE, APPLY_SKIPPED, CAPTURE_BYTES,
            CAPTURE_EVENTS, CAPTURE_IN_FLIGHT, CAPTURE_POSITION, CAPTURE_QUEUE, CAPTURE_SNAPSHOT_ROWS, POSITIONS,
        },
    },
};

const STYLE: &str = "\
:root{color-scheme:light dark;--line:#8884;--good:#1a7f37;--bad:#cf222e}\
@media(prefers-color-scheme:dark){:root{--good:#3fb950;--bad:#ff7b72}}\
body{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.4rem;margin:0 0 .25rem}h2{font-size:1.05rem;margin:2rem 0 .5rem}\
table{border-collapse:collapse;width:100%}td,th{padding:.3rem .75rem .3rem 0;text-align:left;border-bottom:1px solid var(--line)}\
table.facts{width:auto;min-width:26rem}th{font-weight:600}.n{text-align:right;font-variant-numeric:tabular-nums}\
.good{color:var(--good)}.bad{color:var(--bad)}code{font:13px ui-monospace,monospace}footer{margin-top:2rem;opacity:.7}";

/// The envelope's operations with the words for people.
const OPS: [(&str, &str); 6] =
    [("r", "read"), ("c", "created"), ("u", "updated"), ("d", "deleted"), ("t", "truncated"), ("m", "messages")];

/// Renders the page.
pub(super) fn render(now: &Snapshot, families: &[MetricFamily]) -> String {
    let page = Page { now, families };
    let mut html = String::new();
    page.write(&mut html).expect("writing to a string cannot fail");
    html
}

struct Page<'a> {
    now: &'a Snapshot,
    families: &'a [MetricFamily],
}

impl Page<'_> {
    fn write(&self, out: &mut String) -> fmt::Result {
        let half = self.now.half;
        write!(
            out,
            "<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
             <meta http-equiv=refresh content=2><title>walrelay {half}</title><style>{STYLE}</style></head><body>"
        )?;
        self.state(out)?;
        self.stopped(out)?;
        self.tables(out)?;
        self.positions(out)?;
        self.partitions(out)?;
        write!(
            out,
            "<footer>walrelay {} &middot; up {} &middot; <a href=/readyz>readyz</a> &middot; <a href=/metrics>metrics</a>\
             </footer></body></html>",
            env!("CARGO_PKG_VERSION"),
            duration(self.now.uptime)
        )
    }

    fn state(&self, out: &mut String) -> fmt::Result {
        let (class, word) = if self.now.is_ready() { ("good", "ready") } else { ("bad", "not ready") };
        write!(out, "<h1>walrelay {}: <span class={class}>{word}</span></h1>", self.now.half)?;
        for reason in self.now.unready.iter().chain(&self.now.notes) {
            write!(out, "<div class=bad>{}</div>", Escaped(reason))?;
        }
        out.push_str("<h2>State</h2><table class=facts>");
        fact(out, "Phase", &self.now.phase)?;
        fact(out, "Lag behind the commit time", &self.now.lag.map_or_else(|| "unknown".to_owned(), duration))?;
        let heard =
            self.now.silent_for.map_or_else(|| "never".to_owned(), |silent| format!("{} ago", duration(silent)));
        fact(out, "Last sign of life", &heard)?;
        for (name, label) in [(CAPTURE_QUEUE, "Bytes in queues"), (APPLY_QUEUE, "Bytes in queues")] {
            if let Some(bytes) = self.single(name) {
                fact(out, label, &size(bytes))?;
            }
        }
        let counts =
            [(CAPTURE_IN_FLIGHT, "Transactions in flight"), (APPLY_SKIPPED, "Events skipped as applied already")];
        for (name, label) in counts {
            if let Some(count) = self.single(name) {
                fact(out, label, &whole(count))?;
            }
        }
        out.push_str("</table>");
        Ok(())
    }

    fn stopped(&self, out: &mut String) -> fmt::Result {
        if self.now.stopped.is_empty() {
            return Ok(());
        }
        out.push_str("<h2 class=bad>Stopped tables</h2><table><tr><th>Table<th>Reason</tr>");
        for (table, reason) in &self.now.stopped {
            write!(out, "<tr><td><code>{}</code><td>{}</tr>", Escaped(table), Escaped(reason))?;
        }
        out.push_str("</table>");
        Ok(())
    }

    fn tables(&self, out: &mut String) -> fmt::Result {
        let mut rows: BTreeMap<&str, BTreeMap<&str, f64>> = BTreeMap::new();
        for metric in self.metrics(CAPTURE_EVENTS).chain(self.metrics(APPLY_EVENTS)) {
            *rows.entry(label(metric, "table")).or_default().entry(label(metric, "op")).or_default() += value(metric);
        }
        let sums = [("bytes", CAPTURE_BYTES), ("bytes", APPLY_BYTES), ("snapshot", CAPTURE_SNAPSHOT_ROWS)];
        for (column, name) in sums {
            for metric in self.metrics(name) {
                *rows.entry(label(metric, "table")).or_default().entry(column).or_default() += value(metric);
            }
        }
        if rows.is_empty() {
            return Ok(());
        }
        out.push_str("<h2>Tables since the start</h2><table><tr><th>Table");
        for (_, word) in OPS {
            write!(out, "<th class=n>{word}")?;
        }
        out.push_str("<th class=n>bytes</tr>");
        for (table, cells) in rows {
            write!(out, "<tr><td><code>{}</code>", Escaped(table))?;
            for (op, _) in OPS {
                write!(out, "<td class=n>{}", whole(cells.get(op).copied().unwrap_or_default()))?;
            }
            write!(out, "<td class=n>{}</tr>", size(cells.get("bytes").copied().unwrap_or_default()))?;
        }
        out.push_str("</table>");
        Ok(())
    }

    fn positions(&self, out: &mut String) -> fmt::Result {
        let positions: BTreeMap<_, _> =
            self.metrics(CAPTURE_POSITION).map(|metric| (label(metric, "position"), value(metric))).collect();
        if positions.is_empty() {
            return Ok(());
        }
        out.push_str("<h2>Positions in the WAL</h2><table class=facts>");
        for name in POSITIONS {
            let text =
                positions.get(name).filter(|lsn| **lsn > 0.0).map_or_else(|| "unknown".to_owned(), |at| lsn(*at));
            write!(out, "<tr><td>{name}<td class=n><code>{text}</code></tr>")?;
        }
        out.push_str("</table>");
        Ok(())
    }

    fn partitions(&self, out: &mut String) -> fmt::Result {
        let place = |metric| (label(metric, "topic"), label(metric, "partition").parse::<i32>().unwrap_or(-1));
        let offsets: BTreeMap<_, _> = self.metrics(APPLY_OFFSET).map(|metric| (place(metric), value(metric))).collect();
        let marks: BTreeMap<_, _> = self.metrics(APPLY_POSITION).map(|metric| (place(metric), value(metric))).collect();
        if offsets.is_empty() {
            return Ok(());
        }
        out.push_str(
            "<h2>Partitions</h2><table><tr><th>Topic<th class=n>partition<th class=n>applied commit LSN<th class=n>next \
             offset</tr>",
        );
        for ((topic, partition), offset) in offsets {
            let mark = marks.get(&(topic, partition)).copied().unwrap_or_default();
            write!(
                out,
                "<tr><td><code>{}</code><td class=n>{partition}<td class=n><code>{}</code><td class=n>{}</tr>",
                Escaped(topic),
                lsn(mark),
                whole(offset)
            )?;
        }
        out.push_str("</table>");
        Ok(())
    }

    fn metrics<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Metric> {
        self.families.iter().filter(move |family| family.name() == name).flat_map(MetricFamily::get_metric)
    }

    fn single(&self, name: &str) -> Option<f64> {
        self.metrics(name).next().map(value)
    }
}

fn fact(out: &mut String, name: &str, text: &str) -> fmt::Result {
    write!(out, "<tr><td>{name}<td class=n>{}</tr>", Escaped(text))
}

fn label<'a>(metric: &'a Metric, name: &str) -> &'a str {
    metric.get_label().iter().find(|pair| pair.name() == name).map_or("", |pair| pair.value())
}

/// A metric is a counter or a gauge; what it is not reads as zero.
fn value(metric: &Metric) -> f64 {
    metric.get_counter().get_value() + metric.get_gauge().get_value()
}

/// The page shows Prometheus's floats as the whole numbers that they came from.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float to integer cast saturates")]
const fn integer(value: f64) -> u64 {
    value as u64
}

/// A whole number with its thousands apart.
fn whole(value: f64) -> String {
    let digits = integer(value).to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

fn size(bytes: f64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut amount = bytes;
    let mut units = UNITS.iter();
    let mut unit = units.next();
    while amount >= 1024.0 && units.len() > 0 {
        amount /= 1024.0;
        unit = units.next();
    }
    let unit = unit.unwrap_or(&"B");
    if *unit == "B" { format!("{amount:.0} B") } else { format!("{amount:.1} {unit}") }
}

fn lsn(value: f64) -> String {
    Lsn(integer(value)).to_string()
}

fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 => format!("{} ms", time.as_millis()),
        1..60 => format!("{:.1} s", time.as_secs_f64()),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// Text inside an HTML element.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '&' => f.write_str("&amp;")?,
                '"' => f.write_str("&quot;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;
    use crate::{
        event::Op,
        lsn::Position,
        pipeline::{
            health::{Half, Health},
            metrics::{ApplyMetrics, CaptureMetrics, lsn_value},
        },
    };

    #[test]
    fn capture_shows_state_tables_and_positions_and_escapes_names() {
        let registry = Registry::new();
        let metrics = CaptureMetrics::new(&registry).unwrap();
        metrics.table("public.<b>").events(Op::Create).inc_by(1_234_567);
        metrics.received.set(lsn_value("16/B374D848".parse().unwrap()));
        let health = Health::new(Half::Capture, Duration::from_secs(9));
        health.set_started();
        health.stop_table("public.orders", "column \"a\" & more");
        let html = render(&health.snapshot(), &registry.gather());
        for part in [
            "walrelay capture: <span class=bad>not ready</span>",
            "<code>public.&lt;b&gt;</code>",
            "1\u{202f}234\u{202f}567",
            "<td>received<td class=n><code>16/B374D848</code>",
            "<td>flush<td class=n><code>unknown</code>",
            "<td>column &quot;a&quot; &amp; more",
        ] {
            assert!(html.contains(part), "{part} is not in {html}");
        }
    }

    #[test]
    fn apply_shows_its_partitions_in_numeric_order() {
        let registry = Registry::new();
        let metrics = ApplyMetrics::new(&registry).unwrap();
        for partition in [10, 2] {
            metrics.applied("t", partition, Position { epoch: 0, commit: Lsn(255), ordinal: 1 }, 7);
        }
        let html = render(&Health::new(Half::Apply, Duration::from_secs(9)).snapshot(), &registry.gather());
        let two = html.find("<td class=n>2<td class=n><code>0/FF</code><td class=n>7").unwrap();
        let ten = html.find("<td class=n>10<td class=n><code>0/FF</code><td class=n>7").unwrap();
        assert!(two < ten);
    }

    #[test]
    fn amounts_are_readable() {
        assert_eq!(size(1023.0), "1023 B");
        assert_eq!(size(1536.0), "1.5 KiB");
        assert_eq!(size(1e20), "90949470.2 TiB");
        assert_eq!(duration(Duration::from_millis(999)), "999 ms");
        assert_eq!(duration(Duration::from_secs(3_700)), "1 h 1 min");
        assert_eq!(whole(999.0), "999");
    }
}
