//! `walrelay check`: what was found, as a table or as JSON.

use std::{fmt::Write as _, io::IsTerminal as _};

use serde_json::json;

use super::{output, settings};
use crate::{
    config::{CheckConfig, Delivery, Layers, RecordsKind},
    error::{Error, Exit},
    kafka::Transactional,
    pipeline::{
        capture::transactional_id,
        check::{self, CheckDeps, Finding, KafkaDeps, SourceDeps, TargetDeps, Verdict},
    },
    source::publication::TablePatterns,
    telemetry,
};

/// Looks and prints; a problem makes the exit code [`Exit::Differs`].
pub(super) async fn run(layers: &Layers, as_json: bool) -> Result<Exit, Error> {
    let config = CheckConfig::new(layers).map_err(Error::usage)?;
    telemetry::init(config.log.format, "error");
    let findings = check::run(&deps(&config)?).await;
    let text = if as_json { json_text(&findings) } else { table(&findings, std::io::stdout().is_terminal()) };
    output::print(&text)?;
    Ok(if check::worst(&findings) == Verdict::Problem { Exit::Differs } else { Exit::Success })
}

fn deps(config: &CheckConfig) -> Result<CheckDeps, Error> {
    let capture = &config.capture;
    let database = config.source.as_ref().map(|source| source.database.as_str());
    let names = settings::topic_names(&config.kafka, database);
    let source = match &config.source {
        Some(source) => Some(SourceDeps {
            settings: source.clone(),
            silence: config.silence,
            slot: capture.slot.clone(),
            failover: settings::failover(capture),
            publication: settings::publication(capture).map_err(Error::usage)?,
            masks: settings::masks(capture).map_err(Error::usage)?,
        }),
        None => None,
    };
    let target = match &config.target {
        Some(target) => Some(TargetDeps {
            settings: target.clone(),
            bookkeeping: config.apply.bookkeeping_schema.clone(),
            schemas: config.apply.schemas.clone(),
            tables: TablePatterns::new(&config.apply.include, &config.apply.exclude).map_err(Error::usage)?,
            names: names.clone(),
        }),
        None => None,
    };
    let topics = settings::topics(&config.kafka).map_err(Error::usage)?;
    let kafka = (!config.kafka.brokers.is_empty()).then(|| KafkaDeps {
        settings: settings::kafka(&config.kafka),
        prefix: config.kafka.prefix.clone(),
        names,
        topics,
        create: config.kafka.topics.create,
        transactional: (capture.delivery == Delivery::ExactlyOnce).then(|| Transactional {
            id: transactional_id(&config.kafka.prefix, &capture.slot),
            timeout: capture.transaction_timeout.0,
        }),
        bad_rows: settings::bad_rows(capture),
        signal_topic: capture.signal_topic.clone(),
        flat: config.format.records == RecordsKind::Flat,
        content: settings::content(&config.format),
    });
    let registry = (!config.registry.urls.is_empty()).then(|| settings::registry(&config.registry));
    Ok(CheckDeps { source, kafka, registry, target })
}

fn count(findings: &[Finding], verdict: Verdict) -> usize {
    findings.iter().filter(|finding| finding.verdict == verdict).count()
}

fn json_text(findings: &[Finding]) -> String {
    let document = json!({
        "problems": count(findings, Verdict::Problem),
        "warnings": count(findings, Verdict::Warning),
        "findings": findings,
    });
    format!("{document:#}\n")
}

/// One line per finding, its remedy below it, and a count.
fn table(findings: &[Finding], colours: bool) -> String {
    let colours = colours && telemetry::colours_wanted();
    let width = findings.iter().map(|finding| finding.subject.chars().count()).max().unwrap_or(0).min(40);
    let mut text = String::new();
    for finding in findings {
        let word = painted(finding.verdict, colours);
        let (part, subject, message) = (finding.part.as_str(), &finding.subject, &finding.message);
        writeln!(text, "{word}  {part:8}  {subject:width$}  {message}").expect("writing to a string cannot fail");
        if let Some(remedy) = &finding.remedy {
            writeln!(text, "{:19}fix: {remedy}", "").expect("writing to a string cannot fail");
        }
    }
    let summary = match (findings.len(), count(findings, Verdict::Problem), count(findings, Verdict::Warning)) {
        (0, ..) => "nothing is configured: no part has an address".to_owned(),
        (_, 0, 0) => "everything is as it should be".to_owned(),
        (_, problems, warnings) => format!("problems: {problems}, warnings: {warnings}"),
    };
    format!("{text}\n{summary}\n")
}

fn painted(verdict: Verdict, colours: bool) -> String {
    let (word, colour) = match verdict {
        Verdict::Ok => ("ok     ", 32),
        Verdict::Warning => ("warning", 33),
        Verdict::Problem => ("problem", 31),
    };
    if colours { format!("\x1b[{colour}m{word}\x1b[0m") } else { word.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::check::Part;

    fn finding(verdict: Verdict, remedy: Option<&str>) -> Finding {
        Finding {
            part: Part::Source,
            subject: "wal_level".to_owned(),
            verdict,
            message: "is replica".to_owned(),
            remedy: remedy.map(str::to_owned),
        }
    }

    #[test]
    fn the_table_shows_the_remedy_and_counts() {
        let text = table(&[finding(Verdict::Problem, Some("ALTER SYSTEM")), finding(Verdict::Ok, None)], false);
        assert_eq!(
            text,
            "problem  source    wal_level  is replica\n                   fix: ALTER SYSTEM\n\
             ok       source    wal_level  is replica\n\nproblems: 1, warnings: 0\n"
        );
        assert!(table(&[], false).contains("nothing is configured"));
    }

    #[test]
    fn json_holds_counts_and_findings() {
        let document: serde_json::Value = serde_json::from_str(&json_text(&[finding(Verdict::Warning, None)])).unwrap();
        assert_eq!(document["warnings"], 1);
        assert_eq!(document["findings"][0]["verdict"], "warning");
        assert_eq!(document["findings"][0]["part"], "source");
    }
}
