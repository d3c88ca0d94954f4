//! The versions of relations: which one a Relation message describes.
//!
//! A version is recorded in the state before its first record, so that a replay after a restart encodes old changes with
//! the version that they were made under, whatever the catalog says by then (trap T36).
//!
//! A message that comes again may look the same although the table is another: the number of a column is in none, nor the key
//! under REPLICA IDENTITY FULL. So each is compared with the catalog, also where its version is known.
//!
//! Where the operator has a table go on behind a change of which no event tells, the version keeps the position and what told of
//! the change: when changes are sent again, the same message comes there again, and is not judged anew.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{
    Error,
    session::Session,
    state::{FORMER_VERSION, SNAPSHOT_VERSION, Update},
};
use crate::{
    avro::{content::ColumnDefaults, schema::note_lacking},
    lsn::{Lsn, Position},
    pgoutput::message::{RelationBody, TypeBody},
    record,
    schema::{Relation, TableName},
    source::{
        layout::{self, LaidColumn, Layout},
        unlogged,
    },
};

/// The known versions by `oid/digest`.
pub(super) struct Versions {
    session: Arc<Session>,
    known: BTreeMap<String, Arc<Relation>>,
    /// What commits below it may have been published by an earlier session.
    published: Lsn,
}

impl Versions {
    /// `published`: what commits below it may have been published by an earlier session.
    pub(super) fn new(session: Arc<Session>, known: BTreeMap<String, Arc<Relation>>, published: Lsn) -> Self {
        Self { session, known, published }
    }

    /// The recorded version that a message describes, or a new one, recorded before it is used. `running` is the one before it
    /// in this session.
    pub(super) async fn described(
        &mut self,
        body: &RelationBody,
        types: &HashMap<u32, TypeBody>,
        running: Option<Arc<Relation>>,
        (position, topic): (Position, &str),
    ) -> Result<Arc<Relation>, Error> {
        let key = format!("{}/{:016x}", body.oid, digest(body));
        let mut layout = layout::read(&self.session.client, body.oid).await?;
        let masks = &self.session.settings.encoder.masks;
        let table = TableName::new(&*body.schema, &*body.table);
        for LaidColumn { name, type_oid, missing, default, .. } in &mut layout.columns {
            masks.conceal(&table, name, *type_oid, missing, default);
        }
        let known = self.known.get(&key).cloned();
        let mut relation = match &known {
            Some(known) => self.again(known, running.as_deref(), &layout, position).await?,
            None => {
                let last = running.as_ref().or_else(|| self.newest(body.oid));
                self.first(body, types, last.map(|last| &**last), &layout, position).await?
            }
        };
        masks.forget_defaults(&mut relation);
        if self.session.collation_changed(&relation, topic).await? {
            return Err(Error::KeyChanged { table: relation.name.to_string() });
        }
        if let Some(known) = known.filter(|known| **known == relation) {
            return Ok(known);
        }
        // What cannot be masked is in no record either.
        masks.check(&relation).map_err(record::EncodeError::from)?;
        let relation = Arc::new(relation);
        self.session.position.record(&[Update::Relation { key: key.clone(), relation: Arc::clone(&relation) }]).await?;
        self.known.insert(key, Arc::clone(&relation));
        Ok(relation)
    }

    /// A known version, with what is new of it. What led to it has been judged, unless it is an earlier one that comes back.
    async fn again(
        &self,
        known: &Relation,
        running: Option<&Relation>,
        layout: &Layout,
        position: Position,
    ) -> Result<Relation, Error> {
        let keys = &self.session.settings.publication.keys;
        if !keys.agrees(known).unwrap_or_else(|| unlogged::keeps_key(known, layout)) {
            return Err(Error::KeyChanged { table: known.name.to_string() });
        }
        keys.must_be_unique(known, layout)?;
        let mut relation = known.clone();
        self.tell_defaults(&mut relation, layout, position);
        let is_later = |other: &&Relation| other.lineage.number > known.lineage.number;
        // The first one of a session is no return where it is announced again with the changes that are sent again, before a
        // later one was.
        let was_before = |newest: &&Relation| newest.lineage.since.is_some_and(|since| since < position);
        let newest = || self.newest(known.oid).map(|newest| &**newest).filter(is_later).filter(was_before);
        let later = running.filter(is_later).or_else(newest);
        for before in [Some(known), later].into_iter().flatten() {
            let unlogged = unlogged::between(before, &relation, layout);
            self.session.check(&mut relation, unlogged, layout, position)?;
        }
        // The later version has the labels that were judged last.
        self.session.check_labels(later.unwrap_or(known), &mut relation, position).await?;
        unlogged::complete(Some(known), &mut relation, layout);
        for before in [Some(known), later].into_iter().flatten() {
            self.follow(before, &relation)?;
        }
        if later.is_some() {
            relation.lineage.number = self.next_number(known.oid);
            relation.lineage.since = Some(position);
        }
        Ok(relation)
    }

