"""sfss: a store for millions of small files, behind plain HTTP."""

__version__ = "0.1.0"
