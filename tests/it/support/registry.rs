//! A look into the registry, and what an operator sets there.

use serde_json::{Value as Json, json};

use super::Scenario;

fn client() -> reqwest::Client {
    // Fails only if the process has a provider already, which is then the one to use.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}

/// Sets the compatibility level of a subject.
pub async fn set_compatibility(scenario: &Scenario, subject: &str, level: &str) {
    let url = format!("{}/config/{subject}", scenario.parts.registry);
    let body = json!({ "compatibility": level });
    let answer = client().put(&url).json(&body).send().await.expect("the registry answers");
    assert!(answer.status().is_success(), "{url}: {}", answer.status());
}

/// The newest schema of a subject.
pub async fn newest_schema(scenario: &Scenario, subject: &str) -> Json {
    let url = format!("{}/subjects/{subject}/versions/latest", scenario.parts.registry);
    let answer = client().get(&url).send().await.expect("the registry answers");
    let answer: Json = answer.json().await.expect("JSON");
    serde_json::from_str(answer["schema"].as_str().expect("a schema")).expect("a schema in JSON")
}

/// The schema that has an id.
pub async fn schema_of(scenario: &Scenario, id: u32) -> Json {
    let url = format!("{}/schemas/ids/{id}", scenario.parts.registry);
    let answer = client().get(&url).send().await.expect("the registry answers");
    let answer: Json = answer.json().await.expect("JSON");
    serde_json::from_str(answer["schema"].as_str().expect("a schema")).expect("a schema in JSON")
}

/// How many versions a subject has.
pub async fn versions(scenario: &Scenario, subject: &str) -> usize {
    let url = format!("{}/subjects/{subject}/versions", scenario.parts.registry);
    let answer = client().get(&url).send().await.expect("the registry answers");
    let answer: Json = answer.json().await.expect("JSON");
    answer.as_array().expect("a list of versions").len()
}
