//! One job of a worker: decode lanes' records, apply them, tell how far each lane came.
//!
//! All lanes of a job go into one transaction. If that fails for a reason that lies in a table, the tables are tried one by
//! one, each in its own transaction; the one that fails is bisected down to the record (trap T72), unless another order of
//! the same changes can succeed: then its lanes are to be aligned.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    lsn::Lsn,
    pipeline::apply::{
        align,
        attempt::Attempts,
        decode::Decode,
        error::Error,
        work::{Halt, JobLane, LaneReport, Padding, Work, decode},
    },
    retry::{Classify, Severity, chain},
    sink::{self, Session, Sink},
};

/// A connection and a decoder.
pub struct Worker<D> {
    /// `None` until the first job, and after the connection broke.
    pub session: Option<Session>,
    /// The decoder.
    pub decoder: D,
}

/// How a job applies its lanes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// Each lane as far as its records go.
    Optimistic,
    /// All lanes of some tables up to one common cut.
    Aligned {
        /// The topics of these tables.
        topics: BTreeSet<Arc<str>>,
        /// Some lane holds as much as it may, so that no later cut will come.
        full: bool,
    },
}

/// What became of a job.
pub struct JobReport<D> {
    /// The worker, free again; without a session if its connection broke.
    pub worker: Worker<D>,
    /// How it was applied.
    pub how: How,
    /// Its lanes.
    pub lanes: Vec<LaneReport>,
    /// Something that may pass.
    pub trouble: Option<String>,
    /// Something that does not.
    pub fatal: Option<Error>,
    /// Committed transactions.
    pub batches: u64,
}

/// Carries a job out.
pub async fn run<D: Decode>(
    mut worker: Worker<D>,
    sink: Arc<Sink>,
    lanes: Vec<JobLane>,
    hold: Option<Lsn>,
    mut padding: Padding,
    how: How,
) -> JobReport<D> {
    let mut works = Vec::with_capacity(lanes.len());
    let mut trouble = None;
    let mut fatal = None;
    for lane in lanes {
        let (work, error) = decode(&mut worker.decoder, lane, hold, &mut padding).await;
        works.push(work);
        match error {
            Some(error) if error.severity() == Severity::Fatal => fatal = Some(error),
            Some(error) => trouble = Some(chain(&error)),
            None => {}
        }
    }
    let mut batches = 0;
    match session(&mut worker.session, &sink).await {
        Ok(session) => {
            let mut attempts = Attempts::new(session, &sink);
            attempts.trouble = trouble;
            attempts.fatal = fatal;
            match &how {
                How::Optimistic => attempts.together(&mut works).await,
                How::Aligned { full, .. } => align::apply(&mut attempts, &mut works, *full).await,
            }
            (trouble, fatal, batches) = (attempts.trouble, attempts.fatal, attempts.batches);
        }
        Err(error) => {
            for work in &mut works {
                work.halt = Some(Halt::Waits);
            }
            match error.severity() {
                Severity::Transient => trouble = Some(chain(&error)),
                _ => fatal = Some(error.into()),
            }
        }
    }
    if worker.session.as_ref().is_some_and(Session::is_closed) {
        worker.session = None;
    }
    let lanes = works.into_iter().map(Work::report).collect();
    JobReport { worker, how, lanes, trouble, fatal, batches }
}

async fn session<'a>(slot: &'a mut Option<Session>, sink: &Sink) -> Result<&'a mut Session, sink::Error> {
    let session = match slot.take() {
        Some(session) if !session.is_closed() => session,
        _ => Session::connect(sink).await?,
    };
    Ok(slot.insert(session))
}