    /// What may have been published has the defaults again that it had: the catalog tells those of the present.
    fn tell_defaults(&self, relation: &mut Relation, layout: &Layout, position: Position) {
        let content = self.session.settings.encoder.content;
        let comes_again = position.commit < self.published;
        if content.column_defaults == ColumnDefaults::Source && !(comes_again && relation.recall_defaults(position)) {
            layout.tell_defaults(relation);
            relation.record_defaults(position, self.session.position.flushed());
        }
        note_lacking(relation, content);
    }

    async fn first(
        &self,
        body: &RelationBody,
        types: &HashMap<u32, TypeBody>,
        last: Option<&Relation>,
        layout: &Layout,
        position: Position,
    ) -> Result<Relation, Error> {
        let mut relation = self.session.describe(body, types, last).await?;
        self.session.settings.publication.keys.must_be_unique(&relation, layout)?;
        self.tell_defaults(&mut relation, layout, position);
        for (_, earlier) in self.of(body.oid) {
            relation.keep_optional(earlier);
        }
        if let Some(last) = last {
            if key_of(last) != key_of(&relation) {
                return Err(Error::KeyChanged { table: last.name.to_string() });
            }
            let unlogged = unlogged::between(last, &relation, layout);
            self.session.check(&mut relation, unlogged, layout, position)?;
            for (_, earlier) in self.of(body.oid) {
                let unlogged = unlogged::returned(earlier, last, &relation, layout);
                self.session.check(&mut relation, unlogged, layout, position)?;
            }
            self.session.check_labels(last, &mut relation, position).await?;
        }
        unlogged::complete(last, &mut relation, layout);
        if let Some(last) = last {
            self.follow(last, &relation)?;
        }
        relation.lineage.number = self.next_number(body.oid);
        relation.lineage.since = Some(position);
        Ok(relation)
    }

    /// A column that is masked by its name would come out in the clear under another one.
    fn follow(&self, before: &Relation, after: &Relation) -> Result<(), Error> {
        let masks = &self.session.settings.encoder.masks;
        Ok(masks.follow(before, after).map_err(record::EncodeError::from)?)
    }

    /// Takes a version in the place of another.
    pub(super) fn replace(&mut self, key: String, relation: Arc<Relation>) {
        self.known.insert(key, relation);
    }

    /// The key of a version.
    pub(super) fn key_of(&self, version: &Arc<Relation>) -> Option<String> {
        self.known.iter().find(|(_, known)| Arc::ptr_eq(known, version)).map(|(key, _)| key.clone())
    }

    /// The version that was announced last, as far as versions are numbered. What a snapshot read is the oldest.
    pub(super) fn newest(&self, oid: u32) -> Option<&Arc<Relation>> {
        let age = |key: &str| if key.ends_with(FORMER_VERSION) { 2 } else { u8::from(key.ends_with(SNAPSHOT_VERSION)) };
        let newest = self.of(oid).max_by_key(|(key, version)| (version.lineage.number, Reverse(age(key))));
        newest.map(|(_, version)| version)
    }

    fn next_number(&self, oid: u32) -> u32 {
        self.newest(oid).map_or(0, |newest| newest.lineage.number) + 1
    }

    fn of(&self, oid: u32) -> impl Iterator<Item = (&String, &Arc<Relation>)> {
        let prefix = format!("{oid}/");
        self.known.range(prefix.clone()..).take_while(move |(key, _)| key.starts_with(&prefix))
    }
}

/// Names and types of the key's columns.
fn key_of(relation: &Relation) -> Vec<(&str, u32)> {
    relation.key.iter().filter_map(|index| relation.columns.get(*index)).map(|c| (&*c.name, c.ty.oid)).collect()
}

/// Tells versions of one relation apart: FNV-1a over everything that the message says, stable over releases since it is
/// kept in the state.
fn digest(body: &RelationBody) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |bytes: &[u8]| {
        for byte in bytes.iter().chain(&[0]) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    add(body.schema.as_bytes());
    add(body.table.as_bytes());
    add(format!("{:?}", body.identity).as_bytes());
    for column in &body.columns {
        add(column.name.as_bytes());
        add(&[u8::from(column.identity)]);
        add(&column.type_oid.to_be_bytes());
        add(&column.typmod.to_be_bytes());
    }
    hash
}
