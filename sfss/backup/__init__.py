"""Backup and restore: a cluster's files in a folder of tar archives, and back (docs/decisions/backup.rst).

`folder` and what it is made of (`manifest`, `segments`) are the format; `tree` tells which files the nodes have;
`saving`, `verifying` and `restoring` are the three things to do. Nothing here knows of proxies or command lines: a
cluster's files are read from and written to a `Store`.
"""
