//! key_moves
