//! Where the records of partitions end. A log's end also counts the markers of transactions and the records of aborted ones,
//! which no reader is given, so one who waits to have come that far might wait for ever.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rdkafka::{
    Message, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
    topic_partition_list::Offset,
};

use super::{Error, Settings, context::ClientLog};

/// How long nothing may come.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How many offsets before a log's end are read at first, then, and at last: seldom is the end all markers.
const SPANS: [i64; 3] = [64, 8192, i64::MAX];

type Partition = (String, i32);

/// The offset behind the last record that readers of committed records are given, of each of these partitions whose records are
/// known to an offset. Reads the end of what is behind that. Blocks.
pub fn ends_of_records(
    settings: &Settings,
    known: &BTreeMap<Partition, i64>,
) -> Result<BTreeMap<Partition, i64>, Error> {
    let consumer: BaseConsumer<ClientLog> = settings
        .client_config(&BTreeMap::new())
        .set("group.id", "walrelay-tail")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("isolation.level", "read_committed")
        .set("fetch.wait.max.ms", "10")
        .create_with_context(ClientLog::default())
        .map_err(|source| Error::Configuration { reason: source.to_string() })?;
    let (mut ends, mut logs) = (known.clone(), BTreeMap::new());
    for (place, offset) in known {
        let found = consumer.fetch_watermarks(&place.0, place.1, TIMEOUT);
        let (first, end) = found.map_err(|source| unread(&place.0, source))?;
        // Retention may have removed what was known, and even everything behind it.
        let first = first.max(*offset);
        if end > first {
            logs.insert(place.clone(), first..end);
        }
    }
    for span in SPANS {
        let begins =
            logs.iter().map(|(place, log)| (place.clone(), log.end.saturating_sub(span).max(log.start)..log.end));
        let begins: BTreeMap<_, _> = begins.collect();
        let found = read(&consumer, &begins)?;
        logs.retain(|place, log| !found.contains_key(place) && begins[place].start > log.start);
        ends.extend(found);
    }
    Ok(ends)
}

/// The offset behind the last record in each of these ranges that has any.
fn read(
    consumer: &BaseConsumer<ClientLog>,
    ranges: &BTreeMap<Partition, std::ops::Range<i64>>,
) -> Result<BTreeMap<Partition, i64>, Error> {
    let (mut ends, mut open, mut assignment) = (BTreeMap::new(), ranges.clone(), TopicPartitionList::new());
    let Some(((first, _), _)) = ranges.first_key_value() else { return Ok(ends) };
    let failed = |source| unread(first, source);
    for ((topic, partition), range) in ranges {
        assignment.add_partition_offset(topic, *partition, Offset::Offset(range.start)).map_err(failed)?;
    }
    consumer.assign(&assignment).map_err(failed)?;
    let mut heard = Instant::now();
    while !open.is_empty() {
        match consumer.poll(Duration::from_millis(20)) {
            Some(Ok(message)) => {
                ends.insert((message.topic().to_owned(), message.partition()), message.offset() + 1);
                heard = Instant::now();
                continue;
            }
            Some(Err(error)) if is_refusal(&error) => return Err(failed(error)),
            Some(Err(error)) => tracing::debug!(%error, "reading the ends of topics"),
            None => {}
        }
        // A client's position counts what it is not given, too.
        let positions = consumer.position().map_err(failed)?;
        let before = open.len();
        open.retain(|(topic, partition), range| {
            let position = positions.find_partition(topic, *partition).map(|found| found.offset());
            !matches!(position, Some(Offset::Offset(position)) if position >= range.end)
        });
        if open.len() < before {
            heard = Instant::now();
        } else if heard.elapsed() > TIMEOUT {
            let (topic, _) = open.keys().next().map_or((first.as_str(), 0), |(topic, n)| (topic.as_str(), *n));
            return Err(unread(topic, KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut)));
        }
    }
    Ok(ends)
}

fn is_refusal(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(error.rdkafka_error_code(), Some(Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed))
}

fn unread(topic: &str, source: KafkaError) -> Error {
    Error::Topic { operation: "let the end be read of", topic: topic.to_owned(), source }
}
