//! A column's type as the source's catalog tells it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A column's type as the catalog names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ColumnType {
    /// `pg_type.oid`.
    pub oid: u32,
    /// `pg_attribute.atttypmod`; −1 when there is none.
    pub typmod: i32,
    /// `format_type(oid, typmod)` with `search_path` set to `pg_catalog` only, so user types carry their schema:
    /// `numeric(12,2)`, `character varying(20)`, `public.mood`.
    pub sql: Arc<str>,
    /// What the catalog says beyond the OID.
    #[serde(default, skip_serializing_if = "TypeKind::is_base")]
    pub kind: TypeKind,
}

/// How a type is made up, as far as its OID does not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TypeKind {
    /// A built-in scalar type, or one of which no more is known.
    #[default]
    Base,
    /// An enumeration with its labels in their order.
    Enum(Vec<Arc<str>>),
    /// A domain over a type, which has the domain's modifier.
    Domain(Arc<ColumnType>),
    /// An array of a type, which has the column's modifier.
    Array(Arc<ColumnType>),
    /// A type of an extension, by its bare name: `hstore`, `ltree`, `citext`.
    Extension(Arc<str>),
}

impl TypeKind {
    /// Whether the OID tells all that is known.
    #[must_use]
    pub const fn is_base(&self) -> bool {
        matches!(self, Self::Base)
    }
}

impl ColumnType {
    /// A type of which no more is known than its OID.
    #[must_use]
    pub fn base(oid: u32, typmod: i32, sql: &str) -> Self {
        Self { oid, typmod, sql: sql.into(), kind: TypeKind::Base }
    }

    /// Whether a column of it may have a collation. Of an extension's or a user's own type that is not known.
    #[must_use]
    pub fn is_collatable(&self) -> bool {
        const FIRST_USER_OID: u32 = 16_384;
        match &self.kind {
            TypeKind::Base => matches!(self.oid, 19 | 25 | 1042 | 1043 | FIRST_USER_OID..),
            TypeKind::Enum(_) => false,
            TypeKind::Domain(inner) | TypeKind::Array(inner) => inner.is_collatable(),
            TypeKind::Extension(_) => true,
        }
    }

    /// Whether the values are arrays.
    #[must_use]
    pub fn is_array(&self) -> bool {
        matches!(self.below_domains().kind, TypeKind::Array(_))
    }

    /// The type below all domains.
    #[must_use]
    pub fn below_domains(&self) -> &Self {
        let mut ty = self;
        while let TypeKind::Domain(base) = &ty.kind {
            ty = base;
        }
        ty
    }
}
