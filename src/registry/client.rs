//! The client: cache, fail-over, back-off, and the meaning of each answer.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use schema_registry_converter::{
    async_impl::schema_registry::perform_sr_call,
    error::SRCError,
    schema_registry_common::{RawError, RawRegisteredSchema, SrCall},
};
use serde_json::json;

use crate::{
    avro::store::{SchemaStore, StoreError},
    registry::{
        difference::{difference, without_schema},
        error::RegistryError,
        settings::{Endpoint, RegistrySettings},
    },
    retry::Backoff,
};

/// A schema registry. Cheap to clone; clones share cache and connections.
#[derive(Clone, Debug)]
pub struct Registry {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    endpoints: Vec<Endpoint>,
    auto_register: bool,
    rounds: u32,
    /// By subject and whole schema, so that no fingerprint can be mistaken for another.
    ids: Mutex<HashMap<(String, String), u32>>,
    schemas: Mutex<HashMap<u32, Arc<str>>>,
}

/// A registry's refusal, before it is known what was asked.
struct Refusal {
    address: String,
    status: u16,
    reason: String,
}

enum CallError {
    Refusal(Refusal),
    Error(RegistryError),
}

impl Registry {
    /// A client for these settings; asks nothing yet.
    ///
    /// # Errors
    /// A file cannot be read or is not PEM, or there is no address.
    pub fn new(settings: &RegistrySettings) -> Result<Self, RegistryError> {
        let inner = Inner {
            endpoints: settings.endpoints()?,
            auto_register: settings.auto_register,
            rounds: settings.rounds.max(1),
            ids: Mutex::default(),
            schemas: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Id of the schema under the subject: registers it, or only looks it up when registering is off.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn register_schema(&self, subject: &str, schema: &str) -> Result<u32, RegistryError> {
        let key = (subject.to_owned(), schema.to_owned());
        if let Some(id) = lock(&self.inner.ids).get(&key) {
            return Ok(*id);
        }
        let body = json!({"schema": schema, "schemaType": "AVRO"}).to_string();
        let call = if self.inner.auto_register {
            SrCall::PostNew(subject, &body)
        } else {
            SrCall::PostForVersion(subject, &body)
        };
        let id = match self.call(call).await {
            Ok((_, RawRegisteredSchema { id: Some(id), .. })) => id,
            Ok((address, _)) => return Err(refused(&address, subject, 0, "its answer has no id")),
            Err(CallError::Refusal(refusal)) => return Err(self.explain(subject, schema, refusal).await),
            Err(CallError::Error(error)) => return Err(error),
        };
        lock(&self.inner.ids).insert(key, id);
        Ok(id)
    }

    /// The schema of an id.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn schema_by_id(&self, id: u32) -> Result<Arc<str>, RegistryError> {
        if let Some(schema) = lock(&self.inner.schemas).get(&id) {
            return Ok(Arc::clone(schema));
        }
        let schema: Arc<str> = match self.call(SrCall::GetById(id)).await {
            Ok((_, RawRegisteredSchema { schema: Some(schema), .. })) => schema.into(),
            Ok((address, _)) => return Err(refused(&address, &format!("id {id}"), 0, "its answer has no schema")),
            Err(CallError::Refusal(Refusal { address, status: 404, .. })) => {
                return Err(RegistryError::UnknownId { address, id });
            }
            Err(CallError::Refusal(refusal)) => {
                return Err(refused(&refusal.address, &format!("id {id}"), refusal.status, &refusal.reason));
            }
            Err(CallError::Error(error)) => return Err(error),
        };
        lock(&self.inner.schemas).insert(id, Arc::clone(&schema));
        Ok(schema)
    }

    async fn explain(&self, subject: &str, schema: &str, refusal: Refusal) -> RegistryError {
        match refusal.status {
            409 if is_creation(&refusal.reason) => {
                RegistryError::Creating { address: refusal.address, subject: subject.to_owned() }
            }
            409 => {
                let latest = self.call(SrCall::GetLatest(subject)).await.ok().map(|(_, latest)| latest);
                let (version, registered) = latest.map_or((None, None), |latest| (latest.version, latest.schema));
                let difference = registered.as_deref().map_or_else(Vec::new, |old| difference(old, schema));
                // In a line of their own, since they are too long for the one that tells what to do.
                tracing::warn!(
                    subject,
                    difference = difference.join("; "),
                    version,
                    registered = registered.as_deref().map(tracing::field::display),
                    refused = %schema,
                    "schema refused as incompatible with the registered one"
                );
                RegistryError::Incompatible {
                    subject: subject.to_owned(),
                    reason: without_schema(&refusal.reason),
                    registered_version: version,
                    difference,
                    registered,
                    refused: schema.to_owned(),
                }
            }
            404 if !self.inner.auto_register => {
                RegistryError::NotRegistered { subject: subject.to_owned(), schema: schema.to_owned() }
            }
            status => refused(&refusal.address, &format!("subject {subject}"), status, &refusal.reason),
        }
    }

    /// Asks the addresses in turn until one decides, in rounds with back-off between them.
    async fn call(&self, call: SrCall<'_>) -> Result<(String, RawRegisteredSchema), CallError> {
        let mut backoff = Backoff::new();
        let mut last = None;
        for round in 0..self.inner.rounds {
            if round > 0 {
                tokio::time::sleep(backoff.next_delay()).await;
            }
            for endpoint in &self.inner.endpoints {
                match perform_sr_call(&endpoint.settings, call).await {
                    Ok(answer) => return Ok((endpoint.shown.clone(), answer)),
                    Err(error) => match decided(&endpoint.shown, &error) {
                        Some(decision) => return Err(decision),
                        None => last = Some((endpoint.shown.clone(), error)),
                    },
                }
            }
        }
        Err(CallError::Error(last.map_or(RegistryError::NoAddress, |(address, source)| RegistryError::Unavailable {
            address,
            source: Box::new(source),
        })))
    }
}

impl SchemaStore for Registry {
    async fn register(&self, subject: &str, schema: &str) -> Result<u32, StoreError> {
        self.register_schema(subject, schema).await.map_err(StoreError::new)
    }

