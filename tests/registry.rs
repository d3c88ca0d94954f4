//! The registry client against a scripted HTTP peer on a real socket.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test says with a panic what is wrong")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use walrelay::{
    avro::store::SchemaStore,
    registry::{Registry, RegistryError, RegistrySettings},
    retry::{Classify, Severity},
};

const SCHEMA: &str = r#"{"type":"record","name":"Key","fields":[]}"#;

/// What the peer does with a request.
enum Answer {
    Status(u16, &'static str),
    /// Nothing, until the client gives up.
    Silence,
}

/// A request as it arrived: first line, headers, body.
#[derive(Clone, Debug)]
struct Request {
    line: String,
    headers: String,
    body: String,
}

/// Answers its connections in order; ends when the script does.
struct Peer {
    url: String,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Peer {
    fn new(script: Vec<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let requests = Arc::clone(&seen);
        thread::spawn(move || {
            for answer in script {
                let Ok((mut stream, _)) = listener.accept() else { return };
                requests.lock().unwrap().push(read(&stream));
                match answer {
                    Answer::Status(status, body) => {
                        let head = format!("HTTP/1.1 {status} Scripted\r\ncontent-type: application/json\r\n");
                        let length = body.len();
                        write!(stream, "{head}content-length: {length}\r\nconnection: close\r\n\r\n{body}").unwrap();
                    }
                    Answer::Silence => drop(stream.read(&mut [0])),
                }
            }
        });
        Self { url, seen }
    }

    fn lines(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(|request| request.line.clone()).collect()
    }
}

fn read(stream: &TcpStream) -> Request {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).unwrap() > 0);
    }
    let (line, headers) = head.split_once("\r\n").unwrap();
    let headers = headers.to_lowercase();
    let length = headers.lines().find_map(|header| header.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.trim().parse().unwrap())];
    reader.read_exact(&mut body).unwrap();
    Request { line: line.to_owned(), headers, body: String::from_utf8(body).unwrap() }
}

fn settings(urls: &[&str]) -> RegistrySettings {
    RegistrySettings {
        urls: urls.iter().map(|url| (*url).to_owned()).collect(),
        basic_auth: None,
        ca: None,
        identity: None,
        timeout: Duration::from_secs(5),
        auto_register: true,
        rounds: 3,
    }
}

fn client(urls: &[&str]) -> Registry {
    Registry::new(&settings(urls)).unwrap()
}

