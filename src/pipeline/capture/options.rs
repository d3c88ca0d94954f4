//! The options that decide which events there are, how they are numbered and how they are written, and from which commit on
//! they hold.
//!
//! What may have been published under other options is published again under those: else a redelivered event could come at
//! another position, which the sink would take for a new event (PROTOCOL, "Position": the fingerprint). Changes that are
//! made to a publication in the server need no such care, since the server reads it as it was at the commit.

use serde::{Deserialize, Serialize};

use super::{Error, settings::CaptureSettings};
use crate::{
    avro::{content::Content, subject::SubjectNaming},
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
        Ok(settings)
    }
}

/// Options that hold no longer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Earlier {
    options: EventOptions,
    /// Transactions whose commit LSN is below it are published under them.
    below: Lsn,
}

/// Which options hold for which commit LSNs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OptionHistory {
    current: EventOptions,
    /// In order of their bounds.
    #[serde(default)]
    earlier: Vec<Earlier>,
}

impl OptionHistory {
    /// The same options for all.
    pub(super) const fn new(current: EventOptions) -> Self {
        Self { current, earlier: Vec::new() }
    }

    /// The history once `configured` holds from `ceiling` on, below which commits may have been published, for a stream that
    /// begins at `from`.
    pub(super) fn change(mut self, configured: EventOptions, ceiling: Lsn, from: Lsn) -> Self {
        if self.current != configured {
            let options = std::mem::replace(&mut self.current, configured);
            // Options that change once more before anything is published under them leave nothing behind.
            if self.earlier.last().is_none_or(|last| last.below < ceiling) {
                self.earlier.push(Earlier { options, below: ceiling });
            }
        }
        self.earlier.retain(|earlier| earlier.below > from);
        self
    }

    /// The publication before the present one, while that is known.
    pub(super) fn former_publication(&self) -> Option<&str> {
        let earlier = self.earlier.iter().rev().map(|earlier| &earlier.options);
        let former = earlier.into_iter().find(|options| options.publication != self.current.publication)?;
        Some(&former.publication)
    }

    /// The options of the transactions from `from` on, and the commit LSN at which they end.
    pub(super) fn at(&self, from: Lsn) -> (&EventOptions, Option<Lsn>) {
        let earlier = self.earlier.iter().find(|earlier| earlier.below > from);
        earlier.map_or((&self.current, None), |earlier| (&earlier.options, Some(earlier.below)))
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
        }
    }

    #[test]
    fn other_options_hold_behind_what_may_have_been_published() {
        let history = OptionHistory::new(options("a")).change(options("b"), Lsn(100), Lsn(40));
        assert_eq!(history.at(Lsn(40)), (&options("a"), Some(Lsn(100))));
        assert_eq!(history.at(Lsn(100)), (&options("b"), None));
        assert_eq!(history.former_publication(), Some("a"));
        assert_eq!(OptionHistory::new(options("a")).former_publication(), None);
    }

    #[test]
    fn nothing_is_kept_of_options_that_nothing_can_be_published_again_under() {
        let same = OptionHistory::new(options("a"));
        assert_eq!(same.clone().change(options("a"), Lsn(100), Lsn(40)), same);
        assert_eq!(same.change(options("b"), Lsn(100), Lsn(100)), OptionHistory::new(options("b")));
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
