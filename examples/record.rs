//! Writes down what Debezium wrote for `dev/debezium`: the rows as PostgreSQL tells them, and the records as they lie in Kafka.
//!
//! `record snapshot DATABASE ROWS` keeps the rows of all tables in the file ROWS. `record write DATABASE ROWS TABLES RECORDS` writes
//! into TABLES the relations, these rows and the changes that the slot `DATABASE_recorder` holds, and into RECORDS every topic
//! `DATABASE.*`. Addresses come from the environment, as `dev/parts env` prints them. `tests/golden/recorded/README.md` has the formats.

use std::{collections::BTreeSet, env, error::Error, fs, path::Path, time::Duration};

use bytes::Bytes;
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::{BorrowedMessage, Headers, Message as _},
};
use serde_json::{Map, Value as Json, json};
use tokio_postgres::SimpleQueryMessage;
use walrelay::{
    event::{Datum, OldTuple, Tuple},
    pgoutput::{Message, Parser},
    postgres::{Client, Settings, SslMode},
    schema::{TableName, quote_identifier},
    source::{
        catalog::{self, Catalog},
        key_columns::KeyColumns,
    },
};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// The table whose rows are the last changes.
const END: &str = "at_the_end";

#[tokio::main]
async fn main() -> Outcome<()> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["snapshot", database, rows] => {
            let client = connect(database).await?;
            Ok(fs::write(rows, snapshot(&client, &tables(&client).await?).await?.to_string())?)
        }
        ["write", database, rows, tables, records] => {
            let client = connect(database).await?;
            let rows: Json = serde_json::from_str(&fs::read_to_string(rows)?)?;
            write(tables, 2, &described(&client, database, &rows).await?)?;
            write(records, 4, &json!({"topics": topics(database).await?}))
        }
        _ => Err("usage: record snapshot DATABASE ROWS | record write DATABASE ROWS TABLES RECORDS".into()),
    }
}

fn address(name: &str) -> Outcome<String> {
    let name = format!("WALRELAY_DEV_{name}");
    env::var(&name).map_err(|_| format!("{name} is not set: run dev/debezium, which sets it").into())
}

async fn connect(database: &str) -> Outcome<Client> {
    let settings = Settings {
        host: address("SOURCE_HOST")?,
        port: address("SOURCE_PORT")?.parse()?,
        database: database.into(),
        user: "postgres".into(),
        password: None,
        ssl_mode: SslMode::Disable,
        ssl_root_cert: None,
        ssl_cert: None,
        ssl_key: None,
        connect_timeout_seconds: 10,
    };
    Ok(catalog::connect(&settings, "recorder").await?)
}

async fn tables(client: &Client) -> Outcome<Catalog> {
    let sql = "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' ORDER BY 1";
    let names = client.query(sql, &[]).await?;
    let names = names.iter().map(|row| row.try_get::<_, String>(0)).collect::<Result<Vec<_>, _>>()?;
    let names = names.iter().filter(|name| **name != END).map(|name| TableName::new("public", name.as_str()));
    Ok(catalog::preview(client, &names.collect::<Vec<_>>(), &KeyColumns::default()).await?)
}

/// All rows by table, as the simple protocol has them: in text.
async fn snapshot(client: &Client, catalog: &Catalog) -> Outcome<Json> {
    let mut tables = Map::new();
    for table in &catalog.tables {
        let columns: Vec<_> = table.relation.columns.iter().map(|column| quote_identifier(&column.name)).collect();
        let sql = format!("SELECT {} FROM {}", columns.join(", "), table.relation.name.quoted());
        let mut rows = Vec::new();
        for message in client.simple_query(&sql).await? {
            let SimpleQueryMessage::Row(row) = message else { continue };
            rows.push((0..row.len()).map(|column| row.get(column)).collect::<Json>());
        }
        tables.insert(table.relation.name.table.to_string(), Json::Array(rows));
    }
    Ok(Json::Object(tables))
}

/// Relations with the rows of the snapshot, and what was streamed since.
async fn described(client: &Client, database: &str, rows: &Json) -> Outcome<Json> {
    let catalog = tables(client).await?;
    let mut tables = Map::new();
    for table in &catalog.tables {
        let name = &*table.relation.name.table;
        // A table that was made later has no rows in the snapshot.
        let rows = rows.get(name).cloned().unwrap_or_else(|| json!([]));
        tables.insert(name.into(), json!({"relation": table.relation, "snapshot": rows}));
    }
    let sql = "SELECT data FROM pg_logical_slot_peek_binary_changes($1, NULL, NULL, 'proto_version', '1', \
               'publication_names', 'recorder', 'messages', 'true')";
    let changes = client.query(sql, &[&format!("{database}_recorder")]).await?;
    let (mut parser, mut stream) = (Parser::new(), Vec::new());
    for row in changes {
        let data: Vec<u8> = row.try_get(0)?;
        stream.extend(operation(parser.parse(Bytes::from(data))?, &catalog)?);
    }
    // Behind the first begin of a transaction that tells the end.
    let end = stream.iter().position(|operation: &Json| operation["table"] == END).ok_or("the stream has no end")?;
    stream.truncate(end - 1);
    Ok(json!({"tables": tables, "stream": stream}))
}

