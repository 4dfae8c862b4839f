//! State locks: what they say, where they live, and how tfguard deletes its own by condition.
