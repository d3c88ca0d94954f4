//! What decides where a row's records lie, and what of it has to stay while a topic has records (trap T53).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    avro::schema::{self, Schema},
    schema::Relation,
    types::{Codec, Modes},
};

/// What decides where a row's records lie, besides the key's values. It stays for a topic's life, else the later records of
/// a row would be in another partition than the earlier ones (trap T53).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyForm {
    /// The key schema and the registry's id of it, which begins the key's bytes; `None` without a key.
    pub schema: Option<(u32, String)>,
    /// Whether all events go to partition 0.
    pub one_partition: bool,
    /// The forms of the key's values; those of the row's may change.
    pub modes: Modes,
    /// Modifiers of the key's columns, where they decide a value's bytes and no schema tells.
    #[serde(default)]
    pub modifiers: Vec<Option<i32>>,
}

#[derive(Debug)]
pub(super) struct KeyColumn {
    /// Index into the plan's columns.
    pub(super) index: usize,
    pub(super) name: Arc<str>,
    /// How the value is written in the key.
    pub(super) codec: Codec,
}

/// The keys of a relation version before their schema is registered.
pub(super) struct KeyDraft {
    pub(super) columns: Vec<KeyColumn>,
    pub(super) schema: Option<Schema>,
    pub(super) modes: Modes,
    pub(super) modifiers: Vec<Option<i32>>,
    pub(super) one_partition: bool,
}

impl KeyDraft {
    /// In the forms of `kept`, as far as the relation allows it, or else in those of `modes`.
    pub(super) fn new(topic: &str, relation: &Relation, modes: Modes, kept: Option<&KeyForm>) -> Self {
        let modes = kept.map_or(modes, |kept| kept.modes);
        let columns = key_columns(relation, modes);
        let used = kept.and_then(|kept| kept.schema.as_ref()).map(|(_, json)| json.as_str());
        let schema = schema::key(topic, columns.iter().map(|column| (&*column.name, &column.codec)));
        Self {
            schema: schema.map(|schema| schema.keep(used)),
            modifiers: key_modifiers(relation, &columns),
            // What lies in one partition may stay there.
            one_partition: kept.is_some_and(|kept| kept.one_partition) || needs_one_partition(relation, &columns),
            modes,
            columns,
        }
    }

    /// Whether records of these keys lie where those of `kept` do, but for the schema's id.
    pub(super) fn keeps(&self, kept: &KeyForm) -> bool {
        self.schema.as_ref().map(|schema| &schema.json) == kept.schema.as_ref().map(|(_, json)| json)
            && self.one_partition == kept.one_partition
            && self.modifiers == kept.modifiers
    }
}

/// The columns of the key, in key order.
fn key_columns(relation: &Relation, modes: Modes) -> Vec<KeyColumn> {
    let columns = relation.key.iter().filter_map(|index| Some((*index, relation.columns.get(*index)?)));
    columns
        .map(|(index, column)| KeyColumn {
            index,
            name: column.name.clone(),
            codec: Codec::of_column(&column.ty, modes),
        })
        .collect()
}

/// Modifiers that decide the bytes of the key's values.
fn key_modifiers(relation: &Relation, key: &[KeyColumn]) -> Vec<Option<i32>> {
    let modifier = |column: &KeyColumn| {
        let ty = &relation.columns.get(column.index)?.ty;
        column.codec.modifier_decides_text().then_some(ty.below_domains().typmod)
    };
    key.iter().map(modifier).collect()
}

/// Whether key bytes do not decide which rows are the same: without a key, or with a type of another equality.
fn needs_one_partition(relation: &Relation, key: &[KeyColumn]) -> bool {
    let is_nondeterministic = |index: usize| relation.columns.get(index).is_none_or(|column| column.nondeterministic);
    key.is_empty() || key.iter().any(|column| !column.codec.keys_equal_as_bytes() || is_nondeterministic(column.index))
}
