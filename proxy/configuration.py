"""A proxy's configuration file, in the shape that operators of such proxies know::

    [default]
    server_port = 7900                 port of servers named without one
    servers = localhost,localhost:7901,localhost:7902     once the ring has changed: where some nodes can be found
    zones = a,b,c                      optional: what may fail together, in the order of servers
    weights = 1,1,2                    optional: shares, in the order of servers
    partitions = 65536                 optional: fixed once the cluster is founded (docs/growth.rst says what to choose)
    secret = /etc/sfss/secret          optional: user:password for the nodes; its first line is given to them
    tlsca = /etc/sfss/ca.pem           optional: speak TLS to nodes whose certificates this authority signed
    tlscert = /etc/sfss/cert.pem       optional, with tlskey: shown to nodes that ask for a certificate

    [proxy]
    listen = 127.0.0.1
    port = 8900
    secret = /etc/sfss/secret          optional, default that of [default]: whoever connects must give one of its lines
    tlscert = /etc/sfss/cert.pem       optional, with tlskey: speak TLS with this certificate
    tlskey = /etc/sfss/key.pem
    tlsca = /etc/sfss/ca.pem           optional: only to clients that show a certificate which this authority signed
    tlsoptional = no                   yes: let clients in without TLS, too, while they are turned to it
    N = 3                              copies of each file
    W = 2                              copies that must be on disk before a write is acknowledged
    R = 2                              copies that must answer a read
    state = data/proxy-0               optional: makes writes faster (they needn't ask before they are stamped)
    accesslog = no                     yes: a line for each request in the log; or a file to write it to
    timeout = 3                        seconds for a request
    node_timeout = 1                   seconds for one question to one node
    founding_timeout = 30              seconds to wait for all nodes of a new cluster, or one of a known one
    compare_interval = 21600           seconds in which all replicas are compared once; 0: only what is known to differ
    compare_rate = 8388608             bytes a second that this takes at most
    compare_settle = 10                seconds in which every write has ended; at least twice `timeout`
    hint_mib = 128                     room in `state` to note what nodes miss while they are away; about 800,000 files
    hint_hours = 48                    how long a node may be away and get what it missed from these notes
    tombstone_days = 10                how long deletions are kept at least; 0: for ever. Twice hint_hours or more
    hint_rate = 1000                   files a second that a node gets so, once it is back

    [monitor]
    listen = 127.0.0.1
    port = 9900
    proxy = localhost:8900             this proxy

Every section and key is known here: what isn't is refused, as is every wrong value, in one line that names it.
"""

from __future__ import annotations

import configparser
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from proxy.cluster import ClusterConfig, NodeAddress
from proxy.options import Options
from sfss.errors import SetupError
from sfss.memcache.trust import Trust
from sfss.ring import PARTITIONS, PARTITIONS_MAX, WEIGHT_MAX
from sfss.settings import parse_address

T = TypeVar("T")
D = TypeVar("D")

_KEYS = {
    "default": ("server_port", "servers", "zones", "weights", "partitions", "secret", "tlsca", "tlscert", "tlskey"),
    "proxy": (
        "listen",
        "port",
        "secret",
        "tlsca",
        "tlscert",
        "tlskey",
        "tlsoptional",
        "n",
        "w",
        "r",
        "state",
        "accesslog",
        "timeout",
        "node_timeout",
        "founding_timeout",
        "compare_interval",
        "compare_rate",
        "compare_settle",
        "hint_mib",
        "hint_hours",
        "hint_rate",
        "tombstone_days",
    ),
    "monitor": ("listen", "port", "proxy"),
}
_COPIES_MAX = 16
_COMPARE_INTERVAL_MAX = 30 * 86400
_COMPARE_RATE_MIN = 4096
_COMPARE_RATE_MAX = 1 << 40
_HINT_HOURS_MAX = 8760
_TOMBSTONE_DAYS_MAX = 3650
_HINT_MIB_MAX = 1 << 16
_HINT_RATE_MAX = 1_000_000
_TO_LOG = Path()
_NO = ("", "no", "off", "false", "0")
_YES = ("yes", "on", "true", "1")


