//! The pgoutput plugin's messages (manual, "Logical Replication Message Formats").
