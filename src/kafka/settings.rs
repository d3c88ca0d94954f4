//! How to reach the cluster.

use std::{collections::BTreeMap, fmt};

use rdkafka::ClientConfig;

/// Addresses and librdkafka properties that all clients share.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// `host:port` of the bootstrap brokers.
    pub brokers: Vec<String>,
    /// Any librdkafka property (TLS, SASL, …), passed through unchanged.
    pub properties: BTreeMap<String, String>,
}

impl Settings {
    /// The brokers as one text, for messages.
    #[must_use]
    pub fn address(&self) -> String {
        self.brokers.join(",")
    }

    /// A configuration with the shared properties and those of one kind of client on top.
    pub(super) fn client_config(&self, own: &BTreeMap<String, String>) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.address());
        config.set("client.id", "walrelay");
        config.set("log.connection.close", "false");
        config.set("reconnect.backoff.max.ms", "2000");
        // A client that gets no answer for so long asks the configured brokers again; by default after five minutes.
        config.set("metadata.recovery.rebootstrap.trigger.ms", "15000");
        for (name, value) in self.properties.iter().chain(own) {
            config.set(name, value);
        }
        config
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("brokers", &self.brokers)
            .field("properties", &self.properties.keys().collect::<Vec<_>>())
            .finish()
    }
}
