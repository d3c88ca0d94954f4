//! Health, metrics and the status page of a running half, over plain HTTP.
//!
//! | path | answer |
//! |---|---|
//! | `/livez` | 200 while the process can answer at all |
//! | `/readyz` | 200, or 503 with the reasons (JSON) |
//! | `/metrics` | Prometheus text |
//! | `/` | a status page for people |

mod page;

use std::{collections::BTreeMap, net::SocketAddr};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use prometheus::{Registry, TextEncoder};
use serde_json::json;
use tokio::net::TcpListener;

use crate::{
    pipeline::health::{Health, Snapshot},
    retry::{Classify, Severity},
};

/// The HTTP server cannot do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The configured address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Accepting connections failed.
    #[error("http server on {address} failed")]
    Serve {
        /// The bound address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl Classify for Error {
    fn severity(&self) -> Severity {
        Severity::Fatal
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Listen { .. } => Some(
                "Another process may use the port: set http.capture or http.apply to another one, to port 0 for any free \
                 one, or to off."
                    .to_owned(),
            ),
            Self::Serve { .. } => None,
        }
    }
}

/// A bound server that does not answer yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

#[derive(Clone)]
struct Shared {
    health: Health,
    registry: Registry,
}

impl Server {
    /// Binds the address; port 0 takes any free port.
    pub async fn bind(address: SocketAddr) -> Result<Self, Error> {
        let failed = |source| Error::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address })
    }

    /// The address that it listens on.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers requests until it is dropped or fails.
    pub async fn run(self, health: Health, registry: Registry) -> Result<(), Error> {
        let router = Router::new()
            .route("/", get(status))
            .route("/livez", get(async || "ok\n"))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics))
            .with_state(Shared { health, registry });
        let address = self.address;
        axum::serve(self.listener, router).await.map_err(|source| Error::Serve { address, source })
    }
}

async fn status(State(shared): State<Shared>) -> Html<String> {
    Html(page::render(&shared.health.snapshot(), &shared.registry.gather()))
}

async fn ready(State(shared): State<Shared>) -> Response {
    let now = shared.health.snapshot();
    let code = if now.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, axum_json(&readiness(&now))).into_response()
}

async fn metrics(State(shared): State<Shared>) -> Response {
    match TextEncoder::new().encode_to_string(&shared.registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn readiness(now: &Snapshot) -> serde_json::Value {
    json!({
        "ready": now.is_ready(),
        "half": now.half.as_str(),
        "phase": now.phase,
        "reasons": now.unready,
        "lag_seconds": now.lag.map(|lag| lag.as_secs_f64()),
        "silence_seconds": now.silent_for.map(|silent| silent.as_secs_f64()),
        "stopped_tables": now.stopped,
        "notes": now.notes,
        "waiting_seconds": now.waiting.iter().map(|(reason, waited)| (reason, waited.as_secs_f64())).collect::<BTreeMap<_, _>>(),
    })
}

fn axum_json(value: &serde_json::Value) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], format!("{value}\n"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::pipeline::{
        health::Half,
        metrics::{CaptureMetrics, register_health},
    };

    async fn serve() -> (SocketAddr, Health) {
        let health = Health::new(Half::Capture, Duration::from_secs(30));
        let registry = Registry::new();
        register_health(&registry, &health).unwrap();
        CaptureMetrics::new(&registry).unwrap();
        let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = server.address();
        tokio::spawn(server.run(health.clone(), registry));
        (address, health)
    }

    async fn fetch(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn readiness_follows_health_and_names_the_reasons() {
        let (address, health) = serve().await;
        let before = fetch(address, "/readyz").await;
        assert!(before.starts_with("HTTP/1.1 503 "), "{before}");
        assert!(before.contains(r#""reasons":["not started yet (starting)"]"#), "{before}");
        health.set_started();
        assert!(fetch(address, "/readyz").await.starts_with("HTTP/1.1 200 "));
        health.stop_table("public.orders", "schema refused");
        let stopped = fetch(address, "/readyz").await;
        assert!(stopped.starts_with("HTTP/1.1 503 "), "{stopped}");
        assert!(stopped.contains(r#""stopped_tables":{"public.orders":"schema refused"}"#), "{stopped}");
    }

    #[tokio::test]
    async fn the_process_is_live_whatever_its_health() {
        let (address, _health) = serve().await;
        assert!(fetch(address, "/livez").await.starts_with("HTTP/1.1 200 "));
    }

    #[tokio::test]
    async fn metrics_are_prometheus_text() {
        let (address, _health) = serve().await;
        let answer = fetch(address, "/metrics").await;
        assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
        assert!(answer.contains("# TYPE walrelay_capture_queue_bytes gauge"), "{answer}");
    }

    #[tokio::test]
    async fn a_taken_port_is_named_with_the_remedy() {
        let (address, _health) = serve().await;
        let error = Server::bind(address).await.unwrap_err();
        assert_eq!(error.to_string(), format!("cannot listen on {address}"));
        assert!(error.hint().unwrap().contains("port 0"));
    }
}
