//! What outlives a session: stopped tables, whose a topic is, and what is not tried again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{bad_rows::Lacking, partitions::Partitions, state::StoppedTable};
use crate::{
    lsn::{Lsn, Position},
    schema::TableName,
};

/// What outlives a session: the tables that stopped while this process runs (a new process tries them again), and which
/// table a topic belongs to.
#[derive(Debug, Default)]
pub(super) struct Tables {
    register: Mutex<Register>,
    /// What was left out of them.
    pub(super) lacking: Lacking,
    /// What is known of their partitions.
    pub(super) partitions: Partitions,
}

#[derive(Debug, Default)]
struct Register {
    stopped: BTreeMap<TableName, StoppedTable>,
    by_topic: BTreeMap<String, TableName>,
    partitions: BTreeMap<String, i32>,
    republished: Lsn,
    as_text: bool,
    without_heartbeats: bool,
    without_dead_letters: bool,
    /// Tables that joined, and of which rows could not be read.
    cut: BTreeSet<TableName>,
    /// Stopped tables that the next session tries again.
    resuming: BTreeSet<TableName>,
    /// The last signal to let tables go on.
    told: Option<Position>,
    not_streamed: Option<NotStreamed>,
}

/// Why transactions are not asked for before they commit.
#[derive(Debug)]
struct NotStreamed {
    /// Until these have ended; without any, for the life of the process.
    open: Vec<u32>,
    reason: String,
}

impl Tables {
    fn lock(&self) -> MutexGuard<'_, Register> {
        self.register.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_stopped(&self, table: &TableName) -> bool {
        self.lock().stopped.contains_key(table)
    }

    /// Of two stops the first tells the reason, and the lower one the position: a record from before the first may have been
    /// refused later.
    pub(super) fn stop(&self, table: TableName, stopped: StoppedTable) {
        let position = stopped.position;
        let mut register = self.lock();
        let kept = register.stopped.entry(table).or_insert(stopped);
        kept.position = kept.position.min(position);
    }

    /// Stopped tables stand before what their topics may lack: a statement that was sent by half comes to none of them, and sinks need not
    /// wait for it.
    pub(super) fn stand_before(&self, lacks: impl Fn(&str) -> Option<Position>) {
        let mut register = self.lock();
        let Register { stopped, by_topic, .. } = &mut *register;
        for (topic, table) in by_topic {
            if let (Some(stopped), Some(at)) = (stopped.get_mut(table), lacks(topic)) {
                stopped.position = stopped.position.min(at);
            }
        }
    }

    /// Forgets the stops of other tables than these; gives the names of those that are stopped still.
    pub(super) fn retain(&self, keep: impl Fn(&TableName) -> bool) -> BTreeSet<String> {
        let mut register = self.lock();
        register.stopped.retain(|table, _| keep(table));
        register.stopped.keys().map(ToString::to_string).collect()
    }

    /// The stopped tables, and where each stopped.
    pub(super) fn stops(&self) -> Vec<(TableName, Position)> {
        self.lock().stopped.iter().map(|(table, stopped)| (table.clone(), stopped.position)).collect()
    }

    /// The tables that stopped at a known place: where the brokers refuse the topic, the position is none.
    pub(super) fn stopped_in_place(&self) -> Vec<TableName> {
        let register = self.lock();
        let known = register.stopped.iter().filter(|(_, stopped)| stopped.position != Position::default());
        known.map(|(table, _)| table.clone()).collect()
    }

    /// The lowest commit at which a table stopped whose changes are not dropped: the flush LSN stays there.
    pub(super) fn lowest_stop(&self) -> Option<Lsn> {
        let register = self.lock();
        register.stopped.values().filter(|stopped| !stopped.dropped).map(|stopped| stopped.position.commit).min()
    }

    /// The tables that the source keeps log for.
    pub(super) fn held(&self) -> Vec<TableName> {
        let register = self.lock();
        let held = register.stopped.iter().filter(|(_, stopped)| !stopped.dropped);
        held.map(|(table, _)| table.clone()).collect()
    }

