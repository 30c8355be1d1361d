"""What one node holds, asked over its own port: the evidence below the quorum."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from tests.cluster.workload import Address

BATCH = 200


async def versions(address: Address, keys: Iterable[str]) -> dict[str, int]:
    """The version that a node holds of each key (tombstones and expired records included). Keys that it never heard
    of, or can't answer for (corrupt, recovering), are left out."""
    keys = list(keys)
    found: dict[str, int] = {}
    reader, writer = await asyncio.open_connection(*address)
    try:
        for first in range(0, len(keys), BATCH):
            batch = keys[first : first + BATCH]
            writer.write(b"".join(b"mg %s s V H Y\r\n" % key.encode() for key in batch))
            await writer.drain()
            for key in batch:
                words = (await reader.readuntil(b"\r\n")).split()
                if words[0] == b"HD":
                    found[key] = next(int(word[1:]) for word in words if word.startswith(b"V"))
                elif words[0] not in (b"EN", b"SERVER_ERROR"):
                    raise ValueError(f"{address} answered {b' '.join(words)!r} for {key}")
    finally:
        writer.close()
    return found


async def holders(addresses: Iterable[Address], keys: Iterable[str]) -> dict[str, list[int]]:
    """For each key the versions that the nodes hold, newest first."""
    keys = list(keys)
    everyone = await asyncio.gather(*(versions(address, keys) for address in addresses))
    return {key: sorted((held[key] for held in everyone if key in held), reverse=True) for key in keys}
