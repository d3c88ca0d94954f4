//! Addresses, credentials and time limits of a registry.

use std::{fmt, fs, path::Path, path::PathBuf, time::Duration};

use reqwest::{Certificate, ClientBuilder, Identity};
use schema_registry_converter::async_impl::schema_registry::SrSettings;

use crate::registry::error::RegistryError;

/// How to reach the registry.
#[derive(Clone, PartialEq, Eq)]
pub struct RegistrySettings {
    /// Base URLs, with path, without a slash at the end: `http://localhost:8081/apis/ccompat/v7`.
    pub urls: Vec<String>,
    /// User and password of basic authentication.
    pub basic_auth: Option<(String, Option<String>)>,
    /// PEM file of the only authorities to trust; the system's when absent.
    pub ca: Option<PathBuf>,
    /// PEM files of the client certificate chain and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Time limit of one request, connecting included.
    pub timeout: Duration,
    /// Whether a schema that the subject lacks is registered; if not, it must be there already.
    pub auto_register: bool,
    /// How many rounds over all addresses are made before giving up for the time being; at least one is.
    pub rounds: u32,
}

impl fmt::Debug for RegistrySettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistrySettings")
            .field("urls", &self.urls.iter().map(|url| without_credentials(url)).collect::<Vec<_>>())
            .field("user", &self.basic_auth.as_ref().map(|(user, _)| user))
            .field("auto_register", &self.auto_register)
            .finish_non_exhaustive()
    }
}

/// One address with its HTTP client.
#[derive(Debug)]
pub(super) struct Endpoint {
    /// The address as it may be shown.
    pub(super) shown: String,
    pub(super) settings: SrSettings,
}

impl RegistrySettings {
    pub(super) fn endpoints(&self) -> Result<Vec<Endpoint>, RegistryError> {
        if self.urls.is_empty() {
            return Err(RegistryError::NoAddress);
        }
        // Fails only if the process has a provider already, which is then the one to use.
        let _ = rustls::crypto::ring::default_provider().install_default();
        self.urls.iter().map(|url| self.endpoint(url)).collect()
    }

    fn endpoint(&self, url: &str) -> Result<Endpoint, RegistryError> {
        let mut builder = SrSettings::new_builder(url.trim_end_matches('/').to_owned());
        if let Some((user, password)) = &self.basic_auth {
            builder.set_basic_authorization(user, password.as_deref());
        }
        builder.set_timeout(self.timeout);
        let shown = without_credentials(url);
        let settings = builder
            .build_with(self.client()?)
            .map_err(|source| RegistryError::Client { address: shown.clone(), source: Box::new(source) })?;
        Ok(Endpoint { shown, settings })
    }

    fn client(&self) -> Result<ClientBuilder, RegistryError> {
        let mut client = reqwest::Client::builder().connect_timeout(self.timeout);
        if let Some(path) = &self.ca {
            let authorities = Certificate::from_pem_bundle(&read(path)?).map_err(|source| pem(path, source))?;
            client = client.tls_certs_only(authorities);
        }
        if let Some((certificate, key)) = &self.identity {
            let mut both = read(certificate)?;
            both.push(b'\n');
            both.extend(read(key)?);
            client = client.identity(Identity::from_pem(&both).map_err(|source| pem(certificate, source))?);
        }
        Ok(client)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, RegistryError> {
    fs::read(path).map_err(|source| RegistryError::File { path: path.to_owned(), source })
}

fn pem(path: &Path, source: reqwest::Error) -> RegistryError {
    RegistryError::Pem { path: path.to_owned(), source: Box::new(source) }
}

/// A URL without the user and password that it may hold.
fn without_credentials(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let authority = rest.find('/').unwrap_or(rest.len());
            let host = rest[..authority].rfind('@').map_or(0, |at| at + 1);
            format!("{scheme}://{}", &rest[host..])
        }
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_never_shown() {
        assert_eq!(without_credentials("http://u:p@host:1/a@b"), "http://host:1/a@b");
        assert_eq!(without_credentials("https://host/x"), "https://host/x");
    }
}