/// An address that refuses connections.
fn dead() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[tokio::test]
async fn a_schema_is_registered_once_and_then_known() {
    let peer = Peer::new(vec![Answer::Status(200, r#"{"id":7}"#)]);
    let registry = client(&[&peer.url]);
    assert_eq!(registry.register("t-key", SCHEMA).await.unwrap(), 7);
    assert_eq!(registry.clone().register("t-key", SCHEMA).await.unwrap(), 7);
    assert_eq!(peer.lines(), ["POST /subjects/t-key/versions HTTP/1.1"]);
    let body: serde_json::Value = serde_json::from_str(&peer.seen.lock().unwrap()[0].body).unwrap();
    assert_eq!(body["schema"], SCHEMA);
}

#[tokio::test]
async fn a_subject_that_somebody_else_creates_at_the_moment_is_asked_for_again() {
    let apicurio = [
        r#"{"message":"An artifact with ID 't-value' in group 'null' already exists.","error_code":409}"#,
        r#"{"message":"An artifact version 'null' for artifact ID 't-value' in group 'null' already exists.","error_code":0}"#,
    ];
    for answer in apicurio {
        let peer = Peer::new(vec![Answer::Status(409, answer), Answer::Status(200, r#"{"id":7}"#)]);
        let registry = client(&[&peer.url]);
        let error = registry.register_schema("t-value", SCHEMA).await.unwrap_err();
        assert_eq!(error.severity(), Severity::Transient, "{error}");
        assert_eq!(registry.register_schema("t-value", SCHEMA).await.unwrap(), 7);
    }
}

/// A label of an enum, a default or a documentation may hold any words, and Confluent's registry quotes the whole schema.
#[tokio::test]
async fn an_incompatible_schema_that_speaks_of_what_already_exists_is_incompatible_all_the_same() {
    let confluent = r#"{"error_code":409,"message":"Schema being registered is incompatible with an earlier schema for subject \"t-value\", details: [{errorType:'READER_FIELD_MISSING_DEFAULT_VALUE', description:'The field 'b' at path '/fields/1' in the new schema has no default value and is missing in the old schema', additionalInfo:'b'}, {oldSchemaVersion: 1}, {oldSchema: '{\"type\":\"record\",\"name\":\"Key\",\"doc\":\"An artifact with this id already exists.\",\"fields\":[]}'}, {validateFields: 'false', compatibility: 'BACKWARD'}]"}"#;
    let apicurio = r#"{"message":"Incompatible artifact: already exists-value [AVRO], num of incompatible diffs: {1}, list of diff types: [[already exists] at /fields/0/type/symbols] Causes: [already exists] at /fields/0/type/symbols","error_code":0}"#;
    for answer in [confluent, apicurio] {
        let peer = Peer::new(vec![
            Answer::Status(409, answer),
            Answer::Status(200, r#"{"subject":"t-value","version":1,"id":9,"schema":"\"string\""}"#),
        ]);
        let error = client(&[&peer.url]).register_schema("t-value", SCHEMA).await.unwrap_err();
        assert!(matches!(error, RegistryError::Incompatible { .. }), "{error}");
        assert_eq!(error.severity(), Severity::Definite);
        assert!(!error.to_string().contains("oldSchema:"), "{error}");
    }
}

#[tokio::test]
async fn a_schema_is_fetched_once_by_id() {
    let peer = Peer::new(vec![Answer::Status(200, r#"{"schema":"\"int\""}"#)]);
    let registry = client(&[&peer.url]);
    for _ in 0..2 {
        assert_eq!(&*registry.schema(3).await.unwrap(), "\"int\"");
    }
    assert_eq!(peer.lines().len(), 1);
}

#[tokio::test]
async fn an_incompatible_schema_names_subject_version_and_reason() {
    // traps T56, T83
    let peer = Peer::new(vec![
        Answer::Status(409, r#"{"error_code":0,"message":"READER_FIELD_MISSING_DEFAULT_VALUE: b"}"#),
        Answer::Status(200, r#"{"subject":"t-value","version":4,"id":9,"schema":"\"string\""}"#),
    ]);
    let error = client(&[&peer.url]).register_schema("t-value", SCHEMA).await.unwrap_err();
    let expected =
        "schema for subject t-value is not compatible with its version 4: READER_FIELD_MISSING_DEFAULT_VALUE: b";
    assert_eq!(error.to_string(), expected);
    assert_eq!(error.severity(), Severity::Definite);
    let RegistryError::Incompatible { registered, refused, .. } = &error else { panic!("{error:?}") };
    assert_eq!((registered.as_deref(), refused.as_str()), (Some("\"string\""), SCHEMA));
    assert!(!error.hint().unwrap().contains(SCHEMA), "a line of a log that people read holds a whole schema");
    assert_eq!(peer.lines().len(), 2, "a decision is not asked for again");
}

#[tokio::test]
async fn server_errors_are_tried_again() {
    let peer = Peer::new(vec![
        Answer::Status(503, r#"{"error_code":50301,"message":"starting"}"#),
        Answer::Status(500, "<html>"),
        Answer::Status(200, r#"{"id":1}"#),
    ]);
    assert_eq!(client(&[&peer.url]).register_schema("t-key", SCHEMA).await.unwrap(), 1);
    assert_eq!(peer.lines().len(), 3);
}

#[tokio::test]
async fn a_registry_that_stays_away_is_a_transient_error() {
    let address = dead();
    let error = client(&[&address]).register_schema("t-key", SCHEMA).await.unwrap_err();
    assert_eq!(error.severity(), Severity::Transient);
    assert_eq!(error.to_string(), format!("schema registry {address} does not answer"));
}

#[tokio::test]
async fn silence_ends_with_the_time_limit() {
    let peer = Peer::new(vec![Answer::Silence, Answer::Status(200, r#"{"id":2}"#)]);
    let settings = RegistrySettings { timeout: Duration::from_millis(200), ..settings(&[&peer.url]) };
    let registry = Registry::new(&settings).unwrap();
    assert_eq!(registry.register_schema("t-key", SCHEMA).await.unwrap(), 2);
    assert_eq!(peer.lines().len(), 2);
}

#[tokio::test]
async fn the_next_address_is_asked_when_one_is_dead_and_only_then() {
    let peer = Peer::new(vec![
        Answer::Status(200, r#"{"id":5}"#),
        Answer::Status(422, r#"{"error_code":42201,"message":"not Avro"}"#),
    ]);
    let registry = client(&[&dead(), &peer.url]);
    assert_eq!(registry.register_schema("t-key", SCHEMA).await.unwrap(), 5);
    // The first address decides; the dead one behind it is not asked and hides nothing.
    let registry = client(&[&peer.url, &dead()]);
    let error = registry.register_schema("t-key", "nonsense").await.unwrap_err();
    let expected = format!("schema registry {} refuses subject t-key with status 422: not Avro", peer.url);
    assert_eq!(error.to_string(), expected);
    assert_eq!(error.severity(), Severity::Definite);
}

#[tokio::test]
async fn credentials_are_sent_and_their_refusal_is_fatal() {
    let peer = Peer::new(vec![Answer::Status(401, "{}")]);
    let basic_auth = Some(("cdc".to_owned(), Some("s3cret".to_owned())));
    let registry = Registry::new(&RegistrySettings { basic_auth, ..settings(&[&peer.url]) }).unwrap();
    let error = registry.register_schema("t-key", SCHEMA).await.unwrap_err();
    assert_eq!(error.severity(), Severity::Fatal);
    assert!(!format!("{error} {error:?} {registry:?}").contains("s3cret"));
    let headers = peer.seen.lock().unwrap()[0].headers.clone();
    assert!(headers.contains("authorization: basic y2rjonmzy3jlda=="), "{headers}");
}

#[tokio::test]
async fn without_auto_register_schemas_are_only_looked_up() {
    let peer = Peer::new(vec![
        Answer::Status(200, r#"{"subject":"t-key","id":8,"version":1,"schema":"\"int\""}"#),
        Answer::Status(404, r#"{"error_code":40403,"message":"Schema not found"}"#),
    ]);
    let registry = Registry::new(&RegistrySettings { auto_register: false, ..settings(&[&peer.url]) }).unwrap();
    assert_eq!(registry.register_schema("t-key", "\"int\"").await.unwrap(), 8);
    let error = registry.register_schema("t-key", SCHEMA).await.unwrap_err();
    assert!(matches!(error, RegistryError::NotRegistered { .. }), "{error}");
    assert_eq!(error.severity(), Severity::Definite);
    assert!(error.to_string().contains("t-key") && error.hint().unwrap().contains(SCHEMA));
    for line in peer.lines() {
        assert!(line.starts_with("POST /subjects/t-key?"), "{line}");
    }
}

#[tokio::test]
async fn an_unknown_id_is_told_from_a_registry_that_is_away() {
    let peer = Peer::new(vec![Answer::Status(404, r#"{"error_code":40403,"message":"No such id"}"#)]);
    let registry = client(&[&peer.url]);
    let error = registry.schema(12).await.unwrap_err();
    assert!(error.is_unknown_id());
    assert_eq!(error.to_string(), format!("schema registry {} has no schema with id 12", peer.url));
    let error = client(&[&dead()]).schema(12).await.unwrap_err();
    assert!(!error.is_unknown_id());
}

#[test]
fn a_file_that_is_missing_or_not_pem_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("ca.pem");
    let with = |ca: &std::path::Path| {
        let settings = RegistrySettings { ca: Some(ca.to_owned()), ..settings(&["http://127.0.0.1:1"]) };
        Registry::new(&settings).unwrap_err()
    };
    assert!(with(&missing).to_string().contains("ca.pem"));
    let error = Registry::new(&settings(&[])).unwrap_err();
    assert_eq!((error.severity(), error.to_string()), (Severity::Fatal, "the schema registry has no address".into()));
}
