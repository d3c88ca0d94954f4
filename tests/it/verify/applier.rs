//! An applier of one table, small enough to be seen to be right: one source transaction per target transaction, in commit
//! order, the position and the hold in the same one.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::task::JoinHandle;
use walrelay::{
    event::{Datum, Tuple},
    lsn::Lsn,
    pgoutput::{Message, Parser},
    postgres::{self, Client},
};

use super::pair::{INSTANCE, Pair};

/// The table that is replicated.
pub const TABLE: &str = "CREATE TABLE account (id int PRIMARY KEY, n int)";
const TOPIC: &str = "test.public.account";

/// Starts it. The tables of both sides must be equal, and no one write to them before this returns.
pub async fn start(pair: &Pair, slot: &str) -> JoinHandle<()> {
    let source = postgres::connect(&pair.source_settings, "test applier").await.unwrap();
    let target = postgres::connect(&pair.target_settings, "test applier").await.unwrap();
    let create = format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput', true)");
    source.execute(&create, &[]).await.unwrap();
    let lane = format!(
        "INSERT INTO walrelay.position (instance, topic, partition, owner) VALUES ('{INSTANCE}', '{TOPIC}', 0, 'test')"
    );
    target.batch_execute(&lane).await.unwrap();
    let mut applier = Applier { source, target, slot: slot.into(), pending: VecDeque::new() };
    tokio::spawn(async move {
        loop {
            applier.step().await;
        }
    })
}

struct Applier {
    source: Client,
    target: Client,
    slot: String,
    pending: VecDeque<(Lsn, String)>,
}

impl Applier {
    async fn step(&mut self) {
        let end: String = self.source.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await.unwrap().get(0);
        self.receive().await;
        let mut refused = None;
        while let Some((commit, sql)) = self.pending.front() {
            match self.apply(*commit, sql).await {
                Some(hold) => {
                    refused = Some(hold);
                    break;
                }
                None => drop(self.pending.pop_front()),
            }
        }
        // Idle: everything that committed below `end` was received, so a hold up to there is reached.
        let reached = refused.map_or(end, |hold| hold.to_string());
        let sql = format!(
            "UPDATE walrelay.position SET held_at = h.lsn FROM walrelay.hold h
             WHERE h.lsn <= '{reached}' AND held_at IS DISTINCT FROM h.lsn"
        );
        self.target.batch_execute(&sql).await.unwrap();
    }

    async fn receive(&mut self) {
        let sql = format!(
            "SELECT data FROM pg_logical_slot_get_binary_changes('{}', NULL, NULL, 'proto_version', '1',
                'publication_names', 'walrelay')",
            self.slot
        );
        let mut parser = Parser::new();
        let (mut commit, mut statements) = (Lsn::ZERO, String::new());
        for row in self.source.query(&sql, &[]).await.unwrap() {
            match parser.parse(Bytes::from(row.get::<_, Vec<u8>>(0))).unwrap() {
                Message::Begin { final_lsn, .. } => commit = final_lsn,
                Message::Insert { new, .. } | Message::Update { new, .. } => {
                    let [id, n] = values(&new);
                    let conflict = "ON CONFLICT (id) DO UPDATE SET n = EXCLUDED.n";
                    statements.extend(["INSERT INTO account VALUES (", &id, ",", &n, ") ", conflict, ";"]);
                }
                Message::Delete { old, .. } => {
                    let [id, _] = values(old.tuple());
                    statements.extend(["DELETE FROM account WHERE id = ", &id, ";"]);
                }
                Message::Commit { .. } => self.pending.push_back((commit, std::mem::take(&mut statements))),
                _ => {}
            }
        }
    }

    /// Applies a transaction, or returns the hold that forbids it.
    async fn apply(&self, commit: Lsn, sql: &str) -> Option<Lsn> {
        // The lock lets no hold in between its check and our commit.
        let hold = format!(
            "BEGIN; LOCK TABLE walrelay.hold_request IN SHARE MODE;
             UPDATE walrelay.position SET commit_lsn = '{commit}' WHERE NOT EXISTS (
                SELECT FROM walrelay.hold WHERE lsn <= '{commit}')"
        );
        self.target.batch_execute(&hold).await.unwrap();
        let holds = "SELECT lsn::text FROM walrelay.hold";
        let hold = self.target.query_opt(holds, &[]).await.unwrap();
        let hold: Option<Lsn> = hold.map(|row| row.get::<_, String>(0).parse().unwrap());
        let refused = hold.filter(|hold| *hold <= commit);
        let end = if refused.is_some() { "ROLLBACK" } else { &format!("{sql}COMMIT") };
        self.target.batch_execute(end).await.unwrap();
        refused
    }
}

fn values(tuple: &Tuple) -> [String; 2] {
    let text = |index: usize| match &tuple[index] {
        Datum::Text(text) => String::from_utf8(text.to_vec()).unwrap(),
        _ => "NULL".to_owned(),
    };
    [text(0), text(1)]
}
