//! Whether stand-bys keep the slot, so that capture goes on without a new snapshot when one is promoted (trap T16; manual,
//! "Replication Slot Synchronization").
//!
//! The server marks a slot for them from version 17 on. Stand-bys have no slots of their own that they pass on, so none can be
//! made there.

use super::{
    Error,
    settings::{CaptureSettings, FailoverSlot},
};
use crate::{
    postgres,
    source::{connection::ReplicationConnection, recovery, slot::SlotState},
};

/// The first version with failover slots.
pub const SINCE: u32 = 170_000;

/// What is done with the slot of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Marking {
    /// A new one is marked.
    pub(super) creates: bool,
    /// One that is there is made so.
    alters: Option<bool>,
}

impl Marking {
    /// What the configuration wants and the server can.
    pub(super) async fn of(client: &postgres::Client, settings: &CaptureSettings) -> Result<Self, Error> {
        let stands_by = recovery::is_stand_by(client).await?;
        Self::decide(settings.failover, client.server_version(), stands_by)
            .map_err(|reason| Error::NoFailoverSlot { slot: settings.slot.clone(), reason })
    }

    fn decide(wanted: FailoverSlot, version: u32, stands_by: bool) -> Result<Self, &'static str> {
        let hindrance = match (version, stands_by) {
            (..SINCE, _) => Some("the server is older than PostgreSQL 17"),
            (_, true) => Some("the server is a stand-by, whose slots are its own"),
            (_, false) => None,
        };
        match (wanted, hindrance) {
            // One that keeps a copy of the slot is waited for until it is promoted; it refuses itself to make such a slot.
            (FailoverSlot::On, Some(_)) if version >= SINCE => Ok(Self { creates: true, alters: None }),
            (FailoverSlot::On, Some(reason)) => Err(reason),
            (FailoverSlot::On, None) => Ok(Self { creates: true, alters: Some(true) }),
            (FailoverSlot::Auto, hindrance) => Ok(Self { creates: hindrance.is_none(), alters: None }),
            (FailoverSlot::Off, hindrance) => Ok(Self { creates: false, alters: hindrance.is_none().then_some(false) }),
        }
    }

    /// Alters a slot that is there, and that nobody uses, where it is not as it should be.
    pub(super) async fn keep(
        self,
        replication: &mut ReplicationConnection,
        slot: Option<&SlotState>,
    ) -> Result<(), Error> {
        let (Some(slot), Some(failover)) = (slot, self.alters) else { return Ok(()) };
        if slot.failover != failover {
            replication.alter_failover(&slot.name, failover).await?;
            tracing::info!(slot = %slot.name, failover, "altered whether stand-bys keep the replication slot");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_marked_where_the_server_can_and_altered_only_on_demand() {
        let marking = |creates, alters| Ok(Marking { creates, alters });
        let [auto, on, off] = [FailoverSlot::Auto, FailoverSlot::On, FailoverSlot::Off];
        assert_eq!(Marking::decide(auto, 170_000, false), marking(true, None));
        assert_eq!(Marking::decide(auto, 169_999, false), marking(false, None));
        assert_eq!(Marking::decide(auto, 180_000, true), marking(false, None));
        assert_eq!(Marking::decide(on, 180_000, false), marking(true, Some(true)));
        assert_eq!(Marking::decide(on, 170_000, true), marking(true, None));
        assert!(Marking::decide(on, 160_000, false).is_err() && Marking::decide(on, 160_000, true).is_err());
        assert_eq!(Marking::decide(off, 170_000, false), marking(false, Some(false)));
        assert_eq!(Marking::decide(off, 150_000, false), marking(false, None));
    }
}
