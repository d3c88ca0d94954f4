//! rustls configuration for each `sslmode` (manual, "SSL Support", table "SSL Mode Descriptions").

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
    sign::{CertifiedKey, SingleCertAndKey},
};

use super::{
    error::Error,
    settings::{Settings, SslMode},
};

/// Builds the TLS configuration that the settings ask for.
///
/// With `verify-ca`, `verify-full`, and `require` beside `ssl_root_cert`, the server's certificate must chain to an
/// authority; `verify-full` compares its names with the host too. `require` alone and `prefer` accept any certificate, as
/// libpq does.
pub fn client_config(settings: &Settings) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Verifier { trust: trust(settings)?, provider: provider.clone() };
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::TlsConfig(error.into()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let config = match (&settings.ssl_cert, &settings.ssl_key) {
        (Some(cert), Some(key)) => builder.with_client_cert_resolver(Arc::new(client_identity(&provider, cert, key)?)),
        (None, None) => builder.with_no_client_auth(),
        _ => return Err(Error::TlsConfig("ssl_cert and ssl_key must be set together".into())),
    };
    Ok(Arc::new(config))
}

/// The client's certificate and key. They are not compared here, since that takes a certificate of X.509 version 3, and the
/// server may accept others.
fn client_identity(provider: &CryptoProvider, cert: &Path, key: &Path) -> Result<SingleCertAndKey, Error> {
    let key = private_key(key)?;
    let key = provider.key_provider.load_private_key(key).map_err(|error| Error::TlsConfig(error.into()))?;
    Ok(CertifiedKey::new(certificates("client certificate", cert)?, key).into())
}

/// Whom we believe.
#[derive(Debug)]
enum Trust {
    /// Any certificate: the connection is private, but the server may be anyone.
    Anyone,
    /// A certificate below one of these authorities, or itself in the file.
    Authorities { roots: RootCertStore, own: Vec<CertificateDer<'static>>, check_name: bool },
}

fn trust(settings: &Settings) -> Result<Trust, Error> {
    let verified = match settings.ssl_mode {
        SslMode::Disable | SslMode::Prefer => false,
        SslMode::Require => settings.ssl_root_cert.is_some(),
        SslMode::VerifyCa | SslMode::VerifyFull => true,
    };
    if !verified {
        return Ok(Trust::Anyone);
    }
    let check_name = settings.ssl_mode == SslMode::VerifyFull;
    let mut roots = RootCertStore::empty();
    let mut own = Vec::new();
    if let Some(path) = &settings.ssl_root_cert {
        own = certificates("root certificate", path)?;
        roots.add_parsable_certificates(own.iter().cloned());
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if roots.is_empty() {
        return Err(Error::TlsConfig("no trusted authority found; set ssl_root_cert".into()));
    }
    Ok(Trust::Authorities { roots, own, check_name })
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let failed =
        |source: Box<dyn std::error::Error + Send + Sync>| Error::TlsFile { what, path: path.to_owned(), source };
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| failed(error.into()))?;
    if certificates.is_empty() { Err(failed("no certificate in it".into())) } else { Ok(certificates) }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| Error::TlsFile {
        what: "client key",
        path: path.to_owned(),
        source: error.into(),
    })
}

/// Checks a certificate as far as the `sslmode` asks, and the handshake's signature always.
#[derive(Debug)]
struct Verifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Trust::Authorities { roots, own, check_name } = &self.trust else {
            return Ok(ServerCertVerified::assertion());
        };
        let certificate = ParsedCertificate::try_from(end_entity)?;
        // A self-signed server certificate that is its own authority, which webpki refuses and libpq accepts.
        if !own.contains(end_entity) {
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&certificate, roots, intermediates, now, algorithms)?;
        }
        if *check_name {
            verify_server_name(&certificate, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
