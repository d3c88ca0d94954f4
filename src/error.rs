//! The errors that end a command.
