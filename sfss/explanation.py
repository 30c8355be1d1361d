"""Where one key lives and how it is there, replica by replica: what `stats explain <key>` asks and how it is answered.

The answer is flat, as all STATS are: a name and a value for the key, `<node>/<name>` for each of its replicas
(docs/wire.rst). `structured` makes of it what people and programs read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote_from_bytes, unquote_to_bytes

from sfss.errors import BadRequest
from sfss.keys import check_key

_TOPIC = "explain "
_PLAIN = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "%")
_BAD_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")
_WHOLE_NUMBERS = ("partition", "partitions", "ring", "copies", "place", "size", "flags", "expires")


def explain_topic(key: bytes) -> str:
    """The topic that asks for a key. Bytes that a topic can't hold, and `%`, are percent-encoded."""
    return _TOPIC + quote_from_bytes(key, safe=_PLAIN)


def key_of_topic(topic: str) -> bytes | None:
    """The key that a topic asks for; None for any other topic. Raises `BadRequest` for what can't be a key."""
    if not topic.startswith(_TOPIC):
        return None
    text = topic.removeprefix(_TOPIC)
    if _BAD_ESCAPE.search(text):
        raise BadRequest("the key has a % that two hexadecimal digits don't follow; % itself is written %25")
    key = unquote_to_bytes(text)
    check_key(key)
    return key


def structured(told: Mapping[str, str]) -> dict[str, object]:
    """The flat answer as nested figures: those of the key, and under `replicas` a list in the order of the ring."""
    explanation: dict[str, object] = {}
    replicas: dict[str, dict[str, object]] = {}
    for name, text in told.items():
        node, slash, figure = name.rpartition("/")
        value = int(text) if figure in _WHOLE_NUMBERS and text.isdigit() else text
        if slash:
            replicas.setdefault(node, {"address": node})[figure] = value
        else:
            explanation[figure] = value
    return explanation | {"replicas": sorted(replicas.values(), key=lambda replica: str(replica.get("place", "")))}
