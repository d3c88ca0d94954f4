//! Where a session begins: what the recorded position, the slot and the server together allow.
//!
//! The rules are PROTOCOL's, "State and slot": a slot that is ahead of the record, missing or lost is a gap; a server that
//! does not hold what was published has forked. Neither is ever guessed away (traps T6, T7, T16).

use super::{
    Error,
    options::OptionHistory,
    settings::GapPolicy,
    state::{Checkpoint, Phase},
};
use crate::{
    avro::content::OwnHeaders,
    lsn::Lsn,
    record::TopicNames,
    source::slot::{self, SlotState, SlotVerdict},
};

/// What the server says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) system_id: u64,
    pub(super) timeline: u32,
    /// End of the WAL that is flushed there.
    pub(super) wal_end: Lsn,
    /// Where the server's history left the recorded timeline, if it did.
    pub(super) switch_point: Option<Lsn>,
    /// It replays another server's WAL, and may have more of it soon.
    pub(super) stands_by: bool,
}

/// What the server says of the slot, as far as the decision needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) confirmed_flush: Lsn,
    /// Why the server has invalidated it.
    pub(super) lost: Option<String>,
}

/// What the decision needs of a slot; an error if it cannot be used, or not yet.
pub(super) fn usable(found: Option<&SlotState>, name: &str, database: &str) -> Result<Option<Slot>, Error> {
    let slot = name.to_owned();
    let unusable = |reason: String| Error::SlotUnusable { slot: name.to_owned(), reason };
    match slot::assess(found, database, None) {
        SlotVerdict::Missing => Ok(None),
        SlotVerdict::Ready { confirmed_flush } | SlotVerdict::Ahead { confirmed_flush, .. } => {
            Ok(Some(Slot { confirmed_flush, lost: None }))
        }
        SlotVerdict::Lost { reason } => Ok(Some(Slot { confirmed_flush: Lsn::ZERO, lost: Some(reason) })),
        SlotVerdict::InUse { pid, application } => {
            Err(Error::SlotInUse { slot, pid, application: application.unwrap_or_default() })
        }
        SlotVerdict::Synchronised { .. } => Err(Error::SlotSynchronised { slot }),
        SlotVerdict::TwoPhase => Err(unusable("it decodes prepared transactions early (two_phase)".into())),
        SlotVerdict::Foreign { reason } => Err(unusable(reason)),
    }
}

/// How a session begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// Nothing was published yet: create the slot and take the snapshot.
    Fresh {
        /// A slot of an interrupted first start is in the way.
        drop_slot: bool,
    },
    /// Take a new snapshot over what was published before.
    Again {
        /// The old slot is still there.
        drop_slot: bool,
        /// Epoch of the new snapshot.
        epoch: u32,
    },
    /// The snapshot was cut: go on with it beside the stream, or take another.
    Unfinished {
        /// From where the stream goes on, or why it cannot.
        at: Result<Lsn, &'static str>,
        /// The timeline that the ceiling lies on from now on.
        timeline: u32,
        /// The old slot is still there.
        drop_slot: bool,
        /// Epoch of the snapshot.
        epoch: u32,
    },
    /// Stream on from the slot's position.
    Resume {
        /// `confirmed_flush_lsn`.
        at: Lsn,
        /// The timeline that the ceiling lies on from now on.
        timeline: u32,
    },
}

/// How a stream goes on.
pub(super) struct GoingOn {
    /// What is recorded from now on.
    pub(super) checkpoint: Checkpoint,
    /// The stream's first commit LSN.
    pub(super) from: Lsn,
    /// The commit LSN at which the options end.
    pub(super) below: Option<Lsn>,
    /// Changes before it are missing.
    pub(super) gap: bool,
}

/// What was published lies in topics of these names; under others it would be left behind, and the sinks with it. A record that
/// knows no names was written when there was only one form of them.
pub(super) fn check_names(checkpoint: Option<&Checkpoint>, prefix: &str, names: &TopicNames) -> Result<(), Error> {
    let Some(checkpoint) = checkpoint.filter(|checkpoint| checkpoint.phase != Phase::Intent) else { return Ok(()) };
    let recorded = checkpoint.topic_names.clone().unwrap_or_else(|| TopicNames::new(prefix).text());
    let configured = names.text();
    if recorded == configured { Ok(()) } else { Err(Error::OtherNames { recorded, configured }) }
}

