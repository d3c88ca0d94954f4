//! Masks of columns: which columns have one, and what is published of them.
//!
//! A masked column is published as `text`, whatever text type it has at the source: a hash does not fit `varchar(10)`. So schemas tell
//! neither its length nor its default, and the value that rows have which are older than the column is masked too. The tuples are
//! masked before anything of them is written, so that there is no place where a plain value could come out: rows, keys, headers.
//!
//! Which columns are masked is no matter of history, as other options of events are: a mask that is configured later also holds for
//! what is published again.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;

use crate::{
    event::{Datum, OldTuple, RowChange, Tuple},
    retry::{Classify, Severity},
    schema::{Column, Relation, TableName},
    selection::{Contradiction, NamePattern, Rules},
    types::{ColumnType, Mask, Salt, TypeKind},
};

/// OIDs of `pg_type`.
const TEXT: u32 = 25;
const BPCHAR: u32 = 1042;
const VARCHAR: u32 = 1043;

/// What a recorded value begins with that is masked already; no text of PostgreSQL does by chance.
const CONCEALED: &str = "\u{1}masked:";

/// The configured masks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Masks {
    rules: Rules<Mask>,
    salt: Salt,
}

/// Why a column cannot be masked as configured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MaskError {
    /// It has no text.
    #[error("column {column} of table {table} is masked ({mask}), but its type {ty} is no text")]
    Type {
        /// The table.
        table: TableName,
        /// The column.
        column: Arc<str>,
        /// The mask.
        mask: Mask,
        /// Its type, as PostgreSQL writes it.
        ty: Arc<str>,
    },
    /// Other rows would get the same key.
    #[error(
        "column {column} of table {table} is of its key, and the mask {mask} would give different rows the same key"
    )]
    Key {
        /// The table.
        table: TableName,
        /// The column.
        column: Arc<str>,
        /// The mask.
        mask: Mask,
    },
    /// Equal keys would get other hashes.
    #[error(
        "column {column} of table {table} is of its key, and calls texts equal that differ: their hashes would differ"
    )]
    Equality {
        /// The table.
        table: TableName,
        /// The column.
        column: Arc<str>,
    },
    /// Two globs match.
    #[error("capture.masks contradicts itself on column {column} of table {table}")]
    Contradiction {
        /// The table.
        table: TableName,
        /// The column.
        column: Arc<str>,
        /// Which entries.
        #[source]
        source: Contradiction,
    },
    /// No column has the name.
    #[error("capture.masks names {name}, and no captured table has such a column: nothing is masked by it")]
    Stranger {
        /// The name.
        name: String,
    },
    /// It has another name by now.
    #[error("column {column} of table {table} was masked as {former}, and is not under its new name")]
    Renamed {
        /// The table.
        table: TableName,
        /// The column.
        column: Arc<str>,
        /// Its former name, with its table's.
        former: String,
    },
}

impl Classify for MaskError {
    fn severity(&self) -> Severity {
        Severity::Definite
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Type { table, column, .. } => format!(
                "Masks are for text, varchar, char and citext, and domains over them. Leave the column out instead: [capture.column_lists] of {table} without {column}."
            ),
            Self::Key { .. } | Self::Equality { .. } => {
                "A column of the key can be hashed, if its collation is deterministic and it is no citext; or leave the table out.".into()
            }
            Self::Contradiction { table, column, .. } => format!(
                "Let the two say the same, or add an entry {table}.{column} without wildcards, which is stronger than both."
            ),
            Self::Stranger { .. } => "Correct the name (schema.table.column), or take the entry out if the column is gone.".into(),
            Self::Renamed { table, column, .. } => {
                format!("Add an entry {table}.{column} to capture.masks, and restart capture.")
            }
        })
    }
}

/// How the masked columns of a relation version are written.
#[derive(Debug, Default)]
pub(super) struct RowMask {
    /// Indices of columns, their masks, and whether spaces at the end are no part of the text.
    columns: Vec<(usize, Mask, bool)>,
    salt: Salt,
    /// What the masks of key columns depend on; `None` where none is masked.
    pub(super) of_key: Option<String>,
}

