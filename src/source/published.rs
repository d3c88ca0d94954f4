//! The tables that a publication publishes at present, as `pg_publication_tables` has them, without opening any.
//!
//! From version 16 on the server opens each published table for that view, so reading it waits for as long as a statement has one of
//! them for itself (`VACUUM FULL`, most forms of `ALTER TABLE`). The catalogs behind it tell the same and wait for nobody. From 17 on a row
//! filter is the exception: the server opens its table to spell it.

/// Relations that can be published: permanent tables that are not the system's own (`is_publishable_class` of the server).
const PUBLISHABLE: &str = "c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND c.oid >= 16384";

/// A relation for a FROM clause with the columns `relid`, `schemaname`, `tablename`, `attnames` (`text[]`) and `rowfilter`; the
/// publication's name is parameter 1. Without `attnames` all columns that can be are published.
#[must_use]
pub fn tables(server_version: u32) -> String {
    if server_version < 150_000 {
        // It knows neither schemas nor lists nor filters, and opens nothing for the view. That has a partition twice which is listed beside
        // its root.
        return "(SELECT DISTINCT c.oid AS relid, p.schemaname, p.tablename, NULL::text[] AS attnames, NULL::text AS rowfilter \
                 FROM pg_publication_tables p JOIN pg_namespace n ON n.nspname = p.schemaname \
                 JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename WHERE p.pubname = $1)"
            .to_owned();
    }
    let whole = whole_table(server_version);
    format!(
        "(WITH RECURSIVE b AS (SELECT * FROM pg_publication WHERE pubname = $1), \
          named(relid) AS ( \
             SELECT r.prrelid FROM pg_publication_rel r JOIN b ON r.prpubid = b.oid \
             UNION SELECT c.oid FROM pg_publication_namespace s JOIN b ON s.pnpubid = b.oid \
             JOIN pg_class c ON c.relnamespace = s.pnnspid WHERE {PUBLISHABLE}), \
          below(relid) AS ( \
             SELECT relid FROM named \
             UNION SELECT i.inhrelid FROM below JOIN pg_class c ON c.oid = below.relid AND c.relkind = 'p' \
             JOIN pg_inherits i ON i.inhparent = c.oid AND NOT i.inhdetachpending), \
          members(relid) AS ( \
             SELECT c.oid FROM below JOIN pg_class c ON c.oid = below.relid CROSS JOIN b \
             WHERE NOT b.puballtables AND NOT b.pubviaroot AND c.relkind = 'r' \
             UNION ALL SELECT named.relid FROM named CROSS JOIN b \
             WHERE NOT b.puballtables AND b.pubviaroot AND NOT EXISTS ( \
                SELECT FROM pg_partition_ancestors(named.relid) a JOIN named other ON other.relid = a.relid \
                WHERE a.relid <> named.relid) \
             UNION ALL SELECT c.oid FROM pg_class c CROSS JOIN b \
             WHERE b.puballtables AND {PUBLISHABLE} \
               AND CASE WHEN b.pubviaroot THEN NOT c.relispartition ELSE c.relkind = 'r' END) \
          SELECT c.oid AS relid, n.nspname AS schemaname, c.relname AS tablename, \
                 CASE WHEN r.prattrs IS NULL THEN {whole} \
                      ELSE (SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute a \
                            WHERE a.attrelid = c.oid AND a.attnum = ANY (r.prattrs)) END AS attnames, \
                 pg_get_expr(r.prqual, r.prrelid) AS rowfilter \
          FROM members JOIN pg_class c ON c.oid = members.relid JOIN pg_namespace n ON n.oid = c.relnamespace \
          CROSS JOIN b \
          LEFT JOIN pg_publication_rel r ON r.prpubid = b.oid AND r.prrelid = c.oid AND NOT b.puballtables \
             AND NOT EXISTS (SELECT FROM pg_publication_namespace s \
                             WHERE s.pnpubid = b.oid AND s.pnnspid = c.relnamespace))"
    )
}

/// What of a table without a column list is published: below 18 no generated column ever is, from there on the publication rules.
fn whole_table(server_version: u32) -> &'static str {
    if server_version < 180_000 {
        "NULL"
    } else {
        "(SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute a \
          WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
            AND (a.attgenerated = '' OR a.attgenerated = b.pubgencols))"
    }
}
