"""The web tier: files in and out over HTTP."""
