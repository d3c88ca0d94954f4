//! Which columns are the event key, and what keeps updates and deletes from being captured (traps T29, T31).

use super::identity::IdentityProblem;
use crate::schema::{Column, ReplicaIdentity};

/// A column of a table, published or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogColumn {
    /// Its description.
    pub column: Column,
    /// `pg_attribute.attnum`.
    pub attnum: i16,
    /// The publication sends it.
    pub published: bool,
    /// GENERATED ALWAYS AS (…), stored or virtual.
    pub generated: bool,
}

/// An index that may identify rows: unique, or chosen as replica identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogIndex {
    /// Its name.
    pub name: String,
    /// The primary key's.
    pub primary: bool,
    /// Chosen by REPLICA IDENTITY USING INDEX.
    pub identity: bool,
    /// Unique over plain columns and all rows, checked at once, and valid.
    pub usable: bool,
    /// Its constraint is not deferrable: rows are never alike, not in the midst of a statement either.
    pub immediate: bool,
    /// Key columns' attnums, in index order.
    pub attnums: Vec<i16>,
}

/// Indices of the event key among the published columns: the replica identity index, where one was chosen, since updates
/// and deletes carry its columns and no others; else the primary key that is not deferrable; else the usable unique index over NOT NULL columns
/// that is first by name; else none.
///
/// An index counts only if all its columns are published.
#[must_use]
pub fn event_key(columns: &[CatalogColumn], indexes: &[CatalogIndex]) -> Vec<usize> {
    let published: Vec<&CatalogColumn> = columns.iter().filter(|column| column.published).collect();
    let key_of = |index: &CatalogIndex| -> Option<Vec<usize>> {
        let position = |attnum: &i16| published.iter().position(|column| column.attnum == *attnum);
        index.attnums.iter().map(position).collect::<Option<Vec<_>>>().filter(|key| !key.is_empty())
    };
    let not_null = |key: &Vec<usize>| key.iter().all(|&at| published.get(at).is_some_and(|c| !c.column.nullable));
    let identity = indexes.iter().filter(|index| index.identity).find_map(key_of);
    // One that is checked late lets rows change their keys with each other, and the delete of one would take the other one's row.
    let primary = || indexes.iter().filter(|index| index.primary && index.immediate).find_map(key_of);
    let unique = || {
        let mut unique: Vec<&CatalogIndex> = indexes.iter().filter(|index| index.usable).collect();
        unique.sort_by(|a, b| a.name.cmp(&b.name));
        unique.into_iter().filter_map(key_of).find(not_null)
    };
    identity.or_else(primary).or_else(unique).unwrap_or_default()
}

/// What about the replica identity makes the source refuse updates and deletes, or leaves rows without a key.
#[must_use]
pub fn identity_problems(
    identity: ReplicaIdentity,
    columns: &[CatalogColumn],
    indexes: &[CatalogIndex],
    server_version: u32,
) -> Vec<IdentityProblem> {
    let covering = match identity {
        ReplicaIdentity::Nothing => return vec![IdentityProblem::Nothing],
        ReplicaIdentity::Full => return full_problems(columns, indexes, server_version),
        ReplicaIdentity::Default => indexes.iter().find(|index| index.primary),
        ReplicaIdentity::Index => indexes.iter().find(|index| index.identity),
    };
    let Some(index) = covering else {
        let missing = identity == ReplicaIdentity::Default;
        return vec![if missing { IdentityProblem::NoPrimaryKey } else { IdentityProblem::IndexDropped }];
    };
    if !index.immediate {
        return vec![IdentityProblem::Deferrable];
    }
    unpublished(columns, |column| index.attnums.contains(&column.attnum))
}

fn full_problems(columns: &[CatalogColumn], indexes: &[CatalogIndex], server_version: u32) -> Vec<IdentityProblem> {
    // Below 18 generated columns are never published, and the server does not mind.
    let checked = |column: &CatalogColumn| !column.generated || server_version >= 180_000;
    let mut problems = unpublished(columns, checked);
    if event_key(columns, indexes).is_empty() {
        problems.push(IdentityProblem::FullWithoutKey);
    }
    problems
}

