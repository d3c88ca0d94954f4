//! A network to the source that lets only so much through: what is on its way stops at a known place, however quick the machine is.

use std::sync::Arc;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
};
use walrelay::cli::demo::parts::Server;

use super::Scenario;

/// Bytes that are taken at once.
const PIECE: usize = 1 << 14;

/// Connections to a server through a place that counts what the server sends. They end with the test's runtime.
pub struct Network {
    allowed: Arc<Semaphore>,
    behind: watch::Sender<Server>,
    fault: watch::Sender<Fault>,
    port: u16,
}

/// What becomes of the connections that there are. Later ones are new.
#[derive(Clone, Copy)]
enum Fault {
    /// Both ends see them closed.
    Cut,
    /// The client's half stays, and nothing comes.
    Silent,
}

impl Network {
    /// Puts itself between capture and the source of a scenario, before capture is started. Nothing that the server sends comes
    /// through until it is allowed.
    pub async fn before_source(scenario: &mut Scenario) -> Self {
        Self::at(scenario, "127.0.0.1", 0).await
    }

    /// The same at this address; port 0 is any that is free.
    pub async fn at(scenario: &mut Scenario, host: &str, port: u16) -> Self {
        let listener = TcpListener::bind((host, port)).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let allowed = Arc::new(Semaphore::new(0));
        let fault = watch::Sender::new(Fault::Cut);
        let (behind, server) = watch::channel(scenario.parts.source.clone());
        tokio::spawn(accept(listener, server, Arc::clone(&allowed), fault.clone()));
        scenario.settings.set("source.host", address.ip().to_string());
        scenario.settings.set("source.port", i64::from(address.port()));
        Self { allowed, behind, fault, port: address.port() }
    }

    /// Where it listens.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// New connections lead to another server, as an address does that a failover moves.
    pub fn lead_to(&self, server: &Server) {
        self.behind.send_replace(server.clone());
    }

    /// So many bytes more of the server's come through, over all connections.
    pub fn allow(&self, bytes: usize) {
        self.allowed.add_permits(bytes);
    }

    /// Everything comes through, until that is limited.
    pub fn allow_all(&self) {
        self.allowed.add_permits(Semaphore::MAX_PERMITS - self.allowed.available_permits());
    }

    /// So many bytes come through from now on, whatever was allowed before.
    pub fn limit(&self, bytes: usize) {
        self.allowed.forget_permits(Semaphore::MAX_PERMITS);
        self.allow(bytes);
    }

    /// All connections end.
    pub fn cut(&self) {
        self.fault.send_replace(Fault::Cut);
    }

    /// Of all connections the client's half stays open and is silent, while the server sees them end: what is left when a firewall has
    /// forgotten them.
    pub fn fall_silent(&self) {
        self.fault.send_replace(Fault::Silent);
    }

    /// Everything comes through from now on.
    pub fn open(&self) {
        self.allowed.close();
    }
}

async fn accept(
    listener: TcpListener,
    behind: watch::Receiver<Server>,
    allowed: Arc<Semaphore>,
    fault: watch::Sender<Fault>,
) {
    while let Ok((mut client, _)) = listener.accept().await {
        let server = behind.borrow().clone();
        let (allowed, behind) = (Arc::clone(&allowed), (server.host, server.port));
        let mut fault = fault.subscribe();
        tokio::spawn(async move {
            let mut server = TcpStream::connect(behind).await?;
            let (mut from_client, mut to_client) = client.split();
            let (mut from_server, mut to_server) = server.split();
            tokio::select! {
                ended = counted(&mut from_server, &mut to_client, &allowed) => ended,
                ended = copy(&mut from_client, &mut to_server) => ended.map(drop),
                Ok(()) = fault.changed() => {
                    let is_silent = matches!(*fault.borrow(), Fault::Silent);
                    drop(server);
                    if is_silent {
                        // The client's socket is kept.
                        std::future::pending::<()>().await;
                    }
                    Ok(())
                }
            }
        });
    }
}

async fn counted(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    allowed: &Semaphore,
) -> std::io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let length = from.read(&mut piece).await?;
        if length == 0 {
            return Ok(());
        }
        // One that is closed counts nothing any more.
        if let Ok(taken) = allowed.acquire_many(u32::try_from(length).expect("a piece is small")).await {
            taken.forget();
        }
        to.write_all(&piece[..length]).await?;
    }
}
