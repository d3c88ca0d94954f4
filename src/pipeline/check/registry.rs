//! The schema registry: whether it answers and accepts the credentials.

use super::finding::{Finding, Findings, Part};
use crate::registry::{Registry, RegistryError, RegistrySettings};

/// No registry gives out ids so high.
const UNUSED_ID: u32 = 2_147_483_647;

pub(super) async fn check(settings: &RegistrySettings) -> Vec<Finding> {
    let mut findings = Findings::new(Part::Registry);
    for url in &settings.urls {
        let one = RegistrySettings { urls: vec![url.clone()], rounds: 1, ..settings.clone() };
        let answer = match Registry::new(&one) {
            Ok(registry) => registry.schema_by_id(UNUSED_ID).await.map(drop),
            Err(error) => Err(error),
        };
        match answer {
            Ok(()) | Err(RegistryError::UnknownId { .. }) => findings.ok(url, "answers and accepts the credentials"),
            Err(error) => findings.failed(url, &error),
        }
    }
    findings.into_list()
}
