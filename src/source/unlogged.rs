//! What happened to a table's rows without an event, as two versions of it and its present layout tell (PROTOCOL 7).
//!
//! PostgreSQL logs no rows for a rename, for a column that is dropped and added again, nor for what ALTER TABLE writes into rows
//! itself: values of another type, defaults of a new column that differ from row to row. A constant one is no such case: the
//! catalog has it. Nor does a message tell that a label of an enumeration has another name, and with it the values in all rows.

use std::{collections::BTreeMap, fmt};

use super::layout::{LaidColumn, Layout};
use crate::{
    schema::{Column, Relation},
    types::ColumnType,
};

/// A change of rows that no event tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unlogged {
    /// Earlier records have the column under another name.
    Renamed {
        /// The name in earlier records.
        from: String,
        /// The name by now.
        to: String,
    },
    /// Earlier records have values of another column of this name.
    Recreated {
        /// The column.
        column: String,
    },
    /// All rows were written anew, with the column's values in another type.
    Rewritten {
        /// The column.
        column: String,
    },
    /// All rows were written anew, with a value of the new column in each.
    Filled {
        /// The column.
        column: String,
    },
    /// Rows that had a label have another value by now.
    Relabelled {
        /// The column.
        column: String,
        /// The label in earlier records.
        label: String,
    },
}

impl Unlogged {
    /// The column, under its name by now.
    #[must_use]
    pub fn column(&self) -> &str {
        match self {
            Self::Renamed { to: column, .. }
            | Self::Recreated { column }
            | Self::Rewritten { column }
            | Self::Filled { column }
            | Self::Relabelled { column, .. } => column,
        }
    }
}

impl fmt::Display for Unlogged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Renamed { from, to } => write!(f, "column {from} was renamed to {to}"),
            Self::Recreated { column } => write!(f, "column {column} was dropped and added again"),
            Self::Rewritten { column } => write!(f, "the type of column {column} changed, and all rows were rewritten"),
            Self::Filled { column } => {
                write!(f, "column {column} was added, and all rows were rewritten with values of its default")
            }
            Self::Relabelled { column, label } => {
                write!(f, "label '{label}' of column {column}'s enumeration was renamed")
            }
        }
    }
}

impl Layout {
    /// A change with what of the layout tells of it: the same change is told by the same text.
    #[must_use]
    pub fn tells(&self, unlogged: &Unlogged) -> String {
        let laid = self.columns.iter().find(|laid| *laid.name == *unlogged.column());
        let attnum = laid.map_or(0, |laid| laid.attnum);
        match unlogged {
            Unlogged::Rewritten { .. } | Unlogged::Filled { .. } => {
                format!("{unlogged}: attribute {attnum}, file {}", self.file.unwrap_or_default())
            }
            _ => format!("{unlogged}: attribute {attnum}"),
        }
    }
}

/// What happened between two versions of a table, but for modifiers of key columns, which the keys' form is judged by; `now` may be
/// `before` as it is announced again. `layout` is of the present, so it may tell of what is still to come in the stream.
#[must_use]
pub fn between(before: &Relation, now: &Relation, layout: &Layout) -> Option<Unlogged> {
    now.columns.iter().find_map(|column| {
        let laid = layout.find(column);
        match before.columns.iter().find(|known| known.name == column.name) {
            Some(known) => of_known(before, known, now, column, (laid, layout.file)),
            None => of_new(before, now, column, (laid, layout.file)),
        }
    })
}

/// A column that `last` has not, and that an `earlier` version had under another number: what sinks have of that one is still
/// there, for columns that are dropped stay.
#[must_use]
pub fn returned(earlier: &Relation, last: &Relation, now: &Relation, layout: &Layout) -> Option<Unlogged> {
    let is_new = |column: &&Column| last.columns.iter().all(|known| known.name != column.name);
    let is_other = |column: &&Column| {
        let known = earlier.columns.iter().find(|known| known.name == column.name).and_then(|known| known.attnum);
        known.zip(layout.find(column)).is_some_and(|(attnum, laid)| attnum != laid.attnum)
    };
    let column = now.columns.iter().filter(is_new).find(is_other)?;
    Some(Unlogged::Recreated { column: column.name.to_string() })
}

