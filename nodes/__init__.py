"""The node: one data directory behind the memcache protocol."""
