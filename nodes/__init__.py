"""The node of sfss: one data directory behind the memcache protocol."""
