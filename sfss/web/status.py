"""What /status and /metrics tell of every part, and whether this process is ready to serve.

Every peer is asked at the same time and on its own deadline, so a dead one delays nothing. The asking is done by
aiomcache, with a client for each call: it is off the data path, and a client that is thrown away can't mix up replies.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias, cast

import aiomcache
from aiomcache.client import acquire
from aiomcache.pool import Connection

from sfss.addresses import reason_of
from sfss.durability import Durability, Limit, durability_of, out_of_reach
from sfss.errors import SfssError, Unauthenticated, Unreachable
from sfss.http.metrics import CONTENT_TYPE, cluster_families, exposition
from sfss.http.negotiation import prefers_html
from sfss.memcache.access import OPEN, Access
from sfss.memcache.errors import UNAUTHENTICATED, error_of, is_error
from sfss.settings import Address
from sfss.store import Call, Store, settled
from sfss.web.answers import Answer, body_answer, json_answer
from sfss.web.counters import SharedCounters
from sfss.web.errors import Refused
from sfss.web.metrics import web_families
from sfss.web.operators import Operators
from sfss.web.requests import Answered, Request
from sfss.web.status_page import status_page

FRESH_S = 0.5
"""Whoever asks for /status within this time of another gets what was collected for that one, besides the counters."""

READY_S_MAX = 1.5
_READY_KEY = b"sfss-readyz"

Figures: TypeAlias = "dict[str, str]"


class StatusSource(Protocol):
    """Where the figures of the tiers below come from."""

    async def collect(self) -> dict[str, object]:
        """One entry for each proxy by its address, `storages`, and under `webserver` what is known of this process
        besides its counters. Raises `Unreachable` when nobody answers."""


class ProxiesStatus:
    """Asks proxies, or foreign memcache servers in their place, for their own figures and for those of their nodes."""

    def __init__(
        self, proxies: Sequence[Address], timeout_s: float, notes: Mapping[Address, str], access: Access = OPEN
    ) -> None:
        """`notes` has what is known of a server besides, as of a foreign one what it can't do; read at each call."""
        self._access = access
        self._proxies = proxies
        self._timeout_s = timeout_s
        self._notes = notes

    async def collect(self) -> dict[str, object]:
        asked = [_asked(proxy, self._timeout_s, self._access) for proxy in self._proxies]
        told = dict(zip(self._proxies, await asyncio.gather(*asked), strict=True))
        figures: dict[str, object] = {}
        storages: dict[str, Figures] = {}
        for proxy, (own, of_nodes) in told.items():
            figures[str(proxy)] = own | ({"note": self._notes[proxy]} if proxy in self._notes else {})
            storages = storages or of_nodes
        if all(own["state"] == "dead" for own, _ in told.values()):
            raise Unreachable(f"no proxy answers: {_reasons({str(proxy): own for proxy, (own, _) in told.items()})}")
        return figures | {"storages": storages}


class DirectStatus:
    """Asks the coordinator of this process for its nodes."""

    def __init__(self, store: Store, timeout_s: float) -> None:
        self._store = store
        self._timeout_s = timeout_s

    async def collect(self) -> dict[str, object]:
        call = Call(time.monotonic() + self._timeout_s)
        storages = by_node(await settled(self._store.stats("storages", call)))
        own = await settled(self._store.stats("", call))
        if storages and all(figures["state"] == "dead" for figures in storages.values()):
            raise Unreachable(f"no node answers: {_reasons(storages)}")
        return {"storages": storages, "webserver": own}


