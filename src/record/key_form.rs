//! What decides where a row's records lie, and what of it has to stay while a topic has records (trap T53).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    avro::{
        content::Content,
        schema::{self, Schema},
    },
    record::mask::RowMask,
    schema::Relation,
    types::{Codec, Modes, SpecialValues},
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
    /// Digits behind the point of the key's columns, where no schema tells ([`Codec::written_digits`]). A record that does not
    /// know them was written under those of the relation, as far as can be told.
    #[serde(default)]
    pub digits: Option<Vec<Option<i32>>>,
    /// What the masks of key columns depend on; `None` where none is masked. Under other ones a row has another key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masks: Option<String>,
}

impl KeyForm {
    /// Whether records of these keys lie where those of `kept` do, and mean the same rows. In one partition nothing can move.
    #[must_use]
    pub fn keeps(&self, kept: &Self) -> bool {
        let lies_as = || self.one_partition && kept.one_partition || self.schema == kept.schema && self.lies_as(kept);
        self.masks == kept.masks && lies_as()
    }

    /// The same but for the schema.
    fn lies_as(&self, kept: &Self) -> bool {
        let known = self.digits.as_ref().zip(kept.digits.as_ref());
        self.one_partition == kept.one_partition && known.is_none_or(|(digits, known)| digits == known)
    }
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
    pub(super) digits: Vec<Option<i32>>,
    pub(super) one_partition: bool,
    pub(super) masks: Option<String>,
}

impl KeyDraft {
    /// In the forms of `kept`, as far as the relation allows it, or else in those of `modes`.
    pub(super) fn new(
        topic: &str,
        relation: &Relation,
        (modes, content): (Modes, Content),
        kept: Option<&KeyForm>,
    ) -> Self {
        // Other rows must have other keys.
        let modes = Modes { special_values: SpecialValues::Null, ..kept.map_or(modes, |kept| kept.modes) };
        let columns = key_columns(relation, modes);
        let used = kept.and_then(|kept| kept.schema.as_ref()).map(|(_, json)| json.as_str());
        let default = |column: &KeyColumn| {
            let text = schema::default_text(relation.columns.get(column.index)?, &column.codec, content)?;
            column.codec.default_json(&text)
        };
        let fields = columns.iter().map(|column| (&*column.name, &column.codec, default(column)));
        let schema = schema::key(topic, fields);
        Self {
            schema: schema.map(|schema| schema.keep(used)),
            digits: key_digits(relation, &columns),
            // What lies in one partition may stay there.
            one_partition: kept.is_some_and(|kept| kept.one_partition) || needs_one_partition(relation, &columns),
            modes,
            columns,
            masks: None,
        }
    }

    /// The same with what the masks of its columns depend on.
    pub(super) fn masked(self, row: &RowMask) -> Self {
        Self { masks: row.of_key.clone(), ..self }
    }

    /// Whether records of these keys lie where those of `kept` do, if the schema's id is that of `kept` too.
    pub(super) fn keeps(self, kept: &KeyForm) -> bool {
        let id = kept.schema.as_ref().map_or(0, |(id, _)| *id);
        self.form(id).keeps(kept)
    }

    /// With the id of its schema.
    fn form(self, id: u32) -> KeyForm {
        KeyForm {
            schema: self.schema.map(|schema| (id, schema.json)),
            one_partition: self.one_partition,
            modes: self.modes,
            digits: Some(self.digits),
            masks: self.masks,
        }
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

/// Digits that decide the bytes of the key's values.
fn key_digits(relation: &Relation, key: &[KeyColumn]) -> Vec<Option<i32>> {
    let digits = |column: &KeyColumn| column.codec.written_digits(&relation.columns.get(column.index)?.ty);
    key.iter().map(digits).collect()
}

/// Whether the events of a table lie in one partition, with keys in these forms: its rows are not told apart by bytes.
pub(super) fn lies_in_one_partition(relation: &Relation, modes: Modes) -> bool {
    needs_one_partition(relation, &key_columns(relation, modes))
}

/// Whether key bytes do not decide which rows are the same: without a key, or with a type of another equality.
fn needs_one_partition(relation: &Relation, key: &[KeyColumn]) -> bool {
    let is_nondeterministic = |index: usize| relation.columns.get(index).is_none_or(|column| column.nondeterministic);
    key.is_empty() || key.iter().any(|column| !column.codec.keys_equal_as_bytes() || is_nondeterministic(column.index))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        schema::{Column, Lineage, ReplicaIdentity, TableName},
        types::{ColumnType, DecimalMode},
    };

    const fn numeric(precision: i32, scale: i32) -> i32 {
        (precision << 16 | scale) + 4
    }

    /// A relation whose key is one column of a type.
    fn relation(oid: u32, typmod: i32) -> Relation {
        let ty = ColumnType::base(oid, typmod, "any");
        let column = Column {
            name: "id".into(),
            attnum: Some(1),
            ty,
            nullable: false,
            nondeterministic: false,
            optional: false,
            added: false,
            default: None,
            missing: None,
            null_items: false,
        };
        let name = TableName::new("public", "t");
        Relation {
            oid: 1,
            name,
            identity: ReplicaIdentity::Default,
            columns: vec![column],
            key: vec![0],
            lineage: Lineage::default(),
        }
    }

    fn form(oid: u32, typmod: i32) -> KeyForm {
        let modes = Modes { decimal: DecimalMode::String, ..Modes::default() };
        KeyDraft::new("p.public.t", &relation(oid, typmod), (modes, Content::default()), None).form(7)
    }

    #[test]
    fn only_digits_that_values_are_written_with_decide_where_they_lie() {
        let keeps = |oid, before, after| form(oid, after).keeps(&form(oid, before));
        assert!(keeps(1700, numeric(10, 2), numeric(12, 2)));
        assert!(!keeps(1700, numeric(10, 2), numeric(12, 3)));
        assert!(!keeps(1700, numeric(10, 2), -1));
        assert!(keeps(1184, -1, 6));
        assert!(!keeps(1184, 3, -1));
    }

    #[test]
    fn a_record_that_knows_no_digits_is_taken_for_one_of_the_relation_s() {
        let mut json = serde_json::to_value(form(1184, 3)).unwrap();
        json.as_object_mut().unwrap().remove("digits");
        let kept: KeyForm = serde_json::from_value(json).unwrap();
        assert!(form(1184, 3).keeps(&kept));
        assert_ne!(form(1184, 3), kept, "and is recorded anew");
    }

    #[test]
    fn in_one_partition_nothing_moves() {
        let kept = form(701, -1);
        assert!(kept.one_partition);
        let other = KeyForm { schema: Some((8, "{}".into())), ..kept.clone() };
        assert!(other.keeps(&kept));
        assert!(!KeyForm { one_partition: false, ..other }.keeps(&kept));
    }
}
