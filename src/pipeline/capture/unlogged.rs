//! What no event tells of a table's rows stops it, unless the operator has seen to it.

use super::{Error, session::Session, settings::UnloggedPolicy};
use crate::{
    lsn::Position,
    schema::{Judged, Relation},
    source::{
        layout::{self, Layout},
        unlogged::{self, Unlogged},
        version,
    },
};

impl Session {
    /// Judges what happened to the rows before a version that the stream comes to at this position, as the layout tells.
    pub(super) fn check(
        &self,
        now: &mut Relation,
        unlogged: Option<Unlogged>,
        layout: &Layout,
        position: Position,
    ) -> Result<(), Error> {
        unlogged.map_or(Ok(()), |unlogged| self.judge(now, unlogged, |what| layout.tells(what), position))
    }

    fn judge(
        &self,
        now: &mut Relation,
        unlogged: Unlogged,
        told_by: impl FnOnce(&Unlogged) -> String,
        position: Position,
    ) -> Result<(), Error> {
        let mut key = now.key.iter().filter_map(|index| now.columns.get(*index));
        let in_key = key.any(|column| *column.name == *unlogged.column());
        let is_relabelled = matches!(unlogged, Unlogged::Relabelled { .. });
        if in_key && !is_relabelled {
            return Err(Error::KeyChanged { table: now.name.to_string() });
        }
        let judged = Judged { position, what: told_by(&unlogged) };
        let was_judged = now.lineage.judged.contains(&judged);
        let goes_on = self.settings.on_unlogged == UnloggedPolicy::Continue || was_judged;
        if in_key || !goes_on {
            return Err(Error::Unlogged { table: now.name.to_string(), what: unlogged, in_key });
        }
        if !was_judged {
            tracing::warn!(table = %now.name, %position, %unlogged, "going on behind a change of which no event tells");
            now.lineage.judged.push(judged);
        }
        Ok(())
    }

    /// The same of labels that enumerations had by an earlier version, which may be `now` itself. Where it goes on, the version
    /// has those of the present: sinks would add the former ones again.
    pub(super) async fn check_labels(
        &self,
        before: &Relation,
        now: &mut Relation,
        position: Position,
    ) -> Result<(), Error> {
        let oids = unlogged::enumerations(before);
        if oids.is_empty() {
            return Ok(());
        }
        let present = layout::labels(&self.client, &oids).await?;
        let Some(unlogged) = unlogged::relabelled(before, now, &present) else { return Ok(()) };
        // The column may be of any of them.
        self.judge(now, unlogged, |what| format!("{what}: {present:?}"), position)?;
        let of_enumerations = now.columns.iter().filter(|column| column.ty.enumeration().is_some());
        let types = of_enumerations.map(|column| column.ty.oid).collect();
        Ok(version::describe_types(&self.client, now, &types).await?)
    }
}
