"""What figures were measured on."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

from bench.servers import tool


def machine() -> dict[str, Any]:
    """Processor, kernel, Python and commit; `commit` ends in -dirty where files differ from it. Raises `Unavailable`
    where sfss itself is not installed."""
    models = [
        line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    here = str(Path(__file__).parent)
    describe = ["git", "-C", here, "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(describe, capture_output=True, text=True)
    version = subprocess.run([tool("sfss"), "--version"], capture_output=True, text=True)
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "compiled": version.stdout.strip().endswith("compiled"),
        "commit": commit.stdout.strip(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