/// Sinks tell walrelay's records from another producer's by the headers, and a topic must not have both.
pub(super) fn check_headers(checkpoint: Option<&Checkpoint>, configured: OwnHeaders) -> Result<(), Error> {
    let Some(checkpoint) = checkpoint.filter(|checkpoint| checkpoint.phase != Phase::Intent) else { return Ok(()) };
    let recorded = checkpoint.options.as_ref().map_or(OwnHeaders::Written, OptionHistory::own_headers);
    if recorded == configured { Ok(()) } else { Err(Error::OtherHeaders { written: recorded == OwnHeaders::Written }) }
}

/// Whether the source's snapshot has been taken before.
pub(super) fn is_snapshot_taken(checkpoint: Option<&Checkpoint>, server: Server, slot: &str) -> bool {
    checkpoint.is_some_and(|checkpoint| {
        checkpoint.phase == Phase::Streaming && checkpoint.slot == slot && checkpoint.system_id == server.system_id
    })
}

/// Decides how to begin.
pub(super) fn decide(
    name: &str,
    checkpoint: Option<&Checkpoint>,
    server: Server,
    slot: Option<Slot>,
    policy: GapPolicy,
) -> Result<Start, Error> {
    let drop_slot = slot.is_some();
    let Some(checkpoint) = checkpoint else {
        return match slot {
            None => Ok(Start::Fresh { drop_slot: false }),
            Some(_) => Err(Error::UnknownSlot { slot: name.to_owned() }),
        };
    };
    if checkpoint.slot != name {
        return Err(Error::OtherSlot { recorded: checkpoint.slot.clone(), configured: name.to_owned() });
    }
    if checkpoint.phase == Phase::Intent {
        return Ok(Start::Fresh { drop_slot });
    }
    let (trouble, epoch) = match gap(name, checkpoint, server, slot.as_ref()) {
        Ok(at) => return Ok(Start::Resume { at, timeline: server.timeline }),
        Err(Trouble::Snapshot) => {
            let (at, epoch) = (place_of_snapshot(checkpoint, slot.as_ref()), checkpoint.epoch);
            return Ok(Start::Unfinished { at, timeline: server.timeline, drop_slot, epoch });
        }
        Err(Trouble::Behind(error)) => return Err(error),
        Err(Trouble::Gap(error)) => (error, checkpoint.epoch),
        Err(Trouble::Fork(error)) => (error, checkpoint.epoch.saturating_add(1)),
    };
    match policy {
        GapPolicy::TrustSlot => match trouble {
            Error::SlotAhead { confirmed, .. } => Ok(Start::Resume { at: confirmed, timeline: server.timeline }),
            trouble => Err(trouble),
        },
        GapPolicy::Stop => Err(trouble),
        GapPolicy::Resnapshot => Ok(Start::Again { drop_slot, epoch }),
    }
}

/// Where the stream of a cut snapshot begins: at its point, which the slot must not have left.
fn place_of_snapshot(checkpoint: &Checkpoint, slot: Option<&Slot>) -> Result<Lsn, &'static str> {
    match slot {
        None => Err("its slot is gone"),
        Some(slot) if slot.lost.is_some() => Err("its slot was lost"),
        Some(slot) if slot.confirmed_flush != checkpoint.consistent_point => Err("its slot is at another position"),
        Some(slot) => Ok(slot.confirmed_flush),
    }
}

enum Trouble {
    /// The snapshot was cut.
    Snapshot,
    /// A stand-by has not come to what was published, as after its restart.
    Behind(Error),
    /// Changes are missing; LSNs are still unique.
    Gap(Error),
    /// LSNs may mean other contents than what was published under them.
    Fork(Error),
}

