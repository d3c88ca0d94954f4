//! The two signals that ask a half to stop.

use std::{io, pin::Pin};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};

use crate::{
    error::Exit,
    retry::{Classify, Severity},
};

/// The process cannot learn of signals.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for signals")]
pub(super) struct Error(#[source] io::Error);

impl Classify for Error {
    fn severity(&self) -> Severity {
        Severity::Fatal
    }
}

/// Ends when a stop was asked for.
pub(super) type Requested = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A future that ends at the first SIGTERM or SIGINT; the second ends the process at once.
pub(super) fn requested() -> Result<Requested, Error> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Error)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error)?;
    let (stop, stopped) = oneshot::channel();
    tokio::spawn(async move {
        let name = either(&mut terminate, &mut interrupt).await;
        tracing::info!(signal = name, "stopping; a second signal stops at once");
        // gone when the half has ended by itself
        let _ = stop.send(());
        let name = either(&mut terminate, &mut interrupt).await;
        tracing::warn!(signal = name, "stopped at once");
        std::process::exit(Exit::Interrupted as i32);
    });
    Ok(Box::pin(async {
        // the task above lives as long as the runtime
        let _ = stopped.await;
    }))
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}