    async fn schema(&self, id: u32) -> Result<Arc<str>, StoreError> {
        self.schema_by_id(id).await.map_err(|error| match error {
            error @ RegistryError::UnknownId { .. } => StoreError::unknown_id(error),
            error => StoreError::new(error),
        })
    }
}

/// The registry's decision, or `None` if it is to be asked again: it did not answer, or answered 408, 429 or 5xx.
fn decided(address: &str, error: &SRCError) -> Option<CallError> {
    let status = status(error)?;
    match status {
        401 | 403 => Some(CallError::Error(RegistryError::Unauthorized { address: address.to_owned(), status })),
        408 | 429 | 500.. => None,
        _ => {
            let reason = std::error::Error::source(error).and_then(|source| source.downcast_ref::<RawError>());
            let reason = reason.map_or_else(String::new, |raw| raw.message.clone());
            Some(CallError::Refusal(Refusal { address: address.to_owned(), status, reason }))
        }
    }
}

/// The HTTP status of an answer, which the client library tells only in its message; `None` if there was no answer.
fn status(error: &SRCError) -> Option<u16> {
    error.error.split_once("with status ")?.1.get(..3)?.parse().ok()
}

/// Whether a 409 says that two requests which create one subject or version met: the second one is refused, whatever its schema.
/// The whole sentence is Apicurio's; the reason of a true incompatibility may quote any words out of a schema.
fn is_creation(reason: &str) -> bool {
    reason.strip_prefix("An artifact ").is_some_and(|rest| rest.ends_with(" already exists."))
}

fn refused(address: &str, subject: &str, status: u16, reason: &str) -> RegistryError {
    RegistryError::Refused {
        address: address.to_owned(),
        subject: subject.to_owned(),
        status,
        reason: reason.to_owned(),
    }
}

/// The maps are only ever inserted into, so one whose writer panicked is still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
