//! What a row has that the version of its relation does not know of, since no message tells it.

use std::collections::{BTreeMap, BTreeSet};

use super::{plan::Plan, row};
use crate::{
    event::{Datum, OldTuple, RowChange, Tuple},
    schema::Relation,
    types::Unknown,
};

/// What a change has beyond the schema of its relation's version. What the server left out is nothing of the change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beyond {
    /// Columns whose field cannot be null, and that have NULL: an `ALTER … DROP NOT NULL` came before.
    pub nulls: Vec<usize>,
    /// Columns whose arrays have no null items, and that have NULL among them.
    pub null_items: BTreeSet<usize>,
    /// Labels of enumerations by column, and the column's values or items have them: an `ALTER TYPE … ADD VALUE` came before.
    pub labels: BTreeMap<usize, BTreeSet<String>>,
}

impl Beyond {
    /// Whether the schema has room for everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nulls.is_empty() && self.null_items.is_empty() && self.labels.is_empty()
    }

    /// Gives a version of the relation room for it.
    pub fn admit(&self, relation: &mut Relation) {
        for (index, column) in relation.columns.iter_mut().enumerate() {
            column.nullable |= self.nulls.contains(&index);
            column.null_items |= self.null_items.contains(&index);
            if let Some(labels) = self.labels.get(&index) {
                column.ty.add_labels(labels);
            }
        }
    }
}

impl Plan {
    /// What a change has beyond the plan's schema.
    #[must_use]
    pub fn beyond(&self, change: &RowChange) -> Beyond {
        let mut beyond = Beyond::default();
        if self.required.is_empty() && self.labelled.is_empty() {
            return beyond;
        }
        let (old, new) = match change {
            RowChange::Read(new) | RowChange::Insert(new) => (None, Some(new)),
            RowChange::Update { old, new } => (old.as_ref(), Some(new)),
            RowChange::Delete(old) => (Some(old), None),
        };
        let whole = old.filter(|old| matches!(old, OldTuple::Full(_)));
        let rows = [whole.map(OldTuple::tuple), new];
        let is_null = |index: &usize| rows.iter().flatten().any(|row| matches!(row.get(*index), Some(Datum::Null)));
        beyond.nulls = self.required.iter().copied().filter(is_null).collect();
        for row in [old.map(OldTuple::tuple), new].into_iter().flatten() {
            for index in &self.labelled {
                self.find(*index, row, &mut beyond);
            }
        }
        beyond
    }

    fn find(&self, index: usize, row: &Tuple, beyond: &mut Beyond) {
        let (Some(column), Some(datum)) = (self.columns.get(index), row.get(index)) else { return };
        let mut found = |unknown: Unknown<'_>| match unknown {
            Unknown::NullItem => drop(beyond.null_items.insert(index)),
            Unknown::Label(label) => {
                // What is not UTF-8 stops the table when it is encoded.
                if let Ok(label) = std::str::from_utf8(label) {
                    beyond.labels.entry(index).or_default().insert(label.to_owned());
                }
            }
        };
        match datum {
            Datum::Text(text) => column.codec.unknown(text, found),
            Datum::Binary(bytes) => {
                // As above: a value that cannot be read is told when it is encoded.
                let _unread = row::with_text(self, column, bytes, |text| {
                    column.codec.unknown(text, &mut found);
                    Ok(())
                });
            }
            Datum::Null | Datum::Unchanged => {}
        }
    }
}
