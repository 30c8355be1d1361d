"""The memcache wire: codec, server and client."""