/// Enumerations of a version, by `pg_type.oid`.
#[must_use]
pub fn enumerations(version: &Relation) -> Vec<u32> {
    version.columns.iter().filter_map(|column| Some(column.ty.enumeration()?.0)).collect()
}

/// A label that records may have which were made under a version `before`, and that the enumeration has not any more, or not in
/// its place; `labels` are those of the present. Labels are added and renamed and nothing else, so that the others keep their order.
#[must_use]
pub fn relabelled(before: &Relation, now: &Relation, labels: &BTreeMap<u32, Vec<String>>) -> Option<Unlogged> {
    now.columns.iter().find_map(|column| {
        let known = before.columns.iter().find(|known| known.name == column.name)?;
        let (oid, of_known) = known.ty.enumeration()?;
        let mut present = labels.get(&oid).filter(|_| known.ty.oid == column.ty.oid)?.iter();
        let label = of_known.iter().find(|label| !present.any(|present| **present == ***label))?;
        Some(Unlogged::Relabelled { column: column.name.to_string(), label: label.to_string() })
    })
}

/// Whether the server changes from one type to the other without writing the rows anew, as only their bounds are different.
fn keeps_rows(from: &ColumnType, to: &ColumnType) -> bool {
    const TEXT: u32 = 25;
    const VARCHAR: u32 = 1043;
    const VARBIT: u32 = 1562;
    const NUMERIC: u32 = 1700;
    let grows = to.typmod == -1 || from.typmod != -1 && from.typmod <= to.typmod;
    match (from.oid, to.oid) {
        (TEXT | VARCHAR, TEXT) | (VARCHAR, VARCHAR) | (VARBIT, VARBIT) => grows,
        (TEXT, VARCHAR) => to.typmod == -1,
        // The scale is in the lower half.
        (NUMERIC, NUMERIC) => to.typmod == -1 || grows && (from.typmod - 4) & 0xFFFF == (to.typmod - 4) & 0xFFFF,
        _ => false,
    }
}

/// The file of the rows is another one; `None` where that is not known.
fn moved(before: &Relation, file: Option<u32>) -> Option<bool> {
    Some(before.lineage.file? != file?)
}

fn of_known(
    before: &Relation,
    known: &Column,
    now: &Relation,
    column: &Column,
    (laid, file): (Option<&LaidColumn>, Option<u32>),
) -> Option<Unlogged> {
    if let (Some(was), Some(is)) = (known.attnum, laid.map(|laid| laid.attnum))
        && was != is
    {
        let column = column.name.to_string();
        let other = before.columns.iter().find(|other| other.attnum == Some(is));
        return Some(match other {
            Some(other) => Unlogged::Renamed { from: other.name.to_string(), to: column },
            None => Unlogged::Recreated { column },
        });
    }
    let is_key = now.key.iter().filter_map(|index| now.columns.get(*index)).any(|key| key.name == column.name);
    let differs = known.ty.oid != column.ty.oid || !is_key && known.ty.typmod != column.ty.typmod;
    let retyped = differs && !keeps_rows(&known.ty, &column.ty);
    // Nor is the file that of a type which the catalog does not have any more.
    let file = file.filter(|_| laid.is_some());
    let rewritten = || moved(before, file).unwrap_or(known.ty.oid != column.ty.oid);
    (retyped && rewritten()).then(|| Unlogged::Rewritten { column: column.name.to_string() })
}