impl Masks {
    /// Masks by globs over `schema.table.column`.
    #[must_use]
    pub const fn new(rules: Rules<Mask>, salt: Salt) -> Self {
        Self { rules, salt }
    }

    /// What hashes begin with.
    #[must_use]
    pub const fn salt(&self) -> &Salt {
        &self.salt
    }

    /// Whether no column is masked.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The mask of a column, if it has one.
    ///
    /// # Errors
    /// Two globs say different things of it.
    pub fn of(&self, table: &TableName, column: &str) -> Result<Option<Mask>, Contradiction> {
        self.rules.find(&[&*table.schema, &*table.table, column]).map(Option::<&Mask>::copied)
    }

    /// Whether a column has a mask, or nobody knows which.
    #[must_use]
    pub fn hides(&self, table: &TableName, column: &str) -> bool {
        !matches!(self.of(table, column), Ok(None))
    }

    /// The names without wildcards that none of the relations has a column for: most often a misspelt one, under which nothing is masked.
    ///
    /// # Errors
    /// The first one.
    pub fn find_all<'a>(&self, relations: impl Iterator<Item = &'a Relation> + Clone) -> Result<(), MaskError> {
        let has = |relation: &Relation, pattern: &NamePattern| {
            let TableName { schema, table } = &relation.name;
            relation.columns.iter().any(|column| pattern.matches(&[&**schema, &**table, &*column.name]))
        };
        for (pattern, _) in self.rules.iter().filter(|(pattern, _)| pattern.is_name()) {
            if !relations.clone().any(|relation| has(relation, pattern)) {
                return Err(MaskError::Stranger { name: pattern.text().to_owned() });
            }
        }
        Ok(())
    }

    /// Whether the masks of a relation are such as can be.
    ///
    /// # Errors
    /// Why they are not.
    pub fn check(&self, relation: &Relation) -> Result<(), MaskError> {
        self.plan(relation).map(drop)
    }

    /// Whether what was masked before a relation's columns changed is so behind it. Where the catalog was ahead of a version, its columns
    /// have no numbers: one whose name is gone may be any that is new then.
    ///
    /// # Errors
    /// A column has another name, and no mask.
    pub fn follow(&self, before: &Relation, after: &Relation) -> Result<(), MaskError> {
        for former in before.columns.iter().filter(|former| self.hides(&before.name, &former.name)) {
            let has = |relation: &Relation, name: &str| relation.columns.iter().any(|column| &*column.name == name);
            let is_gone = !has(after, &former.name);
            let may_be_same = |column: &&Column| match (former.attnum, column.attnum) {
                (Some(former), Some(now)) => former == now,
                _ => is_gone && !has(before, &column.name),
            };
            let plain = |column: &&Column| !self.hides(&after.name, &column.name);
            if let Some(now) = after.columns.iter().filter(may_be_same).find(plain) {
                let (table, column) = (after.name.clone(), now.name.clone());
                return Err(MaskError::Renamed { table, column, former: format!("{}.{}", before.name, former.name) });
            }
        }
        Ok(())
    }

    /// The relation as it is published, and how its tuples become so.
    pub(super) fn plan<'a>(&self, relation: &'a Relation) -> Result<(Cow<'a, Relation>, RowMask), MaskError> {
        let mut masked = Cow::Borrowed(relation);
        let mut row = RowMask::default();
        let mut of_key = String::new();
        for (index, column) in relation.columns.iter().enumerate() {
            let Some(mask) = self.mask(relation, index, column)? else { continue };
            let is_padded = column.ty.below_domains().oid == BPCHAR;
            row.columns.push((index, mask, is_padded));
            row.salt = self.salt.clone();
            // Without a key the whole row is what sinks find it by.
            if relation.is_key(index) {
                of_key = format!("{of_key}{}\0", column.name);
            } else if relation.key.is_empty() {
                of_key = format!("{of_key}{}={mask}\0", column.name);
            }
            let published = &mut masked.to_mut().columns[index];
            published.ty = ColumnType::base(TEXT, -1, "text");
            published.nondeterministic = false;
            published.default = None;
            let missing =
                |text: Arc<str>| if is_concealed(&text) { text } else { self.conceal_text(mask, is_padded, &text) };
            published.missing = published.missing.take().map(missing);
        }
        reveal(&mut masked);
        // Hashed, since it is recorded: the salt must not be.
        row.of_key = (!of_key.is_empty()).then(|| self.salt.hash(format!("key of {of_key}").as_bytes()));
        Ok((masked, row))
    }

    /// Masks what the catalog tells of a masked column beside its rows, before it is recorded: the value of rows that are older than
    /// it, and its default. The type of the column is told by its OID.
    pub fn conceal(
        &self,
        table: &TableName,
        column: &str,
        ty: u32,
        missing: &mut Option<String>,
        default: &mut Option<Box<str>>,
    ) {
        let Ok(Some(mask)) = self.of(table, column) else { return };
        *missing = missing.take().map(|text| self.conceal_text(mask, ty == BPCHAR, &text).as_ref().to_owned());
        *default = None;
    }

    /// Takes the defaults from the masked columns of a relation, before it is recorded.
    pub fn forget_defaults(&self, relation: &mut Relation) {
        let Relation { name, columns, .. } = relation;
        for column in columns.iter_mut().filter(|column| column.default.is_some() && self.hides(name, &column.name)) {
            column.default = None;
        }
    }

    fn conceal_text(&self, mask: Mask, is_padded: bool, text: &str) -> Arc<str> {
        let masked = row_text(&self.salt, mask, is_padded, text.as_bytes());
        format!("{CONCEALED}{}", String::from_utf8_lossy(&masked)).into()
    }

    fn mask(&self, relation: &Relation, index: usize, column: &Column) -> Result<Option<Mask>, MaskError> {
        let (table, name) = (|| relation.name.clone(), || column.name.clone());
        let contradiction = |source| MaskError::Contradiction { table: table(), column: name(), source };
        let Some(mask) = self.of(&relation.name, &column.name).map_err(contradiction)? else { return Ok(None) };
        let ty = column.ty.below_domains();
        let is_citext = matches!(&ty.kind, TypeKind::Extension(extension) if &**extension == "citext");
        if !(is_citext || ty.kind.is_base() && matches!(ty.oid, TEXT | VARCHAR | BPCHAR)) {
            return Err(MaskError::Type { table: table(), column: name(), mask, ty: column.ty.sql.clone() });
        }
        if relation.is_key(index) && !mask.tells_apart() {
            return Err(MaskError::Key { table: table(), column: name(), mask });
        }
        if relation.is_key(index) && (is_citext || column.nondeterministic) {
            return Err(MaskError::Equality { table: table(), column: name() });
        }
        Ok(Some(mask))
    }
}

