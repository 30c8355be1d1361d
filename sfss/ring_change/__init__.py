"""Carrying out changes of a cluster's ring, without a terminal: what `sfss ring apply` does.

All that is known of a change is on the nodes, so whoever carries it out may end at any moment and be started again
anywhere. The rules are those of docs/decisions/ring-changes.rst.
"""
