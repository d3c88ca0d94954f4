//! Whether resyncs may go on: what forbids them, and whether all rows of their tables can have come.
//!
//! It is asked at a signal, when a session takes up what is recorded, before the end is put into the stream, and once more where the stream
//! delivers it. The last look sees what was committed before the end and not seen by the one before.

use super::{Error, session::Session, settings::CaptureSettings, unread};
use crate::{
    avro::flat::Records,
    lsn::Position,
    postgres,
    source::{membership, window},
};

/// Why a table leaves whose partitions are others.
const OTHER_LEAVES: &str = "a partition was attached, or detached and attached again, while it was read";

/// Why a table leaves of which changes may be untold.
const OTHER_MEMBERSHIP: &str =
    "the publication has it otherwise than when its rows began to be read, or no longer: changes may be untold";

/// Why this capture cannot read tables again; `None` if it can.
pub(super) async fn hindrance(
    client: &postgres::Client,
    settings: &CaptureSettings,
) -> Result<Option<&'static str>, Error> {
    if settings.encoder.records != Records::Envelope {
        return Ok(Some("flat records have no end of a resync"));
    }
    Ok(unread::hindrance(client, settings).await?)
}

/// Looks at a resync that is about to end. Tables of which rows may be missing leave it: rows of a leaf that came meanwhile are neither read
/// nor told by the stream, and what was changed while the publication did not have the table is not told either.
pub(super) async fn look(session: &Session, begin: Position) -> Result<(), Error> {
    let members = session.resyncs.members_of(begin);
    if members.is_empty() {
        return Ok(());
    }
    let hindrance = hindrance(&session.client, &session.settings).await?;
    let oids: Vec<_> = members.iter().map(|member| member.oid).collect();
    let leaves = window::leaves(&session.client, &oids).await?;
    let publication = &session.settings.publication.name;
    let memberships = membership::fingerprints(&session.client, publication, &oids).await?;
    for member in members {
        let reason = match hindrance {
            Some(reason) => reason,
            None if member.has_other_leaves(leaves.get(&member.oid)) => OTHER_LEAVES,
            None if !member.is_published_as(memberships.get(&member.oid)) => OTHER_MEMBERSHIP,
            None => continue,
        };
        session.leave(&member.name, begin..=begin, session.place(), reason).await?;
        session.windows.stop(member.oid, reason);
    }
    Ok(())
}
