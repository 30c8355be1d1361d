"""The web tier's settings: their names, defaults and limits, and where a value may come from.

Defaults are overridden by a TOML file, that by `SFSS_*` environment variables, those by command-line options. A
name is written in capitals in the file (`STORAGES = [...]`) and with the prefix in the environment (`SFSS_STORAGES`).
Whatever can't be used is refused at start, in one line that names the place it came from.
"""

from __future__ import annotations

import difflib
import ipaddress
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from sfss.addresses import host_and_port
from sfss.durability import Limit, parse_limit
from sfss.errors import SetupError
from sfss.ring import PARTITIONS, PARTITIONS_MAX, WEIGHT_MAX
from sfss.store import KEY_BYTES_MAX, VALUE_BYTES_MAX

ENVIRONMENT_PREFIX = "SFSS_"

_NOT_OURS = {"SFSS_COMPILE"}
"""Names with the prefix that are no settings: setup.py takes this one, and `make` hands it on to what it starts."""

Network: TypeAlias = "ipaddress.IPv4Network | ipaddress.IPv6Network"


class Address(NamedTuple):
    """Where a server listens. `str()` gives `host:port`, with brackets around an IPv6 host."""

    host: str
    port: int

    def __str__(self) -> str:
        return host_and_port(self.host, self.port)


def parse_address(text: str) -> Address:
    """Read `host:port` or `[IPv6]:port`. Raises `ValueError` with what is wrong."""
    host, colon, port = text.strip().rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text!r} needs brackets around its IPv6 address, as in [::1]:7900")
    if not (host and colon and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"{text!r} is not host:port")
    return Address(host, int(port))


# --- readers: a value from a file, a variable or an option becomes the setting, or ValueError says why not ---


