"""Many files in one request: `POST /files:get` and `POST /files:put`. The formats: docs/batches.rst."""
