//! The source PostgreSQL.