fn of_new(
    before: &Relation,
    now: &Relation,
    column: &Column,
    (laid, file): (Option<&LaidColumn>, Option<u32>),
) -> Option<Unlogged> {
    // What the catalog has not any more is of no rows.
    let laid = laid?;
    let gone = |other: &&Column| now.columns.iter().all(|kept| kept.name != other.name);
    // A column that the catalog was ahead of has no number: it may be any that is gone.
    let same = |other: &&Column| other.attnum.is_none_or(|attnum| attnum == laid.attnum);
    let name = column.name.to_string();
    if let Some(other) = before.columns.iter().filter(gone).find(same) {
        return Some(Unlogged::Renamed { from: other.name.to_string(), to: name });
    }
    let filled = laid.is_filled && laid.missing.is_none() && moved(before, file) == Some(true);
    filled.then_some(Unlogged::Filled { column: name })
}

/// Adds what the layout tells to a version: numbers of columns, the values that rows have which are older than a column, the
/// file.
pub fn complete(before: Option<&Relation>, now: &mut Relation, layout: &Layout) {
    for column in &mut now.columns {
        let known = before.and_then(|before| before.columns.iter().find(|known| known.name == column.name));
        let laid = layout.find(column);
        column.attnum = laid.map(|laid| laid.attnum).or(column.attnum);
        column.missing = match (before, known) {
            (None, _) => None,
            (Some(_), Some(known)) if known.attnum == column.attnum => known.missing.clone(),
            _ => laid.and_then(|laid| laid.missing.as_deref()).map(Into::into),
        };
    }
    // A catalog that is ahead may tell of a file that a later rewrite made.
    let is_sent = |laid: &&LaidColumn| now.columns.iter().any(|column| column.name == laid.name);
    let is_present = layout.columns.iter().all(|laid| laid.is_generated || is_sent(&laid))
        && now.columns.iter().all(|column| layout.find(column).is_some());
    now.lineage.file = if is_present { layout.file } else { before.and_then(|before| before.lineage.file) };
}

