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

/// The offset behind the last record that readers of committed records are given, of each of these partitions whose records are
/// known `from` some offset on. Reads what is behind that. Blocks.
pub fn ends_of_records(
    settings: &Settings,
    from: &BTreeMap<(String, i32), i64>,
) -> Result<BTreeMap<(String, i32), i64>, Error> {
    let failed = |source| Error::Consume { brokers: settings.address(), source };
    let consumer: BaseConsumer<ClientLog> = settings
        .client_config(&BTreeMap::new())
        .set("group.id", "walrelay-tail")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("isolation.level", "read_committed")
        .set("fetch.wait.max.ms", "10")
        .create_with_context(ClientLog::default())
        .map_err(|source| Error::Configuration { reason: source.to_string() })?;
    let (mut ends, mut open, mut assignment) = (from.clone(), BTreeMap::new(), TopicPartitionList::new());
    for ((topic, partition), offset) in from {
        let (first, end) = consumer.fetch_watermarks(topic, *partition, TIMEOUT).map_err(failed)?;
        // Retention may have removed what was known, and even everything behind it.
        let begin = first.max(*offset);
        if end > begin {
            open.insert((topic.clone(), *partition), end);
            assignment.add_partition_offset(topic, *partition, Offset::Offset(begin)).map_err(failed)?;
        }
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
            Some(Err(error)) => tracing::debug!(%error, "reading the ends of topics"),
            None => {}
        }
        // A client's position counts what it is not given, too.
        let positions = consumer.position().map_err(failed)?;
        let before = open.len();
        open.retain(|(topic, partition), end| {
            let position = positions.find_partition(topic, *partition).map(|found| found.offset());
            !matches!(position, Some(Offset::Offset(position)) if position >= *end)
        });
        if open.len() < before {
            heard = Instant::now();
        }
        if heard.elapsed() > TIMEOUT {
            return Err(failed(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut)));
        }
    }
    Ok(ends)
}