/// A change; `None` for what only describes others.
fn operation(message: Message, catalog: &Catalog) -> Outcome<Option<Json>> {
    let name = |oid| catalog.by_oid(oid).map_or(END, |table| &*table.relation.name.table);
    let old = |old: Option<OldTuple>| old.map(|old| texts(old.tuple())).transpose();
    Ok(Some(match message {
        Message::Begin { .. } => json!({"op": "BEGIN"}),
        Message::Commit { .. } => json!({"op": "COMMIT"}),
        Message::Insert { relation, new, .. } => json!({"op": "INSERT", "table": name(relation), "new": texts(&new)?}),
        Message::Update { relation, old: before, new, .. } => {
            json!({"op": "UPDATE", "table": name(relation), "old": old(before)?, "new": texts(&new)?})
        }
        Message::Delete { relation, old: before, .. } => {
            json!({"op": "DELETE", "table": name(relation), "old": old(Some(before))?})
        }
        Message::Truncate(truncate) => {
            let tables: Vec<_> = truncate.relations.iter().map(|oid| name(*oid)).collect();
            json!({"op": "TRUNCATE", "tables": tables})
        }
        Message::Logical(message) => {
            let content = String::from_utf8(message.content.to_vec())?;
            json!({"op": "MESSAGE", "transactional": message.transactional, "prefix": &*message.prefix, "content": content})
        }
        _ => return Ok(None),
    }))
}

fn texts(tuple: &Tuple) -> Outcome<Json> {
    let cell = |datum: &Datum| {
        Ok(match datum {
            Datum::Null => Json::Null,
            Datum::Unchanged => json!({"unchanged": true}),
            Datum::Text(text) | Datum::Binary(text) => json!(std::str::from_utf8(text)?),
        })
    };
    tuple.iter().map(cell).collect()
}

/// Every topic of the prefix with the schemas that its records name.
async fn topics(prefix: &str) -> Outcome<Json> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", address("KAFKA")?)
        .set("group.id", "recorder")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .create()?;
    let metadata = consumer.fetch_metadata(None, Duration::from_secs(30))?;
    let own = format!("{prefix}.");
    let mut names: Vec<_> = metadata.topics().iter().map(|topic| topic.name()).collect();
    names.sort_unstable();
    let mut topics = Map::new();
    for name in names.into_iter().filter(|name| name.starts_with(&own) && !name.ends_with(END)) {
        let (records, ids) = read(&consumer, name)?;
        let mut schemas = Map::new();
        for id in ids {
            schemas.insert(id.to_string(), schema(id).await?);
        }
        topics.insert(name[own.len()..].to_owned(), json!({"schemas": schemas, "records": records}));
    }
    Ok(Json::Object(topics))
}

/// The records of a topic with one partition, and the ids of their schemas.
fn read(consumer: &BaseConsumer, topic: &str) -> Outcome<(Vec<Json>, BTreeSet<u32>)> {
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, 0, Offset::Beginning)?;
    consumer.assign(&assignment)?;
    let (mut records, mut ids) = (Vec::new(), BTreeSet::new());
    loop {
        match consumer.poll(Duration::from_secs(30)) {
            Some(Ok(message)) => {
                let framed = [message.key(), message.payload()].into_iter().flatten();
                ids.extend(framed.filter_map(|bytes| Some(u32::from_be_bytes(bytes.get(1..5)?.try_into().ok()?))));
                records.push(record(&message)?);
            }
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok((records, ids)),
            Some(Err(error)) => return Err(error.into()),
            None => return Err(format!("topic {topic} does not end").into()),
        }
    }
}

/// Debezium's four headers that name the run are left out.
fn record(message: &BorrowedMessage<'_>) -> Outcome<Json> {
    let part = |bytes: Option<&[u8]>| bytes.map_or(Json::Null, |bytes| json!(hex(bytes)));
    let mut headers = Map::new();
    for header in message.headers().into_iter().flat_map(Headers::iter) {
        if !header.key.starts_with("__debezium.context.") {
            let text = header.value.map(|value| String::from_utf8(value.to_vec())).transpose()?;
            headers.insert(header.key.to_owned(), json!(text));
        }
    }
    Ok(json!({"key": part(message.key()), "value": part(message.payload()), "headers": headers}))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

async fn schema(id: u32) -> Outcome<Json> {
    // Fails only if the process has a provider already, which is then the one to use.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    // The Confluent API gives out no schema that the registry cannot parse, and some of Debezium's are none.
    let url = format!("{}/ids/contentIds/{id}", address("REGISTRY")?.replace("ccompat/v7", "registry/v2"));
    Ok(reqwest::get(url).await?.error_for_status()?.json().await?)
}

/// Indented down to so many levels, so that a difference is one of lines.
fn write(path: impl AsRef<Path>, levels: usize, json: &Json) -> Outcome<()> {
    let mut text = String::new();
    indent(json, levels, 1, &mut text);
    Ok(fs::write(path, text + "\n")?)
}

fn indent(json: &Json, levels: usize, depth: usize, out: &mut String) {
    let items: Vec<(String, &Json)> = match json {
        Json::Object(object) => object.iter().map(|(key, item)| (format!("{}: ", json!(key)), item)).collect(),
        Json::Array(items) => items.iter().map(|item| (String::new(), item)).collect(),
        _ => Vec::new(),
    };
    if items.is_empty() || depth > levels {
        out.push_str(&json.to_string());
        return;
    }
    let (open, close) = if json.is_object() { ('{', '}') } else { ('[', ']') };
    out.push(open);
    for (number, (key, item)) in items.into_iter().enumerate() {
        out.push_str(if number == 0 { "\n" } else { ",\n" });
        out.push_str(&" ".repeat(depth));
        out.push_str(&key);
        indent(item, levels, depth + 1, out);
    }
    out.push('\n');
    out.push_str(&" ".repeat(depth - 1));
    out.push(close);
}
