//! The demo's topics in Kafka.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};

use super::{error::Error, shop};

const LIMIT: Duration = Duration::from_secs(15);

/// Removes the topics of an earlier run, and waits until they are gone.
pub async fn delete_old(brokers: &str) -> Result<(), Error> {
    let admin = admin(brokers)?;
    let old = own_topics(&admin)?;
    if old.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = old.keys().map(String::as_str).collect();
    let options = AdminOptions::new().request_timeout(Some(LIMIT)).operation_timeout(Some(LIMIT));
    let outcome = admin.delete_topics(&names, &options).await;
    outcome.map_err(|source| Error::Kafka { operation: "delete the topics of an earlier run", source })?;
    let begun = Instant::now();
    while !own_topics(&admin)?.is_empty() {
        if begun.elapsed() > LIMIT {
            let what = "the end of the topics of an earlier run".to_owned();
            return Err(Error::Late { what, seconds: LIMIT.as_secs(), log: String::new() });
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Number of records in each table's topic, over all partitions, by table.
pub fn record_counts(brokers: &str) -> Result<BTreeMap<String, i64>, Error> {
    let admin = admin(brokers)?;
    let failed = |source| Error::Kafka { operation: "read the offsets of the topics", source };
    let mut counts = BTreeMap::new();
    for (topic, partitions) in own_topics(&admin)? {
        let Some(table) = topic.strip_prefix(&format!("{}.public.", shop::NAME)) else { continue };
        let mut records = 0;
        for partition in 0..partitions {
            let (first, next) = admin.inner().fetch_watermarks(&topic, partition, LIMIT).map_err(failed)?;
            records += next - first;
        }
        counts.insert(table.to_owned(), records);
    }
    Ok(counts)
}

fn admin(brokers: &str) -> Result<AdminClient<DefaultClientContext>, Error> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    config.create().map_err(|source| Error::Kafka { operation: "make a client of Kafka", source })
}

/// Topics of the demo with their partition counts.
fn own_topics(admin: &AdminClient<DefaultClientContext>) -> Result<BTreeMap<String, i32>, Error> {
    let metadata = admin.inner().fetch_metadata(None, LIMIT);
    let metadata = metadata.map_err(|source| Error::Kafka { operation: "list the topics", source })?;
    let (data, own) = (format!("{}.", shop::NAME), format!(".{}", shop::NAME));
    let ours = |name: &str| name.starts_with(&data) || name.starts_with("walrelay.") && name.ends_with(&own);
    let own = metadata.topics().iter().filter(|topic| ours(topic.name()));
    Ok(own
        .map(|topic| (topic.name().to_owned(), i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX)))
        .collect())
}
