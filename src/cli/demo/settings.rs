//! A configuration file for both halves against the real parts.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::Path,
    process,
    sync::atomic::{AtomicU16, Ordering},
};

use toml::{Table, Value};

use super::{error::Error, parts::Parts};

/// A configuration that is being put together.
#[derive(Clone, Debug)]
pub struct Settings(Table);

impl Settings {
    /// Both halves between a database of the source and one of the target. `name` becomes slot, publication, topic prefix
    /// and consumer group; each half serves its pages on a free port.
    #[must_use]
    pub fn new(parts: &Parts, name: &str, source_database: &str, target_database: &str) -> Self {
        let mut settings = Self(Table::new());
        for (section, server, database) in
            [("source", &parts.source, source_database), ("target", &parts.target, target_database)]
        {
            settings.set(&format!("{section}.host"), server.host.as_str());
            settings.set(&format!("{section}.port"), i64::from(server.port));
            settings.set(&format!("{section}.database"), database);
            settings.set(&format!("{section}.user"), parts.user.as_str());
            settings.set(&format!("{section}.password"), parts.password.as_str());
        }
        for key in ["capture.slot", "capture.publication", "kafka.prefix", "apply.group"] {
            settings.set(key, name);
        }
        settings.set("log.format", "human");
        settings.set("kafka.brokers", parts.kafka.split(',').map(str::to_owned).collect::<Vec<_>>());
        settings.set("kafka.topics.partitions", 3);
        // A killed member of the group is missed soon; the shortest time that brokers allow by default.
        settings.set("kafka.consumer", Table::from_iter([("session.timeout.ms".to_owned(), Value::from(6000))]));
        settings.set("registry.urls", vec![parts.registry.clone()]);
        settings.set("http.capture", format!("127.0.0.1:{}", free_port()));
        settings.set("http.apply", format!("127.0.0.1:{}", free_port()));
        settings
    }

    /// Sets a key by its dotted path.
    pub fn set(&mut self, path: &str, value: impl Into<Value>) {
        let mut table = &mut self.0;
        let mut names = path.split('.').peekable();
        while let Some(name) = names.next() {
            if names.peek().is_none() {
                table.insert(name.to_owned(), value.into());
                return;
            }
            let section = table.entry(name).or_insert_with(|| Value::Table(Table::new()));
            let Value::Table(inner) = section else { return };
            table = inner;
        }
    }

    /// Takes a key out of its section.
    pub fn unset(&mut self, section: &str, key: &str) {
        if let Some(Value::Table(section)) = self.0.get_mut(section) {
            section.remove(key);
        }
    }

    /// The text at a dotted path; empty when there is none.
    #[must_use]
    pub fn text(&self, path: &str) -> &str {
        let mut names = path.split('.');
        let first = names.next().and_then(|name| self.0.get(name));
        names.fold(first, |value, name| value?.get(name)).and_then(Value::as_str).unwrap_or_default()
    }

    /// Writes the file.
    pub fn write(&self, file: &Path) -> Result<(), Error> {
        let failed = |source| Error::Write { path: file.to_owned(), source };
        // Another process may be reading the file: it finds the old or the new one, never a part.
        let next = file.with_extension("next");
        fs::write(&next, self.0.to_string()).and_then(|()| fs::rename(&next, file)).map_err(failed)
    }
}

/// A TCP port that is free now, above the range from which the system takes ports for outgoing connections, and not given
/// out before by this process.
#[must_use]
pub fn free_port() -> u16 {
    const FIRST: u16 = 61_000;
    const COUNT: u16 = 4_500;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let number = process::id().wrapping_add(u32::from(NEXT.fetch_add(1, Ordering::Relaxed))) % u32::from(COUNT);
        let port = FIRST + u16::try_from(number).unwrap_or_default();
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dotted_paths_become_sections() {
        let mut settings = Settings(Table::new());
        settings.set("kafka.topics.partitions", 3);
        settings.set("kafka.prefix", "shop");
        let text = settings.0.to_string();
        let read: Table = toml::from_str(&text).unwrap();
        assert_eq!(read["kafka"]["topics"]["partitions"].as_integer(), Some(3), "{text}");
        assert_eq!(settings.text("kafka.prefix"), "shop");
        assert_eq!(settings.text("kafka.none"), "");
    }

    #[test]
    fn a_port_is_given_out_once() {
        assert_ne!(free_port(), free_port());
    }
}