/// Whether rows still have the key of a version: some index is over exactly its columns. A key whose columns the catalog does
/// not have as they are described is not judged.
#[must_use]
pub fn keeps_key(version: &Relation, layout: &Layout) -> bool {
    let key = version.key.iter().filter_map(|index| version.columns.get(*index));
    let attnums: Option<_> = key.map(|column| layout.find(column).map(|laid| laid.attnum)).collect();
    attnums.is_none_or(|attnums| version.key.is_empty() || layout.keys.contains(&attnums))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{
        schema::{Lineage, ReplicaIdentity, TableName},
        types::TypeKind,
    };

    fn version(columns: &[(&str, Option<i16>, u32)], file: Option<u32>) -> Relation {
        let column = |(name, attnum, oid): &(&str, Option<i16>, u32)| Column {
            name: (*name).into(),
            attnum: *attnum,
            ty: ColumnType::base(*oid, -1, "any"),
            nullable: true,
            nondeterministic: false,
            optional: false,
            added: false,
            default: None,
            missing: None,
            null_items: false,
        };
        Relation {
            oid: 1,
            name: TableName::new("public", "t"),
            identity: ReplicaIdentity::Default,
            columns: columns.iter().map(column).collect(),
            key: vec![0],
            lineage: Lineage { number: 1, file, ..Lineage::default() },
        }
    }

    /// Columns as (name, number, type, whether older rows may have got a value).
    fn layout(columns: &[(&str, i16, u32, bool)], file: u32) -> Layout {
        let column = |(name, attnum, type_oid, is_filled): &(&str, i16, u32, bool)| LaidColumn {
            name: (*name).into(),
            attnum: *attnum,
            type_oid: *type_oid,
            typmod: -1,
            missing: None,
            is_filled: *is_filled,
            is_generated: false,
            default: None,
        };
        Layout { file: Some(file), columns: columns.iter().map(column).collect(), keys: vec![BTreeSet::from([1])] }
    }

    const ID: (&str, Option<i16>, u32) = ("id", Some(1), 23);
    const LAID_ID: (&str, i16, u32, bool) = ("id", 1, 23, false);

    fn told(before: &Relation, now: &[(&str, Option<i16>, u32)], layout: &Layout) -> Option<String> {
        between(before, &version(now, None), layout).map(|unlogged| unlogged.to_string())
    }

    #[test]
    fn a_column_under_another_name_or_number_is_told() {
        let before = version(&[ID, ("n", Some(2), 23)], Some(7));
        let same = layout(&[LAID_ID, ("n", 2, 23, false)], 7);
        assert_eq!(told(&before, &[ID, ("n", None, 23)], &same), None);
        let renamed = layout(&[LAID_ID, ("m", 2, 23, false)], 7);
        assert_eq!(told(&before, &[ID, ("m", None, 23)], &renamed).unwrap(), "column n was renamed to m");
        // The message is from before the rename.
        assert_eq!(told(&before, &[ID, ("n", None, 23)], &renamed), None);
        let recreated = layout(&[LAID_ID, ("n", 3, 23, false)], 7);
        assert_eq!(told(&before, &[ID, ("n", None, 23)], &recreated).unwrap(), "column n was dropped and added again");
        let pair = version(&[ID, ("a", Some(2), 23), ("b", Some(3), 23)], Some(7));
        let swapped = layout(&[LAID_ID, ("b", 2, 23, false), ("a", 3, 23, false)], 7);
        assert_eq!(
            told(&pair, &[ID, ("b", None, 23), ("a", None, 23)], &swapped).unwrap(),
            "column a was renamed to b"
        );
        // Nobody knows what number it had.
        let unknown = version(&[ID, ("n", None, 23)], Some(7));
        assert_eq!(told(&unknown, &[ID, ("m", None, 23)], &renamed).unwrap(), "column n was renamed to m");
    }

    #[test]
    fn rows_that_were_rewritten_with_other_values_are_told() {
        let before = version(&[ID, ("n", Some(2), 23)], Some(7));
        let retyped = [ID, ("n", None, 20)];
        let laid = [LAID_ID, ("n", 2, 20, false)];
        assert!(told(&before, &retyped, &layout(&laid, 8)).unwrap().starts_with("the type of column n changed"));
        assert_eq!(told(&before, &retyped, &layout(&laid, 7)), None, "the types have one form in the file");
        let unknown = version(&[ID, ("n", Some(2), 23)], None);
        assert!(told(&unknown, &retyped, &layout(&laid, 8)).is_some());

        let added = [ID, ("n", None, 23), ("c", None, 23)];
        let laid = |is_filled| [LAID_ID, ("n", 2, 23, false), ("c", 3, 23, is_filled)];
        assert!(told(&before, &added, &layout(&laid(true), 8)).unwrap().starts_with("column c was added"));
        assert_eq!(told(&before, &added, &layout(&laid(false), 8)), None, "as after VACUUM FULL");
        assert_eq!(told(&before, &added, &layout(&laid(true), 7)), None, "the default came later than the column");
        let mut constant = layout(&laid(true), 8);
        constant.columns[2].missing = Some("5".to_owned());
        assert_eq!(told(&before, &added, &constant), None);
        let mut now = version(&added, None);
        complete(Some(&before), &mut now, &constant);
        assert_eq!((now.columns[2].missing.as_deref(), now.columns[2].attnum), (Some("5"), Some(3)));
        assert_eq!(now.lineage.file, Some(8));
        // Later versions keep it, also when the catalog does not have it any more.
        let mut later = version(&added, None);
        complete(Some(&now), &mut later, &layout(&laid(true), 9));
        assert_eq!(later.columns[2].missing.as_deref(), Some("5"));
    }

    #[test]
    fn a_column_that_was_gone_for_a_while_is_another_one() {
        let earlier = version(&[ID, ("n", Some(2), 23), ("m", Some(3), 23)], Some(7));
        let last = version(&[ID, ("m", Some(3), 23)], Some(7));
        let laid = layout(&[LAID_ID, ("m", 3, 23, false), ("n", 4, 23, false)], 7);
        let now = version(&[ID, ("m", None, 23), ("n", None, 23)], None);
        assert_eq!(between(&last, &now, &laid), None);
        let told = returned(&earlier, &last, &now, &laid).unwrap().to_string();
        assert_eq!(told, "column n was dropped and added again");
        assert_eq!(returned(&now, &last, &now, &laid), None, "nobody knows what number it had");
        assert_eq!(returned(&earlier, &earlier, &now, &laid), None);
    }

    #[test]
    fn a_label_that_is_gone_or_in_another_place_is_told_and_a_new_one_is_not() {
        let with = |labels: &[&str]| {
            let mut version = version(&[ID, ("m", Some(2), 17_000)], Some(7));
            let labels = labels.iter().map(|label| (*label).into()).collect();
            let mood = ColumnType { kind: TypeKind::Enum(labels), ..version.columns[1].ty.clone() };
            version.columns[1].ty =
                ColumnType { kind: TypeKind::Array(mood.into()), ..ColumnType::base(17_001, -1, "any") };
            version
        };
        let before = with(&["sad", "glad"]);
        assert_eq!(enumerations(&before), [17_000]);
        let told = |labels: &[&str]| {
            let present = BTreeMap::from([(17_000, labels.iter().map(|label| (*label).to_owned()).collect())]);
            relabelled(&before, &before, &present).map(|unlogged| unlogged.to_string())
        };
        assert_eq!(told(&["sad", "glad"]), None);
        assert_eq!(told(&["low", "sad", "so so", "glad", "high"]), None);
        assert_eq!(told(&["sad", "happy"]).unwrap(), "label 'glad' of column m's enumeration was renamed");
        assert!(told(&["glad", "sad"]).is_some(), "they have changed places");
        assert_eq!(relabelled(&before, &before, &BTreeMap::new()), None, "the type is gone, and its rows with it");
        let now = version(&[ID, ("m", Some(3), 23)], Some(7));
        assert_eq!(relabelled(&before, &now, &BTreeMap::from([(17_000, vec!["sad".to_owned()])])), None);
    }

    #[test]
    fn a_generated_column_that_is_not_sent_does_not_make_the_file_unknown() {
        let before = version(&[ID, ("n", Some(2), 23)], Some(7));
        let mut laid = layout(&[LAID_ID, ("n", 2, 23, false), ("g", 3, 23, true)], 8);
        let file = |laid: &Layout| {
            let mut now = version(&[ID, ("n", None, 23)], None);
            complete(Some(&before), &mut now, laid);
            now.lineage.file
        };
        assert_eq!(file(&laid), Some(7), "the catalog is ahead");
        laid.columns[2].is_generated = true;
        assert_eq!(file(&laid), Some(8));
    }

    #[test]
    fn wider_bounds_leave_rows_as_they_are() {
        let numeric = |precision: i32, scale: i32| (1700, (precision << 16 | scale) + 4);
        let of = |(oid, typmod): (u32, i32)| ColumnType::base(oid, typmod, "any");
        for (from, to) in [
            ((1043, 13), (1043, 24)),
            ((1043, 13), (25, -1)),
            ((25, -1), (1043, -1)),
            (numeric(10, 2), numeric(12, 2)),
            (numeric(10, 2), (1700, -1)),
        ] {
            assert!(keeps_rows(&of(from), &of(to)), "{from:?} {to:?}");
        }
        for (from, to) in [
            ((1043, 24), (1043, 13)),
            ((1043, -1), (1043, 13)),
            ((25, -1), (1043, 13)),
            (numeric(10, 4), numeric(12, 2)),
            ((1700, -1), numeric(12, 2)),
            ((23, -1), (20, -1)),
        ] {
            assert!(!keeps_rows(&of(from), &of(to)), "{from:?} {to:?}");
        }
    }

    #[test]
    fn a_key_without_its_index_is_another_key() {
        let version = version(&[ID, ("n", Some(2), 23)], Some(7));
        let mut laid = layout(&[LAID_ID, ("n", 2, 23, false)], 7);
        assert!(keeps_key(&version, &laid));
        laid.keys = vec![BTreeSet::from([2]), BTreeSet::from([1, 2])];
        assert!(!keeps_key(&version, &laid));
        laid.columns.remove(0);
        assert!(keeps_key(&version, &laid), "not judged");
    }
}