@dataclass(frozen=True, slots=True)
class MonitorConfig:
    """Where the monitor listens."""

    listen: str
    port: int


@dataclass(frozen=True, slots=True)
class ProxyConfig:
    """A proxy as configured. `monitor` is None where the file has no such section. `nodes` and `door` are for the nodes
    below and for the clients above."""

    cluster: ClusterConfig
    nodes: Trust = field(default_factory=Trust)
    door: Trust = field(default_factory=Trust)
    listen: str = "127.0.0.1"
    port: int = 8900
    access_log: bool = False
    access_log_file: Path | None = None
    monitor: MonitorConfig | None = None


def load_configuration(path: Path) -> ProxyConfig:
    """Read a file. Raises `SetupError` with one line that names the file and what is wrong in it."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SetupError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise SetupError(f"{path}: not UTF-8 text") from None
    try:
        return _Reader(text).configuration()
    except SetupError as error:
        raise SetupError(f"{path}: {error}") from None


class _Reader:
    def __init__(self, text: str) -> None:
        # No default section, so that [default] is one like the others; no interpolation, so that % is a character.
        self._parser = configparser.ConfigParser(
            default_section="", interpolation=None, inline_comment_prefixes=("#", ";"), empty_lines_in_values=False
        )
        try:
            self._parser.read_string(text)
        except configparser.Error as error:
            raise SetupError(str(error).replace("<string>", "the file").replace("\n", " ")) from None
        for section in self._parser.sections():
            if section not in _KEYS:
                raise SetupError(f"section [{section}] is none of {', '.join(f'[{known}]' for known in _KEYS)}")
            for key in self._parser[section]:
                if key not in _KEYS[section]:
                    raise SetupError(f"key {key!r} in [{section}] is none of {', '.join(_KEYS[section])}")

    def configuration(self) -> ProxyConfig:
        options = self._compare_options(Options())
        timeout = self._value("proxy", "timeout", _seconds, options.deadline_s)
        node_timeout = self._value("proxy", "node_timeout", _seconds, min(options.node_deadline_s, timeout))
        if node_timeout > timeout:
            raise SetupError(f"node_timeout = {node_timeout:g} in [proxy] is more than timeout = {timeout:g}")
        settle = max(self._value("proxy", "compare_settle", _seconds, options.compare_settle_s), 2 * timeout)
        state = self._value("proxy", "state", _text, "")
        access_log = self._value("proxy", "accesslog", _switch_or_file, None)
        config = ProxyConfig(
            cluster=ClusterConfig(
                addresses=self._addresses(),
                n=self._value("proxy", "n", _number(1, _COPIES_MAX), 3),
                w=self._value("proxy", "w", _number(1, _COPIES_MAX), 2),
                r=self._value("proxy", "r", _number(1, _COPIES_MAX), 2),
                partitions=self._value("default", "partitions", _number(2, PARTITIONS_MAX), PARTITIONS),
                state=Path(state) if state else None,
                founding_s=self._value("proxy", "founding_timeout", _seconds, 30.0),
                options=self._hint_options(
                    replace(options, deadline_s=timeout, node_deadline_s=node_timeout, compare_settle_s=settle)
                ),
            ),
            nodes=self._trust("default", ""),
            door=replace(
                self._trust("proxy", self._value("default", "secret", _text, "")),
                plain_too=self._value("proxy", "tlsoptional", _switch, False),
            ),
            listen=self._value("proxy", "listen", _text, "127.0.0.1"),
            port=self._value("proxy", "port", _number(0, 65535), 8900),
            access_log=access_log is not None,
            access_log_file=access_log if access_log != _TO_LOG else None,
        )
        if not self._parser.has_section("monitor"):
            return config
        address = self._value("monitor", "proxy", parse_address, None)
        if address is not None and address.port != config.port:
            raise SetupError(f"proxy = {address} in [monitor] is not this proxy, which has port {config.port}")
        monitor = MonitorConfig(
            self._value("monitor", "listen", _text, "127.0.0.1"),
            self._value("monitor", "port", _number(0, 65535), 9900),
        )
        return replace(config, monitor=monitor)

    def _compare_options(self, options: Options) -> Options:
        interval = _number(0, _COMPARE_INTERVAL_MAX)
        rate = _number(_COMPARE_RATE_MIN, _COMPARE_RATE_MAX)
        return replace(
            options,
            compare_interval_s=self._value("proxy", "compare_interval", interval, options.compare_interval_s),
            compare_bytes_per_s=self._value("proxy", "compare_rate", rate, options.compare_bytes_per_s),
        )

    def _hint_options(self, options: Options) -> Options:
        mib = self._value("proxy", "hint_mib", _number(1, _HINT_MIB_MAX), options.hint_bytes_max >> 20)
        hours = self._value("proxy", "hint_hours", _positive(_HINT_HOURS_MAX), options.hint_age_s / 3600.0)
        days = self._value("proxy", "tombstone_days", _positive(_TOMBSTONE_DAYS_MAX), options.tombstone_grace_s / 86400)
        rate = self._value("proxy", "hint_rate", _number(1, _HINT_RATE_MAX), options.hint_rate)
        return replace(
            options,
            hint_bytes_max=mib << 20,
            hint_age_s=hours * 3600.0,
            hint_rate=rate,
            tombstone_grace_s=days * 86400.0,
        )

    def _trust(self, section: str, secret: str) -> Trust:
        return Trust(
            self._value(section, "secret", _text, secret),
            self._value(section, "tlscert", _text, ""),
            self._value(section, "tlskey", _text, ""),
            self._value(section, "tlsca", _text, ""),
        )

    def _addresses(self) -> tuple[NodeAddress, ...]:
        port = self._value("default", "server_port", _number(1, 65535), 7900)
        names = self._items("servers")
        if not names:
            raise SetupError("servers in [default] names no node")
        zones = self._for_each("zones", _text, "", len(names))
        weights = self._for_each("weights", _number(1, WEIGHT_MAX), 1, len(names))
        addresses = []
        for name, zone, weight in zip(names, zones, weights, strict=True):
            has_port = name.rpartition("]")[2].count(":") == 1
            try:
                address = parse_address(name if has_port else f"{name}:{port}")
            except ValueError as error:
                raise SetupError(f"servers in [default]: {error}") from None
            addresses.append(NodeAddress(address.host, address.port, zone, weight))
        return tuple(addresses)

    def _for_each(self, key: str, read: Callable[[str], T], default: T, count: int) -> list[T]:
        """A list beside `servers`, with one entry for each of them."""
        texts = self._items(key)
        if not texts:
            return [default] * count
        if len(texts) != count:
            raise SetupError(f"{key} in [default] has {len(texts)} entries for {count} servers")
        return [self._read("default", key, text, read) for text in texts]

    def _items(self, key: str) -> list[str]:
        text: str = self._parser.get("default", key, fallback="")
        return [item.strip() for item in text.split(",") if item.strip()]

    def _value(self, section: str, key: str, read: Callable[[str], T], default: D) -> T | D:
        text = self._parser.get(section, key, fallback=None)
        if text is None:
            return default
        return self._read(section, key, text.strip(), read)

    def _read(self, section: str, key: str, text: str, read: Callable[[str], T]) -> T:
        try:
            return read(text)
        except ValueError as error:
            raise SetupError(f"{key} = {text} in [{section}]: {error}") from None


def _text(text: str) -> str:
    return text


def _number(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit()):
            raise ValueError("not a whole number")
        if not least <= int(text) <= most:
            raise ValueError(f"not between {least} and {most}")
        return int(text)

    return read


def _positive(most: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            raise ValueError("not a number") from None
        if not 0 <= number <= most:
            raise ValueError(f"not between 0 and {most:g}")
        return number

    return read


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise ValueError("not a number of seconds") from None
    if not 0.01 <= seconds <= 3600:
        raise ValueError("not between 0.01 and 3600 seconds")
    return seconds


def _switch(text: str) -> bool:
    if text.lower() in _NO:
        return False
    if text.lower() in _YES:
        return True
    raise ValueError("neither yes nor no")


def _switch_or_file(text: str) -> Path | None:
    """None for no, `_TO_LOG` for yes, else the file."""
    if text.lower() in _NO:
        return None
    return _TO_LOG if text.lower() in _YES else Path(text)