def _number(least: float, most: float, kind: type[int] | type[float]) -> Callable[[object], float]:
    def read(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError(f"{value!r} is not a number")  # noqa: TRY004  every refused value is a ValueError
        try:
            number = kind(value)
        except (ValueError, OverflowError):
            raise ValueError(f"{value!r} is not a {'whole ' if kind is int else ''}number") from None
        if kind is int and isinstance(value, float) and value != number:
            raise ValueError(f"{value!r} is not a whole number")
        if not least <= number <= most:
            raise ValueError(f"{number} is not between {least} and {most}")
        return number

    return read


def _yes_or_no(value: object) -> bool:
    if isinstance(value, bool):
        return value
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if isinstance(value, str) and value.strip().lower() in words:
        return words[value.strip().lower()]
    raise ValueError(f"{value!r} is neither true nor false")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a text")  # noqa: TRY004  as above
    return value


def _host(value: object) -> str:
    host = _text(value).strip()
    if not host:
        raise ValueError("an empty address; 0.0.0.0 or :: is everybody who can reach this machine")
    return host


def _one_of(*choices: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        if value not in choices:
            raise ValueError(f"{value!r} is none of {', '.join(choices)}")
        return str(value)

    return read


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _addresses(value: object) -> tuple[Address, ...]:
    if isinstance(value, str):
        value = _parts(value)
    if not isinstance(value, list | tuple) or not all(isinstance(part, str) for part in value):
        raise ValueError(f"{value!r} is not a list of host:port")
    addresses = tuple(parse_address(part) for part in value)
    if not addresses:
        raise ValueError("at least one host:port is needed")
    if len(set(addresses)) < len(addresses):
        raise ValueError("an address is there twice")
    return addresses


def _zones(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = _parts(value)
    if not isinstance(value, list | tuple) or not all(isinstance(part, str) and part for part in value):
        raise ValueError(f"{value!r} is not a list of zones")
    return tuple(value)


def _weights(value: object) -> tuple[int, ...]:
    if isinstance(value, str):
        value = _parts(value)
    if not isinstance(value, list | tuple):
        raise ValueError(f"{value!r} is not a list of weights")  # noqa: TRY004  as above
    weight = _number(1, WEIGHT_MAX, int)
    return tuple(int(weight(part)) for part in value)


def _networks(value: object) -> tuple[Network, ...]:
    if isinstance(value, str):
        value = _parts(value)
    if not isinstance(value, list | tuple) or not all(isinstance(part, str) for part in value):
        raise ValueError(f"{value!r} is not a list of addresses and networks, as in 127.0.0.0/8, 10.0.3.7")
    return tuple(ipaddress.ip_network(part) for part in value)


def _origins(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = _parts(value)
    if not isinstance(value, list | tuple) or not all(isinstance(part, str) for part in value):
        raise ValueError(f"{value!r} is not a list of origins, as in https://files.example.com")
    origins = tuple(part.lower() for part in value)
    for origin in origins:
        scheme, _, authority = origin.partition("://")
        if origin != "*" and (not (scheme and authority) or "/" in authority):
            raise ValueError(f"{origin!r} is no origin of web pages, as https://files.example.com is, and isn't *")
    return origins


def _limits(value: object) -> tuple[Limit, ...]:
    if isinstance(value, str):
        value = _parts(value)
    if not isinstance(value, list | tuple) or not all(isinstance(part, str) for part in value):
        raise ValueError(f"{value!r} is not a list of limits, as in nodes_suspect>0")
    return tuple(parse_limit(part) for part in value)


def _setting(default: Any, read: Callable[[object], object]) -> Any:
    return field(default=default, metadata={"read": read})


def _whole(default: int, least: int, most: int) -> Any:
    return _setting(default, _number(least, most, int))


def _seconds(default: float, least: float = 0.01, most: float = 86400.0) -> Any:
    return _setting(default, _number(least, most, float))


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of the web tier. Sizes are in bytes, times in seconds."""

    # where it listens
    host: str = _setting("127.0.0.1", _host)
    port: int = _whole(8255, 0, 65535)
    workers: int = _whole(1, 1, 256)
    ssl: bool = _setting(default=False, read=_yes_or_no)
    ssl_cert: str = _setting("", _text)
    ssl_key: str = _setting("", _text)

    # what it serves from
    storage_proxies: tuple[Address, ...] = _setting(
        (Address("127.0.0.1", 8900), Address("127.0.0.1", 8901)), _addresses
    )
    storages: tuple[Address, ...] = _setting(
        (Address("127.0.0.1", 7900), Address("127.0.0.1", 7901), Address("127.0.0.1", 7902)), _addresses
    )
    storage_secret: str = _setting("", _text)
    """A file of user:password lines; the first is given to proxies, or with `direct` to nodes, as is what follows."""
    storage_tls_ca: str = _setting("", _text)
    """The authority that signed their certificates; with it TLS is spoken to them."""
    storage_tls_cert: str = _setting("", _text)
    storage_tls_key: str = _setting("", _text)
    """Shown to those that ask for a certificate."""
    storage_zones: tuple[str, ...] = _setting((), _zones)
    storage_weights: tuple[int, ...] = _setting((), _weights)
    """One for each of `storages`, or none at all: what may fail together, and shares."""
    partitions: int = _whole(PARTITIONS, 2, PARTITIONS_MAX)
    """Fixed once the cluster is founded, as are zones and weights."""
    direct: bool = _setting(default=False, read=_yes_or_no)
    n: int = _whole(3, 1, 16)
    w: int = _whole(2, 1, 16)
    r: int = _whole(2, 1, 16)
    compare_interval: int = _whole(6 * 3600, 0, 30 * 86400)
    compare_rate: int = _whole(8 * 1024 * 1024, 4096, 1 << 40)
    hint_hours: int = _whole(48, 1, 8760)
    hint_rate: int = _whole(1000, 1, 1_000_000)
    tombstone_days: int = _whole(10, 0, 3650)
    """With `direct`: in how many seconds all replicas are compared once, with how many bytes a second; for how long a
    node may be away and get what it missed from notes, and how many files a second then; for how long deletions are
    kept at least. All worker processes together; names and limits are those of a proxy's file."""
    storage_proxy_max_retry: int = _whole(3, 0, 100)
    storage_proxy_retry_share: float = _setting(0.1, _number(0, 1, float))
    """Tries after a request's first, of all requests, as a part of these; besides what was saved in quiet times."""
    storage_proxy_retry_after_seconds: float = _seconds(2.0)
    storage_proxy_timeout_seconds: float = _seconds(4.0)
    """For one try at one proxy; above the proxy's own deadline (3 s), so that its answer says what went wrong."""
    request_timeout_seconds: float = _seconds(10.0)
    """For one request, all tries together, from the moment its body is complete."""
    status_timeout_seconds: float = _seconds(1.5)
    """For each peer that /status asks."""

    # what it takes
    max_encoded_path_length: int = _whole(KEY_BYTES_MAX, 1, KEY_BYTES_MAX)
    max_content_size: int = _whole(VALUE_BYTES_MAX, 1, VALUE_BYTES_MAX)
    batch_files_max: int = _whole(10_000, 1, 1_000_000)
    batch_bytes_max: int = _whole(256 * 1024 * 1024, VALUE_BYTES_MAX, 1 << 40)
    batch_list_bytes_max: int = _whole(4 * 1024 * 1024, 1024, 64 * 1024 * 1024)
    """Of one batch: its files; the bytes of its body, or of the files in its answer; the bytes of its list of paths."""
    batches_max: int = _whole(4, 1, 4096)
    """Batches that one process has in hand at a time; more are refused with 503."""
    batch_seconds_max: float = _seconds(600.0)
    """How long one batch may be in hand; what it hasn't got to by then is for another one."""
    key_encoding: str = _setting("percent", _one_of("percent", "base64"))

    origins: tuple[str, ...] = _setting((), _origins)
    """Web pages that may write, besides those that are asked for by address: as `https://files.example.com`, or `*`."""

    # what it puts up with (RELIABILITY: hostile input)
    idle_timeout_seconds: float = _seconds(14.0)
    """For a connection without a complete request head; it is looked at once a second, and 15 s are promised."""
    body_grace_seconds: float = _seconds(10.0)
    body_rate_min: int = _whole(16 * 1024, 0, 1 << 30)
    """Bytes a second that a body must average once the grace is over."""
    reader_stall_seconds: float = _seconds(30.0)
    """How long a client may take no byte of its answer."""
    body_memory_max: int = _whole(256 * 1024 * 1024, VALUE_BYTES_MAX, 1 << 40)
    """Bytes of bodies, coming and going, that one process holds; more is refused with 503."""
    connections_max: int = _whole(4096, 1, 1 << 20)
    repeated_heads: bool = _setting(default=True, read=_yes_or_no)
    """Whether a request like the one before on its connection is taken without parsing it anew."""
    stop_timeout_seconds: float = _seconds(7.0)
    """For requests in hand when the server is told to stop."""

    # what it tells, and whom
    operators: tuple[Network, ...] = _setting(
        (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1")), _networks
    )
    """Where /metrics, and where a file lives, may be asked for; a request that was passed on is refused even so."""
    ready_fails_on: tuple[Limit, ...] = _setting((), _limits)
    """Figures of durability (`sfss.durability.FIGURES`) beyond which /readyz fails, as in `nodes_suspect>0`."""

    # what it says
    log_level: str = _setting("info", _one_of("debug", "info", "warning", "error"))
    log_json: bool = _setting(default=False, read=_yes_or_no)
    access_log: bool = _setting(default=False, read=_yes_or_no)


_OPTIONS = {
    "storage_proxies": "proxies",
    "storage_secret": "secret",
    "storage_tls_ca": "tlsca",
    "storage_tls_cert": "tlscert",
    "storage_tls_key": "tlskey",
    "ssl_cert": "sslcert",
    "ssl_key": "sslkey",
}
"""Command-line options that aren't called as their settings are."""

_READERS: dict[str, Callable[[object], object]] = {one.name: one.metadata["read"] for one in fields(Settings)}


def load_settings(
    file: Path | None = None, environment: Mapping[str, str] | None = None, options: Mapping[str, object] | None = None
) -> Settings:
    """Put the settings together. `options` are by field name; one that is None was not given. Raises `SetupError`."""
    values: dict[str, Any] = {}
    if file is not None:
        for name, value in _parsed(file).items():
            _take(values, name.lower() if name.isupper() else name, value, f"{name} in {file}")
    for name, text in (environment or {}).items():
        if name.startswith(ENVIRONMENT_PREFIX) and name not in _NOT_OURS:
            _take(values, name.removeprefix(ENVIRONMENT_PREFIX).lower(), text, f"environment variable {name}")
    for name, value in (options or {}).items():
        if value is not None:
            _take(values, name, value, f"option --{_OPTIONS.get(name, name.replace('_', '-'))}")
    settings = Settings(**values)
    _check_together(settings)
    return settings


def _parsed(file: Path) -> dict[str, Any]:
    try:
        parsed = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise SetupError(f"can't read {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SetupError(f"{file} is not TOML: {error}") from None
    for name in parsed:
        if not name.isupper():
            raise SetupError(f"{name} in {file}: names of settings are in capitals, as in STORAGE_PROXIES")
    return parsed


def _take(values: dict[str, Any], name: str, value: object, source: str) -> None:
    read = _READERS.get(name)
    if read is None:
        near = difflib.get_close_matches(name, _READERS, n=1)
        hint = f"; {near[0].upper()} is meant?" if near else ""
        raise SetupError(f"{source}: there is no such setting{hint}")
    try:
        values[name] = read(value)
    except ValueError as error:
        raise SetupError(f"{source}: {error}") from None


def _check_together(settings: Settings) -> None:
    """Refuse values that are each right and wrong with one another."""
    if settings.ssl and not (settings.ssl_cert and settings.ssl_key):
        raise SetupError("SSL needs a certificate and a key: --sslcert FILE --sslkey FILE")
    if not settings.ssl and (settings.ssl_cert or settings.ssl_key):
        raise SetupError("a certificate or key is given, but SSL is off: add --ssl")
    if settings.direct and max(settings.w, settings.r) > settings.n:
        raise SetupError(f"W={settings.w} and R={settings.r} can't be above N={settings.n}")
    for name, beside in (("STORAGE_ZONES", settings.storage_zones), ("STORAGE_WEIGHTS", settings.storage_weights)):
        if settings.direct and len(beside) not in (0, len(settings.storages)):
            raise SetupError(f"{name} has {len(beside)} entries for {len(settings.storages)} STORAGES")
