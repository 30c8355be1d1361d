"""All commands by name, and the lanes of the frequent ones by the first three bytes of their line."""

from __future__ import annotations

from sfss.memcache.commands import (
    administration,
    changes,
    meta_arithmetic,
    meta_delete,
    meta_get,
    meta_set,
    own_forms,
    retrieval,
    sfss_command,
    storage,
)
from sfss.memcache.requests import Lane

_FAMILIES = (
    administration,
    changes,
    meta_arithmetic,
    meta_delete,
    meta_get,
    meta_set,
    retrieval,
    sfss_command,
    storage,
)

COMMANDS = {command.name: command for family in _FAMILIES for command in family.COMMANDS}

LANES: dict[bytes, Lane] = {
    b"get": retrieval.get_lane,
    b"set": storage.set_lane,
    b"mg ": own_forms.mg_lane,
    b"ms ": own_forms.ms_lane,
    b"md ": own_forms.md_lane,
}
