//! What is decided once per relation version, so that nothing is looked up per event.

use std::sync::Arc;

use crate::{
    avro::{
        content::{Content, Nullability, UnknownTypes},
        encode, schema,
        wire::PREFIX_LENGTH,
    },
    event::Op,
    record::{
        form::Presence,
        key_form::{KeyColumn, KeyForm},
        mask::RowMask,
        source::SourceConstants,
    },
    schema::{Column, Relation, TableName},
    types::{BinaryCodec, Codec, Modes, Placeholder, SpecialValues, Value},
};

/// How the events of one relation version are encoded. Made by [`Encoder::prepare`](super::Encoder::prepare).
#[derive(Debug)]
pub struct Plan {
    pub(super) table: TableName,
    pub(super) topic: Arc<str>,
    pub(super) columns: Vec<PlanColumn>,
    /// The same for the rows that a snapshot reads, where some have another form.
    pub(super) read: Option<Vec<PlanColumn>>,
    /// Indices of the columns outside the key whose field has no null.
    pub(super) required: Vec<usize>,
    /// Indices of the columns whose values have labels of an enumeration.
    pub(super) labelled: Vec<usize>,
    /// The key's columns, in key order.
    pub(super) key: Vec<KeyColumn>,
    pub(super) key_schema: Option<RegisteredSchema>,
    pub(super) value_schema: RegisteredSchema,
    pub(super) source: SourceConstants,
    /// Everything goes to partition 0, since key bytes do not decide equality (PROTOCOL, keys).
    pub(super) one_partition: bool,
    pub(super) key_modes: Modes,
    pub(super) key_digits: Vec<Option<i32>>,
    /// What is published in place of some columns.
    pub(super) masks: RowMask,
}

#[derive(Clone, Debug)]
pub(super) struct PlanColumn {
    pub(super) name: Arc<str>,
    /// Its type, as PostgreSQL writes it.
    pub(super) sql: Arc<str>,
    pub(super) codec: Codec,
    /// How a value in binary is read; `None` where only the server can write its text.
    pub(super) binary: Option<BinaryCodec>,
    pub(super) is_key: bool,
    /// The row has no field for it.
    pub(super) is_omitted: bool,
    /// What stands before a value: a field that can be null says by which branch of its union it is not.
    pub(super) branch: Option<u8>,
    /// The field's bytes for NULL.
    pub(super) null: Vec<u8>,
    /// Something else than null stands for NULL, which a header has to tell.
    pub(super) tells_null: bool,
    /// The field's bytes for a value that the server did not send; a header tells them from a value that reads the same (trap
    /// T27).
    pub(super) unsent: Vec<u8>,
}

impl PlanColumn {
    /// The field of a relation's column, with this codec.
    pub(super) fn of(
        relation: &Relation,
        index: usize,
        codec: &Codec,
        content: Content,
        placeholder: &Placeholder,
    ) -> Option<Self> {
        let column = relation.columns.get(index)?;
        let default = schema::default_text(column, codec, content);
        let presence = match &default {
            default if schema::is_required(relation, index, default.is_some(), content.nullability) => Presence::Always,
            None => Presence::Unless { null_branch: 0 },
            Some(_) => Presence::Unless { null_branch: 1 },
        };
        let is_omitted = schema::is_omitted(relation, index, content.unknown_types);
        let field = (presence, default.as_deref());
        Some(Self { is_omitted, ..Self::new(column, codec, relation.is_key(index), field, placeholder) })
    }

    fn new(
        Column { name, ty, .. }: &Column,
        codec: &Codec,
        is_key: bool,
        (presence, default): (Presence, Option<&str>),
        placeholder: &Placeholder,
    ) -> Self {
        let branch = match presence {
            Presence::Always => None,
            Presence::Unless { null_branch: 0 } => Some(encode::SECOND_BRANCH),
            Presence::Unless { .. } => Some(encode::FIRST_BRANCH),
        };
        let field = |value: &Value<'_>| {
            let mut bytes: Vec<u8> = branch.into_iter().collect();
            encode::value(value, &mut Vec::new(), &mut bytes);
            bytes
        };
        // Kafka Connect reads the default for null.
        let default = default.and_then(|text| codec.default_value(text));
        let zero = codec.zero_text(ty);
        let zero = zero.as_deref().and_then(|text| codec.default_value(text));
        let tells_null = default.is_some() || presence == Presence::Always;
        let null = match default {
            Some(default) => field(&default),
            None if tells_null => field(&zero.unwrap_or_else(|| codec.fallback())),
            None => vec![encode::FIRST_BRANCH],
        };
        let unsent = match default {
            _ if codec.has_placeholder(placeholder) => field(&codec.unsent(placeholder)),
            None if tells_null => field(&codec.unsent(placeholder)),
            _ => null.clone(),
        };
        let binary = BinaryCodec::of_column(ty);
        let (name, sql, codec) = (Arc::clone(name), Arc::clone(&ty.sql), codec.clone());
        Self { name, sql, codec, binary, is_key, is_omitted: false, branch, null, tells_null, unsent }
    }

    /// Appends what stands before a value.
    #[inline]
    pub(super) fn append_branch(&self, out: &mut Vec<u8>) {
        if let Some(branch) = self.branch {
            out.push(branch);
        }
    }

    /// Whether its field has no null.
    pub(super) const fn is_required(&self) -> bool {
        self.branch.is_none()
    }
}

