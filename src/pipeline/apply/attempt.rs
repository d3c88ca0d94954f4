//! Attempts: parts of lanes in one transaction, and who is to blame when it fails.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    lsn::Lsn,
    pipeline::apply::{
        error::Error,
        work::{Halt, Order, Work},
    },
    retry::{Classify, Severity, chain},
    sink::{self, Applied, Manner, Session, Sink},
};

/// The state of a job that its steps share.
pub struct Attempts<'a> {
    session: &'a mut Session,
    sink: &'a Sink,
    /// Something that may pass.
    pub trouble: Option<String>,
    /// Something that does not.
    pub fatal: Option<Error>,
    /// Committed transactions.
    pub batches: u64,
}

impl<'a> Attempts<'a> {
    /// Attempts on this connection.
    #[must_use]
    pub const fn new(session: &'a mut Session, sink: &'a Sink) -> Self {
        Self { session, sink, trouble: None, fatal: None, batches: 0 }
    }

    /// Applies the first events of each lane (how many, by lane) in one transaction and notes what was committed; the hold,
    /// if nothing was done because of it.
    pub async fn attempt(
        &mut self,
        works: &mut [&mut Work],
        counts: &[usize],
        manner: Manner,
    ) -> Result<Option<Lsn>, sink::Error> {
        let mut places = Vec::with_capacity(works.len());
        let mut parts = Vec::with_capacity(works.len());
        for (place, (work, count)) in works.iter().zip(counts).enumerate() {
            if let Some(part) = work.part(*count) {
                places.push(place);
                parts.push(part);
            }
        }
        if parts.is_empty() {
            return Ok(None);
        }
        let done = match self.session.apply(self.sink, &parts, manner).await? {
            Applied::Held(hold) => return Ok(Some(hold)),
            Applied::Done(done) => done,
        };
        self.batches += 1;
        for (place, done) in places.into_iter().zip(done) {
            if let Some(work) = works.get_mut(place) {
                work.advance(done);
            }
        }
        Ok(None)
    }

    /// All lanes in one transaction; table by table if a table is at fault.
    pub async fn together(&mut self, works: &mut [Work]) {
        let mut all: Vec<&mut Work> = works.iter_mut().collect();
        let Some(error) = self.try_all(&mut all).await else { return };
        let topics: BTreeSet<Arc<str>> = all.iter().map(|work| Arc::clone(&work.topic)).collect();
        if topics.len() == 1 {
            self.one_table(error, &mut all).await;
            return;
        }
        for topic in topics {
            let mut of_topic: Vec<&mut Work> = works.iter_mut().filter(|work| work.topic == topic).collect();
            if error.is_locked() && error.topic() == Some(&*topic) {
                // Trying again would take as long again.
                refuse(&mut of_topic, &error, Order::Unknown, false);
                continue;
            }
            if let Some(error) = self.try_all(&mut of_topic).await {
                self.one_table(error, &mut of_topic).await;
            }
        }
    }

    /// One transaction, cut at a hold if there is one. Returns an error that lies in a table.
    async fn try_all(&mut self, works: &mut [&mut Work]) -> Option<sink::Error> {
        loop {
            let counts: Vec<usize> = works.iter().map(|work| work.events.len()).collect();
            match self.attempt(works, &counts, Manner::Upsert).await {
                Ok(None) => return None,
                Ok(Some(hold)) => works.iter_mut().for_each(|work| work.cut_at(hold)),
                Err(error) => return self.pass_on(error, works),
            }
        }
    }

    /// Gives an error back that lies in a table, also in whoever locks it; after any other the lanes are lost until they are claimed again.
    pub fn pass_on(&mut self, error: sink::Error, works: &mut [&mut Work]) -> Option<sink::Error> {
        if error.is_read_only() {
            self.session.retire();
        }
        match error.severity() {
            Severity::Definite => return Some(error),
            Severity::Transient if error.is_locked() => return Some(error),
            // Being fenced is no trouble: the partition is someone else's, or its stored offset has moved. Or it is that of
            // another server: then a new connection goes where the control session's goes.
            Severity::Transient if matches!(error, sink::Error::Fenced { .. }) => self.session.retire(),
            Severity::Transient => self.trouble = Some(chain(&error)),
            Severity::Fatal => self.fatal = Some(error.into()),
        }
        for work in works.iter_mut() {
            work.halt = Some(Halt::Lost);
        }
        None
    }

    /// Finds out how a table can go on after an error in it.
    async fn one_table(&mut self, error: sink::Error, works: &mut [&mut Work]) {
        let mut error = error;
        if error.code().is_some_and(|code| code.code().starts_with("42"))
            && let Some(topic) = error.topic()
        {
            // The target table may have been changed since its statements were made.
            self.sink.forget_plans(topic);
            match self.try_all(works).await {
                None => return,
                Some(again) => error = again,
            }
        }
        if !refuse(works, &error, Order::Unknown, matches!(error, sink::Error::Unfit { .. })) {
            for work in works.iter_mut() {
                self.bisect(work).await;
            }
        }
    }

    /// Applies what a lane can apply, and stops at the record that fails (trap T72).
    async fn bisect(&mut self, work: &mut Work) {
        let mut count = work.events.len().div_ceil(2).max(1);
        while work.part(work.events.len()).is_some()
            && !matches!(work.halt, Some(Halt::HalfMove | Halt::Waits | Halt::Lost))
        {
            let error = match self.attempt(&mut [&mut *work], &[count], Manner::Upsert).await {
                Ok(None) => {
                    count = work.events.len().max(1);
                    continue;
                }
                Ok(Some(hold)) => {
                    work.cut_at(hold);
                    continue;
                }
                Err(error) => match self.pass_on(error, &mut [&mut *work]) {
                    Some(error) => error,
                    None => return,
                },
            };
            if work.refuse(&error, Order::Unknown, count <= 1) {
                return;
            }
            count /= 2;
        }
    }
}

/// Halts lanes that were tried together, as [`Work::refuse`] says.
pub fn refuse(works: &mut [&mut Work], error: &sink::Error, order: Order, least: bool) -> bool {
    let mut settled = false;
    for work in works {
        settled |= work.refuse(error, order, least);
    }
    settled
}
