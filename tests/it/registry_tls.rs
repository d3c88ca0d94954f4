//! The registry behind TLS, a client certificate and basic authentication, as an ingress in front of it demands them.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy, copy_bidirectional, sink},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use crate::support::{LIMIT, Scenario, await_condition};

const USER: &str = "cdc";
const PASSWORD: &str = "s3cret";
const IDENTITY: [(&str, &str); 2] = [("cert", "CLIENT_CERT"), ("key", "CLIENT_KEY")];

/// A file that `dev/parts` made, by the name of its variable.
fn file(variable: &str) -> PathBuf {
    let environment = std::env::var("WALRELAY_DEV_ENV").expect("WALRELAY_DEV_ENV names the file of addresses");
    let text = fs::read_to_string(environment).expect("the file of addresses can be read");
    let prefix = format!("WALRELAY_DEV_{variable}=");
    text.lines().find_map(|line| line.strip_prefix(&prefix)).expect("the parts have certificates").into()
}

/// A front of the registry; it ends with the test's runtime.
struct Front {
    url: String,
    /// Requests that were let through.
    passed: Arc<AtomicU32>,
}

impl Front {
    async fn start(registry: &str) -> Self {
        let (authority, path) = registry.strip_prefix("http://").unwrap().split_once('/').unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}/{path}", listener.local_addr().unwrap().port());
        let passed = Arc::new(AtomicU32::new(0));
        let (acceptor, behind, count) = (TlsAcceptor::from(tls()), authority.to_owned(), Arc::clone(&passed));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, behind, count) = (acceptor.clone(), behind.clone(), Arc::clone(&count));
                // A client that refuses the certificate, or has none, ends the handshake.
                tokio::spawn(async move {
                    match acceptor.accept(stream).into_fallible().await {
                        Ok(stream) => drop(serve(stream, &behind, &count).await),
                        Err((_, stream)) => drop(linger(stream).await),
                    }
                });
            }
        });
        Self { url, passed }
    }

    fn passed(&self) -> u32 {
        self.passed.load(Ordering::Relaxed)
    }
}

/// The parts' own certificate, and the demand for one of their authority.
fn tls() -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let authority = file("CA");
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&authority).unwrap()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
    let chain = vec![CertificateDer::from_pem_file(authority.with_file_name("server.crt")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(authority.with_file_name("server.key")).unwrap();
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(config.with_client_cert_verifier(verifier).with_single_cert(chain, key).unwrap())
}

/// Reads what a refused client has sent: to close before that resets the connection, and the client may never read the alert that says
/// why (RFC 1122, 4.2.2.13).
async fn linger(mut client: TcpStream) -> std::io::Result<()> {
    client.shutdown().await?;
    copy(&mut client, &mut sink()).await.map(drop)
}

/// One request per connection, so that every one shows its credentials.
async fn serve(
    mut client: tokio_rustls::server::TlsStream<TcpStream>,
    behind: &str,
    passed: &AtomicU32,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let wanted = format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
    let is_allowed = text
        .lines()
        .filter_map(|line| line.split_once(": "))
        .any(|(name, value)| name.eq_ignore_ascii_case("authorization") && value == wanted);
    if !is_allowed {
        client.write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await?;
        return client.shutdown().await;
    }
    passed.fetch_add(1, Ordering::Relaxed);
    let mut server = TcpStream::connect(behind).await?;
    server.write_all(format!("{}\r\nconnection: close\r\n\r\n", text.trim_end()).as_bytes()).await?;
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}

/// A source with one row, and settings that the front accepts but for the client certificate.
async fn scenario(name: &str) -> (Scenario, Front) {
    let mut scenario = Scenario::new(name).await;
    scenario.source("CREATE TABLE things (id int PRIMARY KEY); INSERT INTO things VALUES (1)").await;
    let front = Front::start(&scenario.parts.registry).await;
    scenario.settings.set("registry.urls", vec![front.url.clone()]);
    scenario.settings.set("registry.username", USER);
    scenario.settings.set("registry.password", PASSWORD);
    set_files(&mut scenario, &[("ca", "CA")]);
    (scenario, front)
}

fn set_files(scenario: &mut Scenario, files: &[(&str, &str)]) {
    for (key, variable) in files {
        scenario.settings.set(&format!("registry.{key}"), file(variable).to_str().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_arrive_through_a_registry_that_demands_tls_a_client_certificate_and_a_password() {
    let (mut scenario, front) = scenario("registry_tls").await;
    set_files(&mut scenario, &IDENTITY);
    let _capture = scenario.capture().await;
    await_condition("capture has registered schemas", LIMIT, async || front.passed() > 1).await;
    let registered = front.passed();
    let _apply = scenario.apply().await;
    scenario.source("ALTER TABLE things ADD COLUMN t text; INSERT INTO things VALUES (2, 'two')").await;
    scenario.await_equal("things").await;
    assert!(front.passed() > registered, "apply has read schemas");
    scenario.verify();
    assert!(!scenario.log_text("capture").contains(PASSWORD), "a secret in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_authority_or_client_certificate_of_the_registry_is_told_with_its_remedy() {
    let (mut scenario, front) = scenario("registry_tls").await;
    told(&scenario, &front, "CertificateRequired", &["registry.cert"]).await;
    set_files(&mut scenario, &[("ca", "STRANGER_CA")]);
    told(&scenario, &front, "UnknownIssuer", &["UnknownIssuer", "registry.ca"]).await;

    set_files(&mut scenario, &[("ca", "CA")]);
    set_files(&mut scenario, &IDENTITY);
    scenario.settings.set("registry.password", "wrong");
    let outcome = scenario.run_to_end("capture").await;
    assert_eq!(outcome.code, Some(3), "{}", outcome.text);
    for text in [&front.url, "401", "registry.password"] {
        assert!(outcome.text.contains(text), "{text} is not in\n{}", outcome.text);
    }
    assert_eq!(front.passed(), 0);
}

/// Capture tells of the registry for this reason, waits for it, and `check` finds the same: it asks once, and where the front's alert comes before
/// the request is sent, the HTTP client tells of no alert.
async fn told(scenario: &Scenario, front: &Front, reason: &str, texts: &[&str]) {
    let mut capture = scenario.spawn_capture();
    scenario.await_log(&mut capture, reason).await;
    let outcome = tokio::task::block_in_place(|| scenario.run(&["check"]));
    assert_eq!(outcome.code, Some(1), "{}", outcome.text);
    for said in [scenario.log_text("capture"), outcome.text] {
        for text in texts.iter().chain(&[front.url.as_str()]) {
            assert!(said.contains(text), "{text} is not in\n{said}");
        }
    }
}
