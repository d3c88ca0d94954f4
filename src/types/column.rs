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
}
