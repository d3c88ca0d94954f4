//! The options that decide which events there are, how they are numbered and how they are written, and from which commit on
//! they hold.
//!
//! What may have been published under other options is published again under those: else a redelivered event could come at
//! another position, which the sink would take for a new event (PROTOCOL, "Position": the fingerprint). Changes that are
//! made to a publication in the server need no such care, since the server reads it as it was at the commit.

use serde::{Deserialize, Serialize};

use super::{
    Error,
    settings::{CaptureSettings, OriginFilter},
};
use crate::{
    avro::{
        content::{Content, OwnHeaders},
        flat::Records,
        subject::SubjectNaming,
    },
    lsn::Lsn,
    source::publication::TablePatterns,
    types::{Modes, Placeholder},
};

/// What the configuration says of the events. An option that a record lacks was not there when it was written; its default
/// is how events were then.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct EventOptions {
    /// The publication: what the server delivers, and with it every ordinal.
    publication: String,
    /// Globs of the captured tables.
    include: Vec<String>,
    /// Globs of tables that are left out.
    exclude: Vec<String>,
    /// How schemas are registered.
    subjects: SubjectNaming,
    /// The forms of values.
    modes: Modes,
    /// What is said around them.
    content: Content,
    /// What stands for values that the server did not send.
    placeholder: Placeholder,
    /// What records' values are.
    records: Records,
    /// The topic in which begins and ends of transactions are told, if they are.
    transactions: Option<String>,
    /// Whose transactions are published.
    origin: OriginFilter,
}

impl EventOptions {
    /// The options of a configuration.
    pub(super) fn of(settings: &CaptureSettings) -> Self {
        let tables = &settings.publication.tables;
        Self {
            publication: settings.publication.name.clone(),
            include: tables.include().to_vec(),
            exclude: tables.exclude().to_vec(),
            subjects: settings.encoder.subjects,
            modes: settings.encoder.modes,
            content: settings.encoder.content,
            placeholder: settings.encoder.placeholder.clone(),
            records: settings.encoder.records.clone(),
            transactions: settings.transactions.clone(),
            origin: settings.origin,
        }
    }

    /// The settings with these options in place of their own.
    pub(super) fn settings(&self, mut settings: CaptureSettings) -> Result<CaptureSettings, Error> {
        settings.publication.name.clone_from(&self.publication);
        settings.publication.tables = TablePatterns::new(&self.include, &self.exclude)?;
        settings.encoder.subjects = self.subjects;
        settings.encoder.modes = self.modes;
        settings.encoder.content = self.content;
        settings.encoder.placeholder.clone_from(&self.placeholder);
        settings.encoder.records.clone_from(&self.records);
        settings.transactions.clone_from(&self.transactions);
        settings.origin = self.origin;
        Ok(settings)
    }
}

/// Options that hold no longer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Earlier {
    options: EventOptions,
    /// Transactions whose commit LSN is below it are published under them.
    below: Lsn,
    /// See [`OptionHistory::found`].
    #[serde(default = "known")]
    found: bool,
    /// The bound of the former options whose publication these have: what stands in for that one in turn is older.
    #[serde(default)]
    bridged: Option<Lsn>,
}

/// What a record says that was written before publications were found or not: there were changes under it, as far as can be
/// told.
const fn known() -> bool {
    true
}

/// Which options hold for which commit LSNs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OptionHistory {
    current: EventOptions,
    /// In order of their bounds.
    #[serde(default)]
    earlier: Vec<Earlier>,
    /// Whether the server has sent a change of a table under the present publication: it was there then. Logical messages come
    /// without it.
    #[serde(default = "known")]
    found: bool,
}

impl OptionHistory {
    /// Whether records have walrelay's own headers; never otherwise for a slot.
    pub(super) const fn own_headers(&self) -> OwnHeaders {
        self.current.content.own_headers
    }

    /// The same options for all, from where a slot is created: the publication is there.
    pub(super) const fn new(current: EventOptions) -> Self {
        Self { current, earlier: Vec::new(), found: true }
    }

    /// The history once `configured` holds from `ceiling` on, below which commits may have been published, for a stream that
    /// begins at `from`.
    pub(super) fn change(mut self, configured: EventOptions, ceiling: Lsn, from: Lsn) -> Self {
        if self.current != configured {
            let found = self.found && self.current.publication == configured.publication;
            let options = std::mem::replace(&mut self.current, configured);
            let found = std::mem::replace(&mut self.found, found);
            let earlier = Earlier { options, below: ceiling, found, bridged: None };
            // Options that change once more before anything is published under them leave nothing behind.
            if self.earlier.last().is_none_or(|last| last.below < ceiling) {
                self.earlier.push(earlier);
            }
        }
        self.forget(from);
        self
    }