fn gap(name: &str, checkpoint: &Checkpoint, server: Server, slot: Option<&Slot>) -> Result<Lsn, Trouble> {
    if server.system_id != checkpoint.system_id {
        return Err(Trouble::Fork(Error::OtherSystem { recorded: checkpoint.system_id, found: server.system_id }));
    }
    let history_ends = if server.timeline == checkpoint.timeline {
        server.wal_end
    } else {
        // A server whose history does not know the recorded timeline shares nothing that is known.
        server.switch_point.unwrap_or(Lsn::ZERO)
    };
    // Where nothing is published the stream passes the ceiling; what lies below is taken for received all the same.
    let received = checkpoint.ceiling.max(checkpoint.flush).max(checkpoint.published);
    // Its log is the primary's: it comes to the same place on the same timeline, and to a later timeline by way of the earlier ones. One that
    // is beyond that place on an earlier timeline has taken another way.
    let may_come =
        server.timeline == checkpoint.timeline || server.timeline < checkpoint.timeline && server.wal_end < received;
    if server.stands_by && may_come && history_ends < received {
        let (replayed, ceiling) = (server.wal_end, received);
        return Err(Trouble::Behind(Error::StandByBehind { replayed, ceiling }));
    }
    if history_ends < received {
        return Err(Trouble::Fork(Error::Forked { timeline: server.timeline, history_ends, ceiling: received }));
    }
    if checkpoint.phase == Phase::Snapshot {
        return Err(Trouble::Snapshot);
    }
    let Some(slot) = slot else {
        return Err(Trouble::Gap(Error::SlotMissing { slot: name.to_owned(), flush: checkpoint.flush }));
    };
    if let Some(reason) = slot.lost.clone() {
        return Err(Trouble::Gap(Error::SlotLost { slot: name.to_owned(), flush: checkpoint.flush, reason }));
    }
    if slot.confirmed_flush > checkpoint.flush {
        return Err(Trouble::Gap(Error::SlotAhead {
            slot: name.to_owned(),
            confirmed: slot.confirmed_flush,
            flush: checkpoint.flush,
        }));
    }
    Ok(slot.confirmed_flush)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retry::Classify as _;

    fn checkpoint(phase: Phase) -> Checkpoint {
        Checkpoint {
            system_id: 7,
            timeline: 1,
            slot: "s".into(),
            epoch: 3,
            phase,
            consistent_point: Lsn(100),
            flush: Lsn(200),
            published: Lsn(250),
            ceiling: Lsn(300),
            options: None,
            topic_names: None,
        }
    }

    const SERVER: Server =
        Server { system_id: 7, timeline: 1, wal_end: Lsn(400), switch_point: None, stands_by: false };

    #[expect(clippy::unnecessary_wraps, reason = "what `decide` takes")]
    fn slot(confirmed: u64) -> Option<Slot> {
        Some(Slot { confirmed_flush: Lsn(confirmed), lost: None })
    }

    fn lost(confirmed: u64) -> Option<Slot> {
        slot(confirmed).map(|slot| Slot { lost: Some("idle_timeout".into()), ..slot })
    }

    fn streaming(server: Server, slot: Option<Slot>, policy: GapPolicy) -> Result<Start, Error> {
        decide("s", Some(&checkpoint(Phase::Streaming)), server, slot, policy)
    }

    #[test]
    fn a_first_start_creates_the_slot_and_an_unknown_slot_is_refused() {
        let first = |slot| decide("s", None, SERVER, slot, GapPolicy::Stop);
        assert_eq!(first(None).unwrap(), Start::Fresh { drop_slot: false });
        assert!(matches!(first(slot(1)), Err(Error::UnknownSlot { .. })));
    }

    #[test]
    fn a_snapshot_is_taken_when_all_of_it_is_recorded_of_this_source() {
        let taken =
            |phase, system_id, slot| is_snapshot_taken(Some(&checkpoint(phase)), Server { system_id, ..SERVER }, slot);
        assert!(taken(Phase::Streaming, 7, "s"));
        assert!(!taken(Phase::Snapshot, 7, "s") && !taken(Phase::Intent, 7, "s"));
        assert!(!taken(Phase::Streaming, 8, "s") && !taken(Phase::Streaming, 7, "other"));
        assert!(!is_snapshot_taken(None, SERVER, "s"));
    }

    #[test]
    fn a_slot_of_an_interrupted_first_start_is_dropped() {
        let state = checkpoint(Phase::Intent);
        let start = decide("s", Some(&state), SERVER, slot(1), GapPolicy::Stop).unwrap();
        assert_eq!(start, Start::Fresh { drop_slot: true });
    }

    #[test]
    fn a_cut_snapshot_goes_on_where_its_slot_is_at_its_point() {
        let state = checkpoint(Phase::Snapshot);
        let cut = |slot| decide("s", Some(&state), SERVER, slot, GapPolicy::Stop).unwrap();
        let unfinished = |at, drop_slot| Start::Unfinished { at, timeline: 1, drop_slot, epoch: 3 };
        assert_eq!(cut(slot(100)), unfinished(Ok(Lsn(100)), true));
        assert_eq!(cut(slot(99)), unfinished(Err("its slot is at another position"), true));
        assert_eq!(cut(slot(101)), unfinished(Err("its slot is at another position"), true));
        assert_eq!(cut(None), unfinished(Err("its slot is gone"), false));
        assert_eq!(cut(lost(100)), unfinished(Err("its slot was lost"), true));
        let behind = Server { wal_end: Lsn(299), ..SERVER };
        assert!(matches!(decide("s", Some(&state), behind, slot(100), GapPolicy::Stop), Err(Error::Forked { .. })));
    }

    // trap T4
    #[test]
    fn a_slot_behind_the_record_resumes_there() {
        assert_eq!(streaming(SERVER, slot(150), GapPolicy::Stop).unwrap(), Start::Resume { at: Lsn(150), timeline: 1 });
    }

    // traps T6, T7, T13
    #[test]
    fn a_slot_ahead_missing_or_lost_is_a_gap() {
        assert!(matches!(streaming(SERVER, slot(201), GapPolicy::Stop), Err(Error::SlotAhead { .. })));
        assert!(matches!(streaming(SERVER, None, GapPolicy::Stop), Err(Error::SlotMissing { .. })));
        let error = streaming(SERVER, lost(200), GapPolicy::Stop).unwrap_err();
        assert!(matches!(&error, Error::SlotLost { reason, .. } if reason == "idle_timeout"), "{error:?}");
        assert!(error.hint().is_some_and(|hint| hint.contains("SET idle_replication_slot_timeout = 0")));
        let again = streaming(SERVER, None, GapPolicy::Resnapshot).unwrap();
        assert_eq!(again, Start::Again { drop_slot: false, epoch: 3 });
    }

    // trap T6
    #[test]
    fn only_a_slot_that_is_ahead_can_be_trusted() {
        let trusting = |server, slot| streaming(server, slot, GapPolicy::TrustSlot);
        assert_eq!(trusting(SERVER, slot(201)).unwrap(), Start::Resume { at: Lsn(201), timeline: 1 });
        assert_eq!(trusting(SERVER, slot(150)).unwrap(), Start::Resume { at: Lsn(150), timeline: 1 });
        assert!(matches!(trusting(SERVER, None), Err(Error::SlotMissing { .. })));
        assert!(matches!(trusting(SERVER, lost(201)), Err(Error::SlotLost { .. })));
        let behind = Server { wal_end: Lsn(299), ..SERVER };
        assert!(matches!(trusting(behind, slot(201)), Err(Error::Forked { .. })));
    }

    // trap T16
    #[test]
    fn a_stand_by_that_lacks_what_was_published_is_waited_for() {
        let state = Checkpoint { timeline: 2, ..checkpoint(Phase::Streaming) };
        let stand_by = Server { stands_by: true, wal_end: Lsn(299), timeline: 2, ..SERVER };
        let start = |server| decide("s", Some(&state), server, slot(200), GapPolicy::Resnapshot);
        let behind = |start| matches!(start, Err(Error::StandByBehind { ceiling: Lsn(300), .. }));
        assert!(behind(start(stand_by)));
        // After its restart it replays the end of an earlier timeline first.
        assert!(behind(start(Server { timeline: 1, ..stand_by })));
        let other_way = start(Server { timeline: 1, wal_end: Lsn(400), ..stand_by });
        assert_eq!(other_way.unwrap(), Start::Again { drop_slot: true, epoch: 4 });
        assert_eq!(
            start(Server { wal_end: Lsn(300), ..stand_by }).unwrap(),
            Start::Resume { at: Lsn(200), timeline: 2 }
        );
        // Its primary lacks it for good.
        let forked = Server { timeline: 3, switch_point: Some(Lsn(299)), wal_end: Lsn(400), ..stand_by };
        assert_eq!(start(forked).unwrap(), Start::Again { drop_slot: true, epoch: 4 });
    }

    // trap T16
    #[test]
    fn a_server_that_lacks_what_was_published_gets_a_new_epoch_or_stops() {
        let behind = Server { wal_end: Lsn(299), ..SERVER };
        assert!(matches!(streaming(behind, slot(200), GapPolicy::Stop), Err(Error::Forked { .. })));
        let promoted = Server { timeline: 2, switch_point: Some(Lsn(299)), ..SERVER };
        let again = streaming(promoted, slot(200), GapPolicy::Resnapshot).unwrap();
        assert_eq!(again, Start::Again { drop_slot: true, epoch: 4 });
        let in_time = Server { timeline: 2, switch_point: Some(Lsn(300)), ..SERVER };
        // The next start must not measure a raised ceiling by the old timeline's end.
        let resumed = streaming(in_time, slot(200), GapPolicy::Stop).unwrap();
        assert_eq!(resumed, Start::Resume { at: Lsn(200), timeline: 2 });
    }

    /// The stream goes on above the ceiling where nothing is published, and counts as received.
    #[test]
    fn a_server_that_lacks_what_was_confirmed_is_a_fork_too() {
        let state = Checkpoint { flush: Lsn(500), published: Lsn(500), ..checkpoint(Phase::Streaming) };
        let promoted = Server { timeline: 2, switch_point: Some(Lsn(400)), ..SERVER };
        let found = decide("s", Some(&state), promoted, slot(200), GapPolicy::Stop);
        assert!(matches!(found, Err(Error::Forked { ceiling: Lsn(500), .. })), "{found:?}");
        let in_time = Server { switch_point: Some(Lsn(500)), ..promoted };
        assert!(decide("s", Some(&state), in_time, slot(200), GapPolicy::Stop).is_ok());
    }

    #[test]
    fn the_last_epoch_is_no_reason_to_panic() {
        let state = Checkpoint { epoch: u32::MAX, ..checkpoint(Phase::Streaming) };
        let behind = Server { wal_end: Lsn(299), ..SERVER };
        let again = decide("s", Some(&state), behind, slot(200), GapPolicy::Resnapshot).unwrap();
        assert_eq!(again, Start::Again { drop_slot: true, epoch: u32::MAX });
    }

    #[test]
    fn topics_keep_their_names() {
        let names = TopicNames::of_templates("{prefix}-{schema}-{table}", "{prefix}-message", "p", "").unwrap();
        let recorded = |phase, names: Option<&TopicNames>| Checkpoint {
            topic_names: names.map(TopicNames::text),
            ..checkpoint(phase)
        };
        let check = |checkpoint: Checkpoint, names: &TopicNames| check_names(Some(&checkpoint), "p", names).is_ok();
        let plain = TopicNames::new("p");
        assert!(check(recorded(Phase::Streaming, None), &plain));
        assert!(check(recorded(Phase::Streaming, Some(&names)), &names));
        for phase in [Phase::Snapshot, Phase::Streaming] {
            assert!(!check(recorded(phase, None), &names));
            assert!(!check(recorded(phase, Some(&names)), &plain));
        }
        assert!(check(recorded(Phase::Intent, Some(&names)), &plain));
        assert!(check_names(None, "p", &names).is_ok());
    }
}