class StatusHandler:
    """GET /status, /metrics and /readyz. The last fails when a figure is beyond one of `limits`."""

    def __init__(
        self,
        store: Store,
        source: StatusSource,
        counters: SharedCounters,
        operators: Operators,
        limits: Sequence[Limit] = (),
    ) -> None:
        self._store = store
        self._source = source
        self._counters = counters
        self._operators = operators
        self._limits = limits
        self._collecting: asyncio.Task[dict[str, object]] | None = None
        self._collected_at = 0.0

    def status(self, request: Request) -> Answered:
        if prefers_html(request.headers.get("Accept", "")):
            page = status_page()
            headers = {name: value for name, value in page.headers.items() if name != "Content-Type"}
            return body_answer(200, page.headers["Content-Type"], page.html.encode(), headers)
        return self._figures()

    async def _figures(self) -> Answer:
        collected = await self._collected()
        known = cast("dict[str, object]", collected.get("webserver", {}))
        durability = {"durability": _durability(collected).told()}
        webserver = {"state": "ok"} | known | self._counters.figures(time.time()) | durability
        return json_answer(200, collected | {"webserver": webserver}, {"Vary": "Accept"})

    async def _collected(self) -> dict[str, object]:
        # Shared: each collection opens connections to every proxy, and a crowd of browsers is not to use them all up.
        now = time.monotonic()
        if self._collecting is None or (self._collecting.done() and now >= self._collected_at + FRESH_S):
            self._collected_at = now
            self._collecting = asyncio.get_running_loop().create_task(self._source.collect(), name="status")
        return await asyncio.shield(self._collecting)

    def metrics(self, request: Request) -> Answered:
        self._operators.check(request)
        return self._metrics()

    async def _metrics(self) -> Answer:
        nodes: dict[str, Figures] = {}
        try:
            collected = await self._collected()
        except SfssError as error:
            # What the web tier itself counts is wanted most when nothing below it answers.
            durability = out_of_reach(str(error))
        else:
            durability, nodes = _durability(collected), _nodes_in(collected)
        told = [*web_families(self._counters, time.time()), *cluster_families(durability, nodes)]
        return body_answer(200, CONTENT_TYPE, exposition(told))

    async def ready(self, request: Request) -> Answer:
        """Ready when the store answers a read of a key that needn't exist: enough is there for a quorum; and no figure
        is beyond its limit, where limits are set."""
        await settled(self._store.get(_READY_KEY, Call(time.monotonic() + READY_S_MAX, 0, request.id)))
        if self._limits:
            durability = _durability(await self._collected())
            broken = [limit for limit in self._limits if limit.broken_by(durability)]
            if broken:
                told = durability.told()
                beyond = ", ".join(f"{limit.name} is {told[limit.name]} ({limit})" for limit in broken)
                raise Refused(503, "not_ready", f"READY_FAILS_ON: {beyond}", headers=(("Retry-After", "1"),))
        return body_answer(200, "text/plain; charset=utf-8", b"ready\n")


def _nodes_in(collected: Mapping[str, object]) -> dict[str, Figures]:
    return cast("dict[str, Figures]", collected["storages"])


def _durability(collected: Mapping[str, object]) -> Durability:
    """The verdict on what a source has collected: whatever isn't a node places files on them."""
    coordinators = {name: told for name, told in collected.items() if name != "storages" and isinstance(told, dict)}
    return durability_of(coordinators, _nodes_in(collected))


def _reasons(dead: Mapping[str, Figures]) -> str:
    return "; ".join(f"{server}: {figures['error'].removeprefix(f'{server}: ')}" for server, figures in dead.items())


def by_node(figures: Figures) -> dict[str, Figures]:
    """Take `<node>/<name>` → value apart. A node that says nothing of its state is well."""
    nodes: dict[str, Figures] = {}
    for name, value in figures.items():
        node, slash, figure = name.rpartition("/")
        if slash:
            nodes.setdefault(node, {"state": "ok"})[figure] = value
    return nodes


async def _asked(server: Address, timeout_s: float, access: Access) -> tuple[Figures, dict[str, Figures]]:
    """A server's own figures, and its nodes' where it has any."""
    options = access.stream_options(server.host)
    client = _Client(server.host, server.port, pool_size=1, conn_args=options)
    try:
        async with asyncio.timeout(timeout_s):
            if access.words:
                await client.authenticate(access)
            own = {"state": "ok"} | _text(await client.stats())
            try:
                return own, by_node(_text(await client.stats(b"storages")))
            except (aiomcache.ClientException, OSError):
                return own, {}  # a foreign server, which knows nothing of nodes
    except TimeoutError:
        return {"state": "dead", "error": f"no answer in {timeout_s:g} s"}, {}
    except OSError as error:
        return {"state": "dead", "error": reason_of(error)}, {}
    except aiomcache.ClientException as refused:
        stranger = UNAUTHENTICATED.strip().decode() in str(refused)
        return {"state": "dead", "error": str(error_of(UNAUTHENTICATED.strip()) if stranger else refused)}, {}
    except (EOFError, ValueError, SfssError) as error:
        return {"state": "dead", "error": str(error) or type(error).__name__}, {}
    finally:
        await _dismiss(client)


class _Client(aiomcache.Client):
    """One that can give user and password. (Its own `set` waits for ever, and blocks the loop, where the server closes
    the connection instead of answering; docs/decisions/aiomcache.rst.)"""

    @acquire
    async def authenticate(self, connection: Connection, access: Access) -> None:
        """Do so on the one connection that it has. Raises `Unauthenticated`."""
        connection.writer.write(access.request)
        line = (await connection.reader.readline()).rstrip()
        error = error_of(line) if is_error(line) else None
        if isinstance(error, Unauthenticated):
            raise error


async def _dismiss(client: aiomcache.Client) -> None:
    try:
        await client.close()
    except (OSError, SfssError):
        return


def _text(figures: Mapping[bytes, bytes | None]) -> Figures:
    return {
        name.decode("utf-8", "replace"): (value or b"").decode("utf-8", "replace") for name, value in figures.items()
    }