/// A schema with the id that the registry gave it.
#[derive(Debug)]
pub(super) struct RegisteredSchema {
    pub(super) id: u32,
    pub(super) prefix: [u8; PREFIX_LENGTH],
    pub(super) json: String,
}

impl Plan {
    /// The topic of the table's records.
    #[must_use]
    pub fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    /// The table.
    #[must_use]
    pub const fn table(&self) -> &TableName {
        &self.table
    }

    /// The registered key schema; `None` for a table without a key.
    #[must_use]
    pub fn key_schema(&self) -> Option<&str> {
        self.key_schema.as_ref().map(|schema| schema.json.as_str())
    }

    /// How the columns of an event's rows are written.
    pub(super) fn columns_of(&self, op: Op) -> &[PlanColumn] {
        self.read.as_ref().filter(|_| op == Op::Read).unwrap_or(&self.columns)
    }

    /// What later plans of the topic have to keep.
    #[must_use]
    pub fn key_form(&self) -> KeyForm {
        let schema = self.key_schema.as_ref().map(|schema| (schema.id, schema.json.clone()));
        let (one_partition, modes) = (self.one_partition, self.key_modes);
        let masks = self.masks.of_key.clone();
        KeyForm { schema, one_partition, modes, digits: Some(self.key_digits.clone()), masks }
    }

    /// The registered value schema.
    #[must_use]
    pub fn value_schema(&self) -> &str {
        &self.value_schema.json
    }

    /// Whether all events go to partition 0.
    #[must_use]
    pub const fn is_one_partition(&self) -> bool {
        self.one_partition
    }
}

/// The columns' codecs.
pub(super) fn codecs(relation: &Relation, modes: Modes, content: Content) -> Vec<Codec> {
    let Content { nullability, unknown_types, .. } = content;
    let codec = |(index, column): (usize, &Column)| {
        let is_key = relation.is_key(index);
        // What several values have in common identifies no row.
        let special_values = if is_key && column.ty.is_array() { SpecialValues::Null } else { modes.special_values };
        let codec = Codec::of_column(&column.ty, Modes { special_values, ..modes });
        let identifies = is_key || relation.key.is_empty();
        if unknown_types == UnknownTypes::Omitted && column.ty.is_read_in_snapshots_only() && !identifies {
            return Codec::of_unsent_name();
        }
        let required = nullability != Nullability::Widened && !column.null_items;
        if required { codec.with_required_items() } else { codec }
    };
    relation.columns.iter().enumerate().map(codec).collect()
}

/// How a snapshot's rows are written; `None` where it is the same way. The fields, and what stands for NULL, are those of the one
/// schema. A key is never another one in a snapshot: rows would not be told apart.
pub(super) fn read_columns(columns: &[PlanColumn]) -> Option<Vec<PlanColumn>> {
    let of_read = |column: &PlanColumn| column.codec.of_read().filter(|_| !column.is_key);
    let column = |column: &PlanColumn| match of_read(column) {
        Some(codec) => PlanColumn { codec, ..column.clone() },
        None => column.clone(),
    };
    columns.iter().any(|column| of_read(column).is_some()).then(|| columns.iter().map(column).collect())
}

/// How logical messages are encoded. Made by [`Encoder::prepare_messages`](super::Encoder::prepare_messages).
#[derive(Debug)]
pub struct MessagePlan {
    pub(super) topic: Arc<str>,
    pub(super) key_prefix: [u8; PREFIX_LENGTH],
    pub(super) key_schema: (u32, String),
    pub(super) value_prefix: [u8; PREFIX_LENGTH],
    pub(super) source: SourceConstants,
}

impl MessagePlan {
    /// What later plans have to keep.
    #[must_use]
    pub fn key_form(&self) -> KeyForm {
        let schema = Some(self.key_schema.clone());
        KeyForm { schema, one_partition: false, modes: Modes::default(), digits: Some(Vec::new()), masks: None }
    }

    /// The topic of the messages.
    #[must_use]
    pub fn topic(&self) -> &Arc<str> {
        &self.topic
    }
}
