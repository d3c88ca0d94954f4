//! The target PostgreSQL.