    /// What is known of a stopped table.
    pub(super) fn stop_of(&self, table: &TableName) -> Option<StoppedTable> {
        self.lock().stopped.get(table).cloned()
    }

    /// The source need not keep log for a table any more. To be called once that is recorded: no later session would do so.
    pub(super) fn drop_changes(&self, table: &TableName) {
        if let Some(stopped) = self.lock().stopped.get_mut(table) {
            stopped.dropped = true;
        }
    }

    /// Whether the changes of a table are dropped.
    pub(super) fn drops_changes(&self, table: &TableName) -> bool {
        self.lock().stopped.get(table).is_some_and(|stopped| stopped.dropped)
    }

    /// Signals to let tables go on are settled below this position: a process that begins tries all tables.
    pub(super) fn settle_signals(&self, below: Position) {
        self.lock().told.get_or_insert(below);
    }

    /// Whether a signal at this position to let tables go on is none that was followed: it comes again where the slot is held.
    pub(super) fn is_told_first(&self, at: Position) -> bool {
        let mut register = self.lock();
        let is_first = register.told < Some(at);
        register.told = register.told.max(Some(at));
        is_first
    }

    /// Notes stopped tables that the next session tries again. In this one they stay stopped: what is published of them has to begin where
    /// they stopped.
    pub(super) fn ask_to_resume(&self, tables: impl IntoIterator<Item = TableName>) {
        self.lock().resuming.extend(tables);
    }

    /// A table joined, and not all of its rows could be read: what keeps them is likely to stay for now.
    pub(super) fn cut(&self, table: TableName) {
        self.lock().cut.insert(table);
    }

    pub(super) fn was_cut(&self, table: &TableName) -> bool {
        self.lock().cut.contains(table)
    }

    /// Rows of a table that was cut have been read after all.
    pub(super) fn heal(&self, table: &TableName) {
        self.lock().cut.remove(table);
    }

    /// The tables that were cut.
    pub(super) fn cuts(&self) -> Vec<TableName> {
        self.lock().cut.iter().cloned().collect()
    }

    /// A session begins: it tries the tables again that were asked for, and so begins where the first of them stopped. Gives them.
    pub(super) fn resume(&self) -> BTreeSet<TableName> {
        let mut register = self.lock();
        let resumed = std::mem::take(&mut register.resuming);
        for table in &resumed {
            register.stopped.remove(table);
            register.cut.remove(table);
            register.republished = Lsn::ZERO;
        }
        resumed
    }

    /// From now on sessions ask for values as text.
    pub(super) fn read_as_text(&self) {
        self.lock().as_text = true;
    }

    pub(super) fn are_read_as_text(&self) -> bool {
        self.lock().as_text
    }

    /// From now on sessions do not ask for transactions in progress.
    pub(super) fn stop_streaming(&self, open: Vec<u32>, reason: String) {
        self.lock().not_streamed = Some(NotStreamed { open, reason });
    }

    /// From now on sessions ask for transactions in progress again.
    pub(super) fn resume_streaming(&self) {
        self.lock().not_streamed = None;
    }

    /// Why sessions do not ask for transactions in progress, where it is for those that could not be kept.
    pub(super) fn why_not_streamed(&self) -> Option<String> {
        self.lock().not_streamed.as_ref().map(|not| not.reason.clone())
    }

    /// The transactions that must have ended before sessions ask for those in progress again.
    pub(super) fn not_streamed(&self) -> Option<Vec<u32>> {
        self.lock().not_streamed.as_ref().map(|not| not.open.clone())
    }

    /// From now on sessions send no heartbeats.
    pub(super) fn refuse_heartbeats(&self) {
        self.lock().without_heartbeats = true;
    }

    pub(super) fn are_heartbeats_refused(&self) -> bool {
        self.lock().without_heartbeats
    }

    /// From now on sessions write no dead letters.
    pub(super) fn refuse_dead_letters(&self) {
        self.lock().without_dead_letters = true;
    }