fn unpublished(columns: &[CatalogColumn], identity: impl Fn(&CatalogColumn) -> bool) -> Vec<IdentityProblem> {
    let unpublished = columns.iter().filter(|column| identity(column) && !column.published);
    unpublished
        .map(|column| IdentityProblem::Unpublished {
            column: column.column.name.to_string(),
            generated: column.generated,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ColumnType;

    fn column(attnum: i16, nullable: bool, published: bool) -> CatalogColumn {
        let ty = ColumnType::base(23, -1, "integer");
        let column = Column {
            name: format!("c{attnum}").into(),
            attnum: Some(attnum),
            ty,
            nullable,
            nondeterministic: false,
            optional: false,
            added: false,
            default: None,
            missing: None,
            null_items: false,
        };
        CatalogColumn { column, attnum, published, generated: false }
    }

    fn index(name: &str, attnums: &[i16]) -> CatalogIndex {
        CatalogIndex {
            name: name.into(),
            primary: false,
            identity: false,
            usable: true,
            immediate: true,
            attnums: attnums.to_vec(),
        }
    }

    #[test]
    fn the_key_is_the_identity_index_then_the_primary_key_then_a_unique_not_null_index() {
        let columns = [column(1, false, true), column(2, true, false), column(3, false, true), column(4, true, true)];
        let primary = CatalogIndex { primary: true, ..index("z_pkey", &[3, 1]) };
        let identity = CatalogIndex { identity: true, ..index("y_identity", &[3]) };
        let unique = index("a_unique", &[1]);
        let key = |indexes: &[CatalogIndex]| event_key(&columns, indexes);
        // Positions are among published columns: attnum 3 is the second of them.
        assert_eq!(key(&[unique.clone(), identity, primary.clone()]), [1]);
        assert_eq!(key(&[unique.clone(), primary]), [1, 0]);
        assert_eq!(key(&[index("b_unique", &[3]), unique]), [0]);
        assert_eq!(key(&[index("nullable", &[4])]), [0; 0]);
        assert_eq!(key(&[CatalogIndex { primary: true, ..index("unpublished", &[1, 2]) }]), [0; 0]);
        assert_eq!(key(&[CatalogIndex { usable: false, ..index("partial", &[1]) }]), [0; 0]);
        // Of a partitioned table's, whose partitions do not have it yet, each partition's own counts.
        let invalid = CatalogIndex { primary: true, usable: false, ..index("pkey", &[1]) };
        assert_eq!(key(std::slice::from_ref(&invalid)), [0]);
        assert_eq!(key(&[CatalogIndex { immediate: false, ..invalid }]), [0; 0]);
    }

    #[test]
    fn identities_that_make_the_source_refuse_changes_are_found() {
        // traps T29, T31
        let columns = [column(1, false, true), column(2, true, false)];
        let primary = CatalogIndex { primary: true, ..index("pkey", &[1]) };
        let problems = |identity, indexes: &[CatalogIndex]| identity_problems(identity, &columns, indexes, 150_000);
        assert_eq!(problems(ReplicaIdentity::Default, std::slice::from_ref(&primary)), []);
        assert_eq!(problems(ReplicaIdentity::Default, &[]), [IdentityProblem::NoPrimaryKey]);
        assert_eq!(problems(ReplicaIdentity::Nothing, std::slice::from_ref(&primary)), [IdentityProblem::Nothing]);
        let late = CatalogIndex { usable: false, immediate: false, ..primary.clone() };
        assert_eq!(problems(ReplicaIdentity::Default, &[late]), [IdentityProblem::Deferrable]);
        assert_eq!(problems(ReplicaIdentity::Index, std::slice::from_ref(&primary)), [IdentityProblem::IndexDropped]);
        let unpublished = IdentityProblem::Unpublished { column: "c2".into(), generated: false };
        let full = problems(ReplicaIdentity::Full, &[]);
        assert_eq!(full, [unpublished.clone(), IdentityProblem::FullWithoutKey]);
        let wide = CatalogIndex { primary: true, ..index("pkey", &[1, 2]) };
        assert_eq!(problems(ReplicaIdentity::Default, &[wide]), [unpublished]);
    }

    #[test]
    fn an_unpublished_generated_column_under_full_is_a_problem_from_18_on() {
        // trap T31
        let mut columns = [column(1, false, true), column(2, true, false)];
        columns[1].generated = true;
        let primary = [CatalogIndex { primary: true, ..index("pkey", &[1]) }];
        assert_eq!(identity_problems(ReplicaIdentity::Full, &columns, &primary, 170_000), []);
        let problem = IdentityProblem::Unpublished { column: "c2".into(), generated: true };
        assert_eq!(identity_problems(ReplicaIdentity::Full, &columns, &primary, 180_000), [problem]);
    }
}
