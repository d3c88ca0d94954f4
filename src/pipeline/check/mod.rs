//! `walrelay check`: looks at every prerequisite and says what is wrong and what fixes it. It changes nothing.

mod deps;
mod failover;
mod finding;
mod registry;
mod source;
mod tables;
mod target;
mod topics;

pub use self::{
    deps::{CheckDeps, KafkaDeps, SourceDeps, TargetDeps},
    finding::{Finding, Part, Verdict},
};

/// Looks at every configured part.
pub async fn run(deps: &CheckDeps) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut tables = Vec::new();
    if let Some(deps) = &deps.source {
        let (findings, captured) = source::check(deps).await;
        found.extend(findings);
        tables = captured;
    }
    if let Some(deps) = &deps.kafka {
        found.extend(topics::check(deps, &tables).await);
    }
    if let Some(settings) = &deps.registry {
        found.extend(registry::check(settings).await);
    }
    if let Some(deps) = &deps.target {
        found.extend(target::check(deps, &tables).await);
    }
    found
}

/// The worst verdict; [`Verdict::Ok`] when nothing was found.
#[must_use]
pub fn worst(findings: &[Finding]) -> Verdict {
    findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok)
}