impl RowMask {
    /// The change as it is published.
    pub(super) fn change<'a>(&self, change: &'a RowChange) -> Cow<'a, RowChange> {
        if self.columns.is_empty() {
            return Cow::Borrowed(change);
        }
        let old = |old: &OldTuple| match old {
            OldTuple::Key(tuple) => OldTuple::Key(self.tuple(tuple)),
            OldTuple::Full(tuple) => OldTuple::Full(self.tuple(tuple)),
        };
        Cow::Owned(match change {
            RowChange::Read(tuple) => RowChange::Read(self.tuple(tuple)),
            RowChange::Insert(tuple) => RowChange::Insert(self.tuple(tuple)),
            RowChange::Update { old: before, new } => {
                RowChange::Update { old: before.as_ref().map(old), new: self.tuple(new) }
            }
            RowChange::Delete(before) => RowChange::Delete(old(before)),
        })
    }

    /// Whether a column is masked.
    pub(super) fn hides(&self, index: usize) -> bool {
        self.columns.iter().any(|(masked, ..)| *masked == index)
    }

    /// Of a text type the binary form is the text.
    fn tuple(&self, tuple: &Tuple) -> Tuple {
        let mut masked = tuple.clone();
        for (index, mask, is_padded) in &self.columns {
            if let Some(datum @ (Datum::Text(_) | Datum::Binary(_))) = masked.get_mut(*index)
                && let Datum::Text(text) | Datum::Binary(text) = &*datum
            {
                *datum = Datum::Text(Bytes::from(row_text(&self.salt, *mask, *is_padded, text)));
            }
        }
        masked
    }
}