    pub(super) fn are_dead_letters_refused(&self) -> bool {
        self.lock().without_dead_letters
    }

    /// Everything below `lsn` is published again, but for stopped tables: a later session may begin there.
    pub(super) fn republished(&self, lsn: Lsn) {
        self.lock().republished = lsn;
    }

    /// The stream is given up for a new snapshot, which tries all tables.
    pub(super) fn begin_anew(&self) {
        let mut register = self.lock();
        register.stopped.clear();
        register.cut.clear();
        register.republished = Lsn::ZERO;
    }

    /// Where a session begins whose slot is at `slot`.
    pub(super) fn begin(&self, slot: Lsn) -> Lsn {
        self.lock().republished.max(slot)
    }

    /// Notes whose topic it is.
    pub(super) fn name_topic(&self, topic: &str, table: &TableName) {
        self.lock().by_topic.insert(topic.to_owned(), table.clone());
    }

    /// Notes how many partitions a topic has.
    pub(super) fn count_partitions(&self, topic: &str, partitions: i32) {
        self.lock().partitions.insert(topic.to_owned(), partitions);
    }

    /// The topic of a table with its partition count, once both are known: also of a table that stopped in an earlier session,
    /// which none prepares for publishing any more.
    pub(super) fn topic_of(&self, table: &TableName) -> Option<(String, i32)> {
        let register = self.lock();
        let (topic, _) = register.by_topic.iter().find(|(_, owner)| *owner == table)?;
        Some((topic.clone(), *register.partitions.get(topic)?))
    }

    /// The topic of a table, also while nothing else is known of it.
    pub(super) fn topic_name_of(&self, table: &TableName) -> Option<String> {
        let register = self.lock();
        register.by_topic.iter().find(|(_, owner)| *owner == table).map(|(topic, _)| topic.clone())
    }

    /// The table that a topic belongs to.
    pub(super) fn of_topic(&self, topic: &str) -> Option<TableName> {
        self.lock().by_topic.get(topic).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_that_is_refused_before_its_partitions_are_known_is_known_by_name() {
        let (tables, table) = (Tables::default(), TableName::new("", "topic p.message"));
        tables.name_topic("p.message", &table);
        assert_eq!((tables.topic_of(&table), tables.topic_name_of(&table)), (None, Some("p.message".to_owned())));
    }

    #[test]
    fn a_record_that_is_refused_after_its_table_stopped_holds_the_stream_where_it_was() {
        let (tables, table) = (Tables::default(), TableName::new("public", "t"));
        let stop = |commit, reason: &str| {
            let position = Position { commit: Lsn(commit), ..Position::default() };
            tables
                .stop(table.clone(), StoppedTable { position, reason: reason.into(), dropped: false, lasting: false });
        };
        stop(100, "a row");
        stop(200, "another row");
        assert_eq!((tables.lowest_stop(), tables.stopped_in_place().len()), (Some(Lsn(100)), 1));
        tables.drop_changes(&table);
        assert!(tables.held().is_empty() && tables.lowest_stop().is_none());
        tables.ask_to_resume([table.clone()]);
        assert!(tables.is_stopped(&table));
        assert!(tables.resume().contains(&table) && !tables.is_stopped(&table));
        stop(200, "another row");
        assert_eq!((tables.lowest_stop(), tables.held()), (Some(Lsn(200)), vec![table.clone()]));
        tables.name_topic("p.t", &table);
        let at = |commit| Some(Position { commit: Lsn(commit), ..Position::default() });
        tables.stand_before(|topic| (topic == "p.other").then(|| at(50)).flatten());
        tables.stand_before(|_topic| at(250));
        assert_eq!(tables.lowest_stop(), Some(Lsn(200)));
        tables.stand_before(|topic| (topic == "p.t").then(|| at(150)).flatten());
        assert_eq!(tables.lowest_stop(), Some(Lsn(150)));
        stop(0, "the topic");
        assert_eq!((tables.lowest_stop(), tables.stopped_in_place().len()), (Some(Lsn(0)), 0));
    }
}
