//! Proving who we are at start-up: clear-text, MD5 and SCRAM-SHA-256 (manual, "Start-up", "SASL Authentication").

use bytes::BytesMut;
use postgres_protocol::{
    authentication::{
        md5_hash,
        sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256},
    },
    message::{backend::Message, frontend},
};

use super::{error::Error, wire::Wire};
use crate::postgres::{self, ServerError, Settings};

/// Answers the server's questions until it is satisfied.
pub async fn authenticate(wire: &mut Wire, settings: &Settings) -> Result<(), Error> {
    loop {
        match wire.message().await? {
            Message::AuthenticationOk => return Ok(()),
            Message::AuthenticationCleartextPassword => {
                send_password(wire, settings, password(settings)?.as_bytes()).await?;
            }
            Message::AuthenticationMd5Password(body) => {
                let hash = md5_hash(settings.user.as_bytes(), password(settings)?.as_bytes(), body.salt());
                send_password(wire, settings, hash.as_bytes()).await?;
            }
            Message::AuthenticationSasl(body) => {
                use fallible_iterator::FallibleIterator;

                let offered: Vec<String> = body
                    .mechanisms()
                    .map(|name| Ok(name.to_owned()))
                    .collect()
                    .map_err(|error| failed(settings, format!("unreadable list of mechanisms: {error}")))?;
                if !offered.iter().any(|name| name == SCRAM_SHA_256) {
                    return Err(failed(settings, format!("the server offers only {}", offered.join(", "))));
                }
                scram(wire, settings).await?;
            }
            Message::ErrorResponse(body) => return Err(login(settings, ServerError::from_fields(body.fields()))),
            _ => return Err(failed(settings, "the server asks for a method other than a password".to_owned())),
        }
    }
}

/// The server refused the login.
pub fn login(settings: &Settings, source: ServerError) -> Error {
    Error::Postgres(settings.refused(source))
}

async fn send_password(wire: &mut Wire, settings: &Settings, password: &[u8]) -> Result<(), Error> {
    let mut out = BytesMut::new();
    frontend::password_message(password, &mut out).map_err(|error| failed(settings, error.to_string()))?;
    wire.send(&out).await
}

/// The SCRAM dialogue. Channel binding is not used: gs2 flag `n`.
async fn scram(wire: &mut Wire, settings: &Settings) -> Result<(), Error> {
    let broken = |error: std::io::Error| failed(settings, format!("SCRAM-SHA-256: {error}"));
    let mut scram = ScramSha256::new(password(settings)?.as_bytes(), ChannelBinding::unsupported());
    let mut out = BytesMut::new();
    frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), &mut out).map_err(broken)?;
    wire.send(&out).await?;
    let Message::AuthenticationSaslContinue(body) = refused_or(wire, settings).await? else {
        return Err(failed(settings, "SCRAM-SHA-256: the server did not continue".to_owned()));
    };
    scram.update(body.data()).map_err(broken)?;
    out.clear();
    frontend::sasl_response(scram.message(), &mut out).map_err(broken)?;
    wire.send(&out).await?;
    let Message::AuthenticationSaslFinal(body) = refused_or(wire, settings).await? else {
        return Err(failed(settings, "SCRAM-SHA-256: the server did not prove that it knows the password".to_owned()));
    };
    scram.finish(body.data()).map_err(broken)
}

/// The next message, unless it is the server's refusal.
async fn refused_or(wire: &mut Wire, settings: &Settings) -> Result<Message, Error> {
    match wire.message().await? {
        Message::ErrorResponse(body) => Err(login(settings, ServerError::from_fields(body.fields()))),
        message => Ok(message),
    }
}

fn password(settings: &Settings) -> Result<String, Error> {
    let missing = || failed(settings, "the server asks for a password and none is configured".to_owned());
    settings.password.as_ref().ok_or_else(missing)?.read().map_err(Error::Postgres)
}

fn failed(settings: &Settings, reason: String) -> Error {
    let (address, user) = (settings.address(), settings.user.clone());
    Error::Postgres(postgres::Error::Authentication { address, user, reason })
}