    /// Forgets what nothing can be published again under, but for the former publication while the present one was not found.
    fn forget(&mut self, from: Lsn) {
        let needed = |earlier: &Earlier| earlier.below > from;
        let first = self.earlier.iter().position(needed).unwrap_or(self.earlier.len());
        let unfound = self.earlier[first..].iter().any(|earlier| !earlier.found) || !self.found;
        let former = self.earlier[..first].iter().rposition(|earlier| earlier.found).filter(|_| unfound);
        let mut index = 0;
        self.earlier.retain(|_| {
            index += 1;
            index > first || former == Some(index - 1)
        });
    }

    /// The options of the transactions from `from` on, and the commit LSN at which they end.
    pub(super) fn at(&self, from: Lsn) -> (&EventOptions, Option<Lsn>) {
        let earlier = self.earlier.iter().find(|earlier| earlier.below > from);
        earlier.map_or((&self.current, None), |earlier| (&earlier.options, Some(earlier.below)))
    }

    /// The history once a transaction that commits at `commit` has brought a change of a table; `None` if that is no news.
    pub(super) fn find(&self, commit: Lsn) -> Option<Self> {
        let (index, _, found) = self.entry(commit);
        let mut history = self.clone();
        *history.earlier.get_mut(index).map_or(&mut history.found, |earlier| &mut earlier.found) = true;
        Some(history).filter(|_| !found)
    }

    /// The publication before that of `commit`, where nothing but messages came under that one: it may be younger than the
    /// changes, which the former one has then.
    pub(super) fn former(&self, commit: Lsn) -> Option<&str> {
        self.former_entry(commit).map(|earlier| &*earlier.options.publication)
    }

    fn former_entry(&self, commit: Lsn) -> Option<&Earlier> {
        let (index, young, found) = self.entry(commit);
        let bound = self.earlier.get(index).and_then(|earlier| earlier.bridged).unwrap_or(Lsn(u64::MAX));
        let mut before = self.earlier[..index].iter().rev().filter(|earlier| earlier.found && earlier.below < bound);
        before.find(|earlier| earlier.options.publication != young.publication).filter(|_| !found)
    }

    /// The present publication and the former one that is kept for what is older, where `commit` comes under the present one and
    /// nothing but messages has before.
    pub(super) fn succeeds(&self, commit: Lsn) -> Option<(&str, &str)> {
        let former = self.former(commit)?;
        self.at(commit).1.is_none().then_some((&*self.current.publication, former))
    }

    /// The history once the former publication holds in place of that of `commit`: up to `end`, if that is the present one. All
    /// other options stay, so that messages are published again as they were. `None` without a former one.
    pub(super) fn bridge(&self, commit: Lsn, end: Lsn) -> Option<Self> {
        let former = self.former_entry(commit)?;
        let (index, young, _) = self.entry(commit);
        let options = EventOptions { publication: former.options.publication.clone(), ..young.clone() };
        let below = self.earlier.get(index).map_or(end, |earlier| earlier.below);
        let bridge = Earlier { options, below, found: false, bridged: Some(former.below) };
        let mut history = self.clone();
        match history.earlier.get_mut(index) {
            Some(earlier) => *earlier = bridge,
            None => history.earlier.push(bridge),
        }
        Some(history)
    }

