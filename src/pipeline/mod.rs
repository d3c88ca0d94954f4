//! The wiring: the only place where adapters meet.
