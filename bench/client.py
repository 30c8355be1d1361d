"""simple_client.py bench as a load: every byte compared, and an open loop where a rate is given."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.servers import HOST, Unavailable
from bench.side import Side

CLIENT = Path(__file__).parent.parent / "simple_client.py"


def client_bench(side: Side, *options: object) -> dict[str, Any]:
    """Run it and return its figures. Raises `Unavailable` where an answer was an error or wrong."""
    command = [sys.executable, str(CLIENT), "bench", "--host", HOST, "--port", str(side.port), "--json"]
    ended = subprocess.run([*command, *map(str, options)], capture_output=True, text=True)
    try:
        figures: dict[str, Any] = json.loads(ended.stdout)
    except ValueError:
        raise Unavailable(f"simple_client.py bench gave no figures: {ended.stderr.strip()[-300:]}") from None
    if ended.returncode:
        raise Unavailable(f"simple_client.py bench ended with {ended.returncode}: {figures['errors']}")
    return figures
