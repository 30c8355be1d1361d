"""The composition root: the only place that joins web, proxy and nodes."""