    /// What holds for the transaction that commits at `commit`: its index, behind the earlier ones for the present options.
    fn entry(&self, commit: Lsn) -> (usize, &EventOptions, bool) {
        let index = self.earlier.iter().position(|earlier| earlier.below > commit).unwrap_or(self.earlier.len());
        let earlier = self.earlier.get(index);
        let (options, found) = earlier.map_or((&self.current, self.found), |earlier| (&earlier.options, earlier.found));
        (index, options, found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(publication: &str) -> EventOptions {
        EventOptions {
            publication: publication.into(),
            include: vec!["*.*".into()],
            exclude: Vec::new(),
            subjects: SubjectNaming::Topic,
            modes: Modes::default(),
            content: Content::default(),
            placeholder: Placeholder::default(),
            records: Records::default(),
            transactions: None,
            origin: OriginFilter::default(),
        }
    }

    #[test]
    fn other_options_hold_behind_what_may_have_been_published() {
        let history = OptionHistory::new(options("a")).change(options("b"), Lsn(100), Lsn(40));
        assert_eq!(history.at(Lsn(40)), (&options("a"), Some(Lsn(100))));
        assert_eq!(history.at(Lsn(100)), (&options("b"), None));
    }

    #[test]
    fn nothing_is_kept_of_options_that_nothing_can_be_published_again_under() {
        let same = OptionHistory::new(options("a"));
        assert_eq!(same.clone().change(options("a"), Lsn(100), Lsn(40)), same);
        let other = same.change(options("b"), Lsn(100), Lsn(100));
        assert_eq!(other.at(Lsn(100)), (&options("b"), None));
        let other = other.find(Lsn(100)).unwrap().change(options("b"), Lsn(100), Lsn(100));
        assert_eq!(other, OptionHistory::new(options("b")));
    }

    #[test]
    fn what_stands_in_for_a_publication_is_older_than_it_each_time() {
        let mut history = OptionHistory::new(options("a"));
        for (publication, ceiling) in [("b", 100), ("c", 200)] {
            history = history.change(options(publication), Lsn(ceiling), Lsn(40));
            history = history.find(Lsn(ceiling)).unwrap_or(history);
        }
        history = history.change(options("d"), Lsn(300), Lsn(40));
        for former in ["c", "b", "a"] {
            assert_eq!(history.former(Lsn(350)), Some(former));
            history = history.bridge(Lsn(350), Lsn(400)).unwrap();
        }
        assert_eq!((history.former(Lsn(350)), history.bridge(Lsn(350), Lsn(400))), (None, None));
    }

    #[test]
    fn the_former_publication_holds_as_far_as_a_younger_one_was_not_found() {
        let history = OptionHistory::new(options("a")).change(options("b"), Lsn(100), Lsn(40));
        // A message was published under the young one.
        let history = history.change(options("b"), Lsn(200), Lsn(150));
        assert_eq!(history.former(Lsn(160)), Some("a"));
        let bridged = history.bridge(Lsn(160), Lsn(300)).unwrap();
        assert_eq!(bridged.at(Lsn(150)), (&options("a"), Some(Lsn(300))));
        assert_eq!(bridged.at(Lsn(300)), (&options("b"), None));
        // It is needed until something comes under the young one, and not only under itself.
        assert_eq!(bridged.succeeds(Lsn(160)), None);
        let passed = bridged.find(Lsn(160)).unwrap();
        assert_eq!(passed.succeeds(Lsn(300)), Some(("b", "a")));
        assert_eq!(passed.find(Lsn(300)).unwrap().succeeds(Lsn(310)), None);
        // Also if the configuration names the former one again before it is known.
        let back = history.change(options("a"), Lsn(200), Lsn(150));
        assert_eq!(back.at(Lsn(150)), (&options("b"), Some(Lsn(200))));
        assert_eq!(back.former(Lsn(160)), Some("a"));
        let bridged = back.bridge(Lsn(160), Lsn(300)).unwrap();
        assert_eq!(bridged.at(Lsn(150)), (&options("a"), Some(Lsn(200))));
        assert_eq!(bridged.at(Lsn(200)), (&options("a"), None));
    }

    #[test]
    fn no_other_publication_takes_the_place_of_one_that_was_found() {
        let history = OptionHistory::new(options("a"));
        assert_eq!(history.former(Lsn(50)), None);
        let history = history.change(options("b"), Lsn(100), Lsn(40)).find(Lsn(120)).unwrap();
        assert_eq!(history.find(Lsn(130)), None);
        assert_eq!([50, 130].map(|commit| history.former(Lsn(commit))), [None; 2]);
        let history = history.change(EventOptions { exclude: vec!["x.y".into()], ..options("b") }, Lsn(200), Lsn(40));
        assert_eq!(history.former(Lsn(230)), None);
    }

    #[test]
    fn each_of_several_changes_keeps_its_range() {
        let history = OptionHistory::new(options("a"));
        let history = history.change(options("b"), Lsn(100), Lsn(40)).change(options("c"), Lsn(200), Lsn(40));
        assert_eq!(history.at(Lsn(40)), (&options("a"), Some(Lsn(100))));
        assert_eq!(history.at(Lsn(100)), (&options("b"), Some(Lsn(200))));
        assert_eq!(history.at(Lsn(200)), (&options("c"), None));
        assert_eq!(history.change(options("c"), Lsn(300), Lsn(150)).at(Lsn(150)).1, Some(Lsn(200)));
    }

    #[test]
    fn a_second_change_before_anything_new_is_published_ends_the_first_range_where_it_was() {
        let history = OptionHistory::new(options("a"));
        let history = history.change(options("b"), Lsn(100), Lsn(40)).change(options("c"), Lsn(100), Lsn(60));
        assert_eq!(history.at(Lsn(60)), (&options("a"), Some(Lsn(100))));
        assert_eq!(history.at(Lsn(100)), (&options("c"), None));
        assert_eq!(history.earlier.len(), 1);
    }

    #[test]
    fn a_record_with_fewer_or_more_fields_is_read() {
        let read = |json| serde_json::from_str::<OptionHistory>(json).unwrap();
        let history = read(r#"{"current":{"publication":"a","include":["*.*"],"later":1},"later":{}}"#);
        assert_eq!(history, OptionHistory::new(options("a")));
        let history = read(r#"{"current":{},"earlier":[{"options":{"publication":"a"},"below":7}]}"#);
        assert_eq!(history.at(Lsn(6)).1, Some(Lsn(7)));
    }
}
