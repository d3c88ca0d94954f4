//! Avro bytes: schemas, datum encoding and decoding, the registry's wire framing.
