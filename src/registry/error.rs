//! What a registry could not do, and what that means.

use std::{error::Error, io, path::PathBuf};

use crate::retry::{Classify, Severity, chain};

/// A registry did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// No address is configured.
    #[error("the schema registry has no address")]
    NoAddress,
    /// A file of the settings cannot be read.
    #[error("file {} cannot be read", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of the settings is not what it should be.
    #[error("file {} holds no usable certificate or key in PEM form", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The HTTP client cannot be made.
    #[error("no HTTP client for schema registry {address}")]
    Client {
        /// The address.
        address: String,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// No address gave an answer, or all said that they are not well.
    #[error("schema registry {address} does not answer")]
    Unavailable {
        /// The address asked last.
        address: String,
        /// What it said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// Somebody else registers the same subject at this moment.
    #[error("schema registry {address} is just creating subject {subject}")]
    Creating {
        /// The address.
        address: String,
        /// The subject.
        subject: String,
    },
    /// 401 or 403.
    #[error("schema registry {address} refuses these credentials with status {status}")]
    Unauthorized {
        /// The address.
        address: String,
        /// The HTTP status.
        status: u16,
    },
    /// 409: the schema is not compatible with what is registered.
    #[error(
        "schema for subject {subject} is not compatible with its version {}: {}{reason}",
        version(*registered_version),
        lead(difference)
    )]
    Incompatible {
        /// The subject.
        subject: String,
        /// The registry's reason.
        reason: String,
        /// The latest registered version, if it could be read.
        registered_version: Option<u32>,
        /// Its schema.
        registered: Option<String>,
        /// The schema that was refused.
        refused: String,
        /// The fields in which the two differ.
        difference: Vec<String>,
    },
    /// The schema is not registered, and registering is off.
    #[error("subject {subject} does not have the schema that its records need, and auto_register is off")]
    NotRegistered {
        /// The subject.
        subject: String,
        /// The schema that must be registered.
        schema: String,
    },
    /// 404 for an id.
    #[error("schema registry {address} has no schema with id {id}")]
    UnknownId {
        /// The address.
        address: String,
        /// The id.
        id: u32,
    },
    /// Any other refusal (422: the schema is not valid Avro to the registry).
    #[error("schema registry {address} refuses {subject} with status {status}: {reason}")]
    Refused {
        /// The address.
        address: String,
        /// The subject or id that was asked for.
        subject: String,
        /// The HTTP status; 0 when the answer was not understood.
        status: u16,
        /// The registry's reason.
        reason: String,
    },
}

impl Classify for RegistryError {
    fn severity(&self) -> Severity {
        match self {
            Self::Unavailable { .. } | Self::Creating { .. } => Severity::Transient,
            Self::Incompatible { .. } | Self::NotRegistered { .. } | Self::UnknownId { .. } | Self::Refused { .. } => {
                Severity::Definite
            }
            Self::NoAddress
            | Self::File { .. }
            | Self::Pem { .. }
            | Self::Client { .. }
            | Self::Unauthorized { .. } => Severity::Fatal,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NoAddress => Some("Set registry.urls.".into()),
            Self::Unavailable { source, .. } if is_about_certificates(&**source) => Some(
                "Set registry.ca to the authority of the registry's certificate, and registry.cert and registry.key if it \
                 demands a certificate of its clients."
                    .into(),
            ),
            Self::Unavailable { address, .. } => Some(format!(
                "Check that a registry with Confluent's API runs at {address}, path included, and correct registry.urls if not.{}",
                demand(address)
            )),
            Self::UnknownId { id, .. } => Some(format!(
                "The registry has lost schema {id}, or belongs to another cluster: restore it, or correct registry.urls."
            )),
            Self::Unauthorized { .. } => Some("Check registry.username and registry.password.".into()),
            Self::Incompatible { subject, .. } => Some(format!(
                "Lower the compatibility level of subject {subject}, or delete the subject if no reader needs its old records; \
                 both schemas are in the log."
            )),
            Self::NotRegistered { subject, schema } => {
                Some(format!("Register this schema under subject {subject}, or set registry.auto_register: {schema}."))
            }
            _ => None,
        }
    }
}

/// Whether a TLS handshake failed over a certificate, the server's or the client's: the HTTP client tells it in words alone.
fn is_about_certificates(error: &(dyn Error + 'static)) -> bool {
    chain(error).to_lowercase().contains("certificate")
}

/// What else may be amiss behind TLS: a server that closes at once may reset the connection, and then its alert is never read.
fn demand(address: &str) -> &'static str {
    if address.starts_with("https:") {
        " If it closes the connections of clients that show no certificate, set registry.cert and registry.key."
    } else {
        ""
    }
}

fn lead(difference: &[String]) -> String {
    if difference.is_empty() { String::new() } else { format!("{}; ", difference.join("; ")) }
}

fn version(version: Option<u32>) -> String {
    version.map_or_else(|| "(unknown)".into(), |version| version.to_string())
}
