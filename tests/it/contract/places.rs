//! What differs from run to run: positions in the log, numbers of transactions, times. They are not equal, but stand to each other
//! as Debezium's do.

use serde_json::{Value as Json, json};

/// Pairs of Debezium's and walrelay's numbers.
#[derive(Default)]
pub struct Places {
    /// LSNs of records of the log.
    events: Vec<(u64, u64)>,
    /// LSNs of ends of transactions, which may be those of the records behind them or not: there may be others between.
    commits: Vec<(u64, u64)>,
    transactions: Vec<(u64, u64)>,
    /// Commit times in microseconds.
    times: Vec<(u64, u64)>,
    /// The time of the run, in milliseconds.
    run: (u64, u64),
    /// The server tells of transactions without changes too, as those before 15 do, and Debezium's did not: their commits come before
    /// events of which Debezium has another one before, or none.
    tells_empty: bool,
    problems: Vec<String>,
}

fn number(json: &Json) -> u64 {
    json.as_u64().unwrap_or_else(|| panic!("{json} is no number"))
}

/// `XID:LSN`, the id of a transaction.
fn id(json: &Json) -> (u64, u64) {
    let (xid, lsn) = json.as_str().and_then(|id| id.split_once(':')).unwrap_or_else(|| panic!("{json} is no id"));
    (xid.parse().expect("a number"), lsn.parse().expect("an LSN"))
}

/// The LSN of the last commit, and the event's own.
fn sequence(source: &Json) -> (Option<u64>, u64) {
    let parts: Vec<Option<String>> =
        source["sequence"].as_str().and_then(|text| serde_json::from_str(text).ok()).expect("a sequence");
    let [last, own] = &parts[..] else { panic!("{parts:?}") };
    let lsn = |text: &String| text.parse().expect("an LSN");
    (last.as_ref().map(lsn), own.as_ref().map(lsn).expect("an LSN"))
}

impl Places {
    /// Of a run between two times, in milliseconds since 1970.
    pub fn new(begun: u64, ended: u64, tells_empty: bool) -> Self {
        Self { run: (begun, ended), tells_empty, ..Self::default() }
    }

    fn check(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.problems.push(what());
        }
    }

    /// Notes the places of a pair of events, and gives Debezium's those of ours.
    pub fn even(&mut self, theirs: &mut Json, ours: &Json, what: &str) {
        self.even_source(&mut theirs["source"], &ours["source"], what);
        if !theirs["transaction"].is_null() && !ours["transaction"].is_null() {
            let (source, own) = (&ours["source"], id(&ours["transaction"]["id"]));
            let is_the_event_s = own == (number(&source["txId"]), number(&source["lsn"]));
            self.check(is_the_event_s, || format!("the id of the transaction is not that of {what}: {own:?}"));
            theirs["transaction"]["id"] = ours["transaction"]["id"].clone();
        }
        let processed = number(&ours["ts_ms"]);
        self.check(self.run.0 <= processed && processed <= self.run.1, || format!("ts_ms of {what}: {processed}"));
        theirs["ts_ms"] = json!(processed);
        if !theirs["ts_ns"].is_null() {
            let ns = number(&ours["ts_ns"]);
            self.check(ns / 1_000_000 == processed, || format!("ts_ns of {what}: {ns}"));
            theirs["ts_us"] = json!(ns / 1000);
            theirs["ts_ns"] = json!(ns);
        }
    }

    fn even_source(&mut self, theirs: &mut Json, ours: &Json, what: &str) {
        let (us, lsn) = (number(&ours["ts_us"]), number(&ours["lsn"]));
        self.events.push((number(&theirs["lsn"]), lsn));
        self.times.push((number(&theirs["ts_us"]), us));
        let ((last, own), (our_last, our_own)) = (sequence(theirs), sequence(ours));
        self.check(own == number(&theirs["lsn"]) && our_own == lsn, || format!("sequence of {what}: {ours}"));
        self.check(our_last.is_none_or(|last| last <= lsn), || format!("the last commit is behind {what}: {ours}"));
        if let (Some(last), Some(our_last)) = (last, our_last) {
            self.commits.push((last, our_last));
            theirs["sequence"] = ours["sequence"].clone();
        } else if last == our_last || self.tells_empty {
            theirs["sequence"] = ours["sequence"].clone();
        }
        if let (Some(xid), Some(our_xid)) = (theirs["txId"].as_u64(), ours["txId"].as_u64()) {
            self.transactions.push((xid, our_xid));
            theirs["txId"] = json!(our_xid);
        }
        let run = self.run.0 * 1000..=self.run.1 * 1000 + 999;
        self.check(run.contains(&us), || format!("source.ts_us of {what}: {us}"));
        theirs["lsn"] = json!(lsn);
        theirs["ts_ms"] = json!(us / 1000);
        theirs["ts_us"] = json!(us);
        theirs["ts_ns"] = json!(us * 1000);
    }

    /// The same of a begin or an end.
    pub fn even_boundary(&mut self, theirs: &mut Json, ours: &Json, what: &str) {
        let ((xid, lsn), (our_xid, our_lsn)) = (id(&theirs["id"]), id(&ours["id"]));
        self.transactions.push((xid, our_xid));
        let is_begin = theirs["status"] == "BEGIN";
        if is_begin { &mut self.events } else { &mut self.commits }.push((lsn, our_lsn));
        let ms = number(&ours["ts_ms"]);
        self.check((self.run.0..=self.run.1).contains(&ms), || format!("ts_ms of {what}: {ms}"));
        theirs["id"] = ours["id"].clone();
        theirs["ts_ms"] = ours["ts_ms"].clone();
    }

    /// What does not stand to each other as Debezium's does.
    pub fn problems(mut self) -> Vec<String> {
        if self.tells_empty {
            return self.problems;
        }
        for (what, pairs) in
            [("LSNs", self.events), ("LSNs of commits", self.commits), ("transactions", self.transactions)]
        {
            let disordered = disorder(pairs, |before, after| before < after);
            self.problems.extend(disordered.map(|pairs| format!("{what} (Debezium's, walrelay's): {pairs:?}")));
        }
        // Two transactions may commit in one microsecond.
        let disordered = disorder(self.times, |before, after| before <= after);
        self.problems.extend(disordered.map(|pairs| format!("commit times (Debezium's, walrelay's): {pairs:?}")));
        self.problems
    }
}

type Pair = (u64, u64);

/// Neighbours in Debezium's order that are equal there and not here, or not in this order here.
fn disorder(mut pairs: Vec<Pair>, in_order: impl Fn(u64, u64) -> bool) -> impl Iterator<Item = [Pair; 2]> {
    pairs.sort_unstable();
    pairs.dedup();
    let neighbours: Vec<[Pair; 2]> = pairs.array_windows().copied().collect();
    neighbours.into_iter().filter(move |[before, after]| before.0 == after.0 || !in_order(before.1, after.1))
}