fn is_concealed(text: &str) -> bool {
    text.starts_with(CONCEALED)
}

/// Takes the mark from values that are masked, also where the mask was taken away since: the plain value is not known.
fn reveal(relation: &mut Cow<'_, Relation>) {
    let masked =
        |column: &Column| column.missing.as_deref().and_then(|text| text.strip_prefix(CONCEALED)).map(Arc::<str>::from);
    if relation.columns.iter().any(|column| masked(column).is_some()) {
        for column in &mut relation.to_mut().columns {
            column.missing = masked(column).or_else(|| column.missing.take());
        }
    }
}

/// The mask of a text. The spaces at the end of a `char(n)` are no part of it.
fn row_text(salt: &Salt, mask: Mask, is_padded: bool, text: &[u8]) -> Vec<u8> {
    let spaces = text.iter().rev().take_while(|byte| **byte == b' ').count();
    let text = if is_padded { &text[..text.len() - spaces] } else { text };
    mask.of(salt, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Lineage, ReplicaIdentity};

    fn masks(rules: &[(&'static str, &str)]) -> Masks {
        let rules = rules.iter().map(|(pattern, mask)| (*pattern, mask.parse().unwrap()));
        Masks::new(Rules::new(3, rules).unwrap(), Salt::new("salt"))
    }

    fn column(name: &str, attnum: i16, ty: ColumnType) -> Column {
        Column {
            name: name.into(),
            attnum: Some(attnum),
            ty,
            nullable: true,
            nondeterministic: false,
            optional: false,
            added: false,
            default: Some("'plain'::text".into()),
            missing: Some("plain".into()),
            null_items: false,
        }
    }

    /// Its key is its first column.
    fn relation(types: &[(&str, ColumnType)]) -> Relation {
        let columns = (1..).zip(types).map(|(attnum, (name, ty))| column(name, attnum, ty.clone())).collect();
        Relation {
            oid: 1,
            name: TableName::new("public", "t"),
            identity: ReplicaIdentity::Full,
            columns,
            key: vec![0],
            lineage: Lineage::default(),
        }
    }

    fn varchar() -> ColumnType {
        ColumnType::base(VARCHAR, 14, "character varying(10)")
    }

    fn citext() -> ColumnType {
        ColumnType { kind: TypeKind::Extension("citext".into()), ..ColumnType::base(20_000, -1, "public.citext") }
    }

    #[test]
    fn a_masked_column_is_published_as_text_without_what_tells_its_values() {
        let domain =
            ColumnType { kind: TypeKind::Domain(Arc::new(varchar())), ..ColumnType::base(20_001, -1, "public.d") };
        let relation = relation(&[("id", varchar()), ("a", domain), ("b", citext()), ("c", varchar())]);
        let (masked, row) = masks(&[("public.t.id", "hash"), ("*.*.[ab]", "truncate:2")]).plan(&relation).unwrap();
        for (index, missing) in [(1, "pl"), (2, "pl")] {
            let column = &masked.columns[index];
            assert_eq!(
                (&*column.ty.sql, column.default.as_deref(), column.missing.as_deref()),
                ("text", None, Some(missing))
            );
        }
        assert_eq!(masked.columns[3], relation.columns[3]);
        assert!(row.of_key.is_some());
    }

    #[test]
    fn every_tuple_of_a_change_is_masked_and_null_and_unsent_values_stay() {
        let relation =
            relation(&[("id", varchar()), ("a", ColumnType::base(BPCHAR, 14, "character(10)")), ("b", varchar())]);
        let (_, row) = masks(&[("public.t.*", "hash")]).plan(&relation).unwrap();
        let text = |text: &'static str| Datum::Text(Bytes::from_static(text.as_bytes()));
        let hash = |text: &str| Datum::Text(Bytes::from(Salt::new("salt").hash(text.as_bytes())));
        let new = vec![text("k"), Datum::Binary(Bytes::from_static(b"a  ")), Datum::Unchanged];
        let old = vec![text("k"), Datum::Null, Datum::Null];
        let masked = vec![hash("k"), hash("a"), Datum::Unchanged];
        let key = vec![hash("k"), Datum::Null, Datum::Null];
        let changes = [
            (RowChange::Read(new.clone()), RowChange::Read(masked.clone())),
            (RowChange::Insert(new.clone()), RowChange::Insert(masked.clone())),
            (RowChange::Delete(OldTuple::Key(old.clone())), RowChange::Delete(OldTuple::Key(key.clone()))),
            (
                RowChange::Update { old: Some(OldTuple::Full(old)), new },
                RowChange::Update { old: Some(OldTuple::Full(key)), new: masked },
            ),
        ];
        for (plain, masked) in changes {
            assert_eq!(*row.change(&plain), masked);
        }
    }

    #[test]
    fn what_cannot_be_masked_is_refused() {
        let of = |rules: &[(&'static str, &str)], relation: &Relation| masks(rules).check(relation).unwrap_err();
        let plain = relation(&[("id", varchar()), ("n", ColumnType::base(23, -1, "integer"))]);
        assert!(matches!(of(&[("public.t.n", "hash")], &plain), MaskError::Type { .. }));
        assert!(matches!(of(&[("public.t.id", "truncate:2")], &plain), MaskError::Key { .. }));
        let two = [("public.t.*", "truncate:2"), ("*.t.id", "hash")];
        assert!(matches!(of(&two, &plain), MaskError::Contradiction { .. }));
        let equal = relation(&[("id", citext())]);
        assert!(matches!(of(&[("public.t.id", "hash")], &equal), MaskError::Equality { .. }));
        let named = masks(&[("public.t.i", "hash"), ("*.none.*", "hash")]);
        assert!(
            matches!(named.find_all([&plain].into_iter()), Err(MaskError::Stranger { name }) if name == "public.t.i")
        );
    }

    #[test]
    fn a_masked_column_is_followed_by_its_number() {
        let before = relation(&[("id", varchar()), ("a", varchar())]);
        let mut after = before.clone();
        after.columns[1].name = "b".into();
        let error = masks(&[("public.t.a", "hash")]).follow(&before, &after).unwrap_err();
        assert!(error.to_string().contains("was masked as public.t.a"), "{error}");
        assert_eq!(masks(&[("public.t.[ab]", "hash")]).follow(&before, &after), Ok(()));
        after.columns[1].attnum = Some(7);
        assert_eq!(masks(&[("public.t.a", "hash")]).follow(&before, &after), Ok(()), "it is another one");
        after.columns[1].attnum = None;
        let unknown = masks(&[("public.t.a", "hash")]).follow(&before, &after);
        assert!(unknown.is_err(), "the catalog was ahead: it may be the same");
        let mut swapped = before.clone();
        (swapped.columns[0].attnum, swapped.columns[1].attnum) = (Some(2), Some(1));
        assert!(masks(&[("public.t.a", "hash")]).follow(&before, &swapped).is_err(), "names have changed places");
    }

    /// It is masked once, and known for that whatever becomes of the mask.
    #[test]
    fn what_rows_have_that_are_older_is_recorded_and_published_masked() {
        let masks = masks(&[("public.t.a", "hash")]);
        let mut relation = relation(&[("id", varchar()), ("a", varchar())]);
        let (mut missing, mut default) = (Some("plain".to_owned()), Some("'plain'".into()));
        masks.conceal(&relation.name, "a", VARCHAR, &mut missing, &mut default);
        assert!(missing.as_deref().is_some_and(is_concealed) && default.is_none());
        let hash = Salt::new("salt").hash(b"plain");
        assert_eq!(masks.plan(&relation).unwrap().0.columns[1].missing.as_deref(), Some(&*hash));
        relation.columns[1].missing = missing.map(Into::into);
        for masks in [&masks, &Masks::default()] {
            assert_eq!(masks.plan(&relation).unwrap().0.columns[1].missing.as_deref(), Some(&*hash));
        }
    }
}
