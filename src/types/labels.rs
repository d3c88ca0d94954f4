//! Labels of enumerations: an `ALTER TYPE … ADD VALUE` is in no message, so that a value may have one that its type was
//! described without. Nor does a message tell whether an array has NULL.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    array_scan::{self, Item},
    codec::{Codec, Family, TextKind},
    column::{ColumnType, TypeKind},
    value::Element as _,
};

/// What a value has that its codec does not know of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown<'a> {
    /// A label.
    Label(&'a [u8]),
    /// NULL in an array whose items cannot be null.
    NullItem,
}

impl Codec {
    /// Whether values have labels: an enumeration, or an array of one.
    #[must_use]
    pub fn has_labels(&self) -> bool {
        self.labels().is_some()
    }

    pub(super) fn labels(&self) -> Option<&[Arc<str>]> {
        match &self.0 {
            Family::Text(TextKind::Enum(labels) | TextKind::RequiredEnum(labels)) => Some(labels),
            Family::Array(element, _) => element.labels(),
            _ => None,
        }
    }

    /// Calls `found` for what the codec does not know in a value's text.
    pub fn unknown(&self, text: &[u8], mut found: impl FnMut(Unknown<'_>)) {
        let Some(known) = self.labels() else { return };
        let is_known = |label: &[u8]| known.iter().any(|known| known.as_bytes() == label);
        let mut check = |label: &[u8]| {
            if !is_known(label) {
                found(Unknown::Label(label));
            }
        };
        let Family::Array(element, _) = &self.0 else { return check(text) };
        let (mut unescaped, mut has_null) = (Vec::new(), false);
        array_scan::each_of_any_dimension(text, |item| match item {
            Item::Null => has_null = true,
            Item::Plain(label) => check(label),
            Item::Escaped(label) => {
                array_scan::unescape(label, &mut unescaped);
                check(&unescaped);
            }
        });
        if has_null && element.is_required() {
            found(Unknown::NullItem);
        }
    }
}

impl ColumnType {
    /// The enumeration that the type is, or is made of, by `pg_type.oid`, and its labels.
    #[must_use]
    pub fn enumeration(&self) -> Option<(u32, &[Arc<str>])> {
        match &self.kind {
            TypeKind::Enum(labels) => Some((self.oid, labels)),
            TypeKind::Domain(inner) | TypeKind::Array(inner) => inner.enumeration(),
            TypeKind::Base | TypeKind::Extension(_) => None,
        }
    }

    /// Adds labels at the end of the enumeration that the type is, or is made of.
    pub fn add_labels(&mut self, more: &BTreeSet<String>) {
        match &mut self.kind {
            TypeKind::Enum(labels) => {
                let new = |label: &&String| !labels.iter().any(|known| **known == ***label);
                let new: Vec<Arc<str>> = more.iter().filter(new).map(|label| label.as_str().into()).collect();
                labels.extend(new);
            }
            TypeKind::Domain(inner) | TypeKind::Array(inner) => Arc::make_mut(inner).add_labels(more),
            TypeKind::Base | TypeKind::Extension(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Modes;

    fn mood() -> ColumnType {
        ColumnType { kind: TypeKind::Enum(vec!["sad".into(), "a b".into()]), ..ColumnType::base(17_000, -1, "mood") }
    }

    fn unknown(ty: &ColumnType, text: &str) -> Vec<String> {
        let mut unknown = Vec::new();
        let codec = Codec::of_column(ty, Modes::default());
        codec.unknown(text.as_bytes(), |found| match found {
            Unknown::Label(label) => unknown.push(String::from_utf8_lossy(label).into_owned()),
            Unknown::NullItem => panic!("the items of {text} can be null"),
        });
        unknown
    }

    #[test]
    fn labels_that_a_type_was_described_without_are_found_in_values_and_arrays() {
        let array = ColumnType { kind: TypeKind::Array(mood().into()), ..ColumnType::base(17_001, -1, "mood[]") };
        let domain = ColumnType { kind: TypeKind::Domain(mood().into()), ..ColumnType::base(17_002, -1, "feeling") };
        for ty in [&mood(), &domain] {
            assert_eq!(unknown(ty, "a b"), [""; 0]);
            assert_eq!(unknown(ty, "glad"), ["glad"]);
        }
        for known in ["{}", "{sad,NULL}", r#"[0:1]={sad,"a b"}"#, r#"{{sad,"a b"},{NULL,sad}}"#] {
            assert_eq!(unknown(&array, known), [""; 0], "{known}");
        }
        for found in [r#"{sad,"a,\"b"}"#, r#"[2:2]={"a,\"b"}"#, r#"{{sad,sad},{"a b","a,\"b"}}"#] {
            assert_eq!(unknown(&array, found), ["a,\"b"], "{found}");
        }
        assert_eq!(unknown(&array, r#"{"NULL"}"#), ["NULL"]);
        assert_eq!(unknown(&ColumnType::base(25, -1, "text"), "glad"), [""; 0]);
    }

    #[test]
    fn null_is_unknown_where_items_cannot_be_null() {
        let array = ColumnType { kind: TypeKind::Array(mood().into()), ..ColumnType::base(17_001, -1, "mood[]") };
        let codec = Codec::of_column(&array, Modes::default()).with_required_items();
        let has_null = |text: &str| {
            let mut has_null = false;
            codec.unknown(text.as_bytes(), |found| has_null |= found == Unknown::NullItem);
            has_null
        };
        assert!(!has_null("{sad}") && !has_null("{}") && !has_null(r#"{"NULL"}"#));
        assert!(has_null("{NULL}") && has_null("{{sad,NULL}}"));
    }

    #[test]
    fn labels_are_added_to_what_a_type_is_made_of() {
        let mut array = ColumnType { kind: TypeKind::Array(mood().into()), ..ColumnType::base(17_001, -1, "mood[]") };
        array.add_labels(&BTreeSet::from(["glad".to_owned(), "sad".to_owned()]));
        assert_eq!(unknown(&array, "{sad,glad}"), [""; 0]);
        assert_eq!(unknown(&array, "{bad}"), ["bad"]);
    }
}
