//! The source's tables: what capture may read of them and what their old rows look like in the WAL.

use std::collections::BTreeSet;

use super::finding::Findings;
use crate::{
    postgres::{self, Client},
    record::Masks,
    schema::{ReplicaIdentity, TableName, quote_identifier},
    source::{
        Error,
        catalog::{self, PublishedTable},
        identity::IdentityProblem,
        publication::PublicationSpec,
    },
};

/// The tables as the publication publishes them, or would.
pub(super) async fn read(
    client: &Client,
    publication: &PublicationSpec,
    wanted: &[TableName],
) -> Result<Vec<PublishedTable>, Error> {
    let PublicationSpec { name, keys, .. } = publication;
    let mut tables = catalog::read(client, name, keys).await?.tables;
    tables.retain(|table| wanted.contains(&table.relation.name));
    let published: BTreeSet<_> = tables.iter().map(|table| table.relation.name.clone()).collect();
    let others: Vec<_> = wanted.iter().filter(|name| !published.contains(name)).cloned().collect();
    tables.extend(catalog::preview(client, &others, keys).await?.tables);
    tables.sort_by(|a, b| a.relation.name.cmp(&b.relation.name));
    Ok(tables)
}

/// Rights of the role.
#[derive(Debug, Default)]
pub(super) struct Rights {
    unreadable: BTreeSet<u32>,
    foreign: BTreeSet<u32>,
}

impl Rights {
    pub(super) async fn read(client: &Client, tables: &[PublishedTable]) -> Result<Self, postgres::Error> {
        let oids: Vec<u32> = tables.iter().map(|table| table.relation.oid).collect();
        let sql = "SELECT c.oid, has_table_privilege(c.oid, 'SELECT') AND has_schema_privilege(c.relnamespace, 'USAGE'), \
                   pg_has_role(c.relowner, 'USAGE') FROM pg_class c WHERE c.oid = ANY ($1)";
        let failed = |error| postgres::Error::statement("reading the rights on the tables", error);
        let mut rights = Self::default();
        for row in client.query(sql, &[&oids]).await.map_err(failed)? {
            let oid = row.try_get(0).map_err(failed)?;
            if !row.try_get::<_, bool>(1).map_err(failed)? {
                rights.unreadable.insert(oid);
            }
            if !row.try_get::<_, bool>(2).map_err(failed)? {
                rights.foreign.insert(oid);
            }
        }
        Ok(rights)
    }

    /// Only an owner may put a table into a publication.
    pub(super) fn owns(&self, table: &PublishedTable) -> bool {
        !self.foreign.contains(&table.relation.oid)
    }

    /// `chosen`: tables whose updates the source may refuse, by the configuration's choice, or does not when capture has taken them in.
    pub(super) fn judge(
        &self,
        findings: &mut Findings,
        tables: &[PublishedTable],
        (user, chosen): (&str, &BTreeSet<TableName>),
    ) {
        for table in tables {
            self.judge_table(findings, table, (user, chosen));
        }
    }

    /// Traps T29 and T31.
    fn judge_table(
        &self,
        findings: &mut Findings,
        table: &PublishedTable,
        (user, chosen): (&str, &BTreeSet<TableName>),
    ) {
        let name = &table.relation.name;
        let subject = format!("table {name}");
        if self.unreadable.contains(&table.relation.oid) {
            let (schema, user) = (quote_identifier(&name.schema), quote_identifier(user));
            findings.problem(
                &subject,
                "cannot be read by the role",
                format!("GRANT USAGE ON SCHEMA {schema} TO {user}; GRANT SELECT ON {} TO {user};", name.quoted()),
            );
        }
        for problem in &table.problems {
            let (message, remedy) = (problem.describe(name), problem.remedy(name));
            // NOTHING is never a default: somebody wants the table to be append-only, unless the publication is yet to be made.
            let refuses = problem.blocks_changes() && *problem != IdentityProblem::Nothing && !chosen.contains(name);
            if refuses || problem.is_of_configured_key() {
                findings.problem(&subject, message, remedy);
            } else {
                findings.warning(&subject, message, remedy);
            }
        }
        if table.problems.is_empty() && !self.unreadable.contains(&table.relation.oid) {
            findings.ok(subject, summary(table));
        }
    }
}

/// Masks that cannot be, and names under which nothing is masked.
pub(super) fn judge_masks(findings: &mut Findings, masks: &Masks, tables: &[PublishedTable]) {
    if masks.is_empty() {
        return;
    }
    let relations = tables.iter().map(|table| &table.relation);
    let mut problems: Vec<_> = relations.clone().filter_map(|relation| masks.check(relation).err()).collect();
    problems.extend(masks.find_all(relations.clone()).err());
    for problem in &problems {
        findings.failed("capture.masks", problem);
    }
    if problems.is_empty() {
        let masked = relations
            .map(|relation| relation.columns.iter().filter(|column| masks.hides(&relation.name, &column.name)).count());
        findings.ok("capture.masks", format!("masked columns: {}", masked.sum::<usize>()));
    }
}

fn summary(table: &PublishedTable) -> String {
    let identity = match table.relation.identity {
        ReplicaIdentity::Full => "FULL",
        ReplicaIdentity::Index => "an index",
        ReplicaIdentity::Default | ReplicaIdentity::Nothing => "the primary key",
    };
    format!("key ({}), replica identity {identity}", key(table).join(", "))
}

/// Names of the event key's columns, in key order.
pub(super) fn key(table: &PublishedTable) -> Vec<&str> {
    let column = |index: &usize| table.relation.columns.get(*index).map(|column| &*column.name);
    table.relation.key.iter().filter_map(column).collect()
}
