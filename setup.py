"""Packages, dependencies, console scripts and what is compiled. Tools are configured in pyproject.toml.

The modules that every request goes through are compiled with mypyc, unchanged, where a C compiler, Python's headers and
mypy are at hand; elsewhere the same files run interpreted. docs/decisions/mypyc.rst says why.
"""

import os
import re
import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, find_packages, setup

here = Path(__file__).parent
version = re.search(r'__version__ = "([^"]+)"', (here / "sfss" / "__init__.py").read_text()).group(1)

tests_require = [
    "pytest>=9,<10",
    "pytest-asyncio>=1.5,<2",
    "pytest-aiohttp>=1.1,<2",
    "pytest-xdist>=3.8,<4",
    "hypothesis>=6.150,<7",
    "pymemcache>=4,<5",
    "setuptools>=77",  # builds the archives that tests/integration/test_setup.py looks into
]

COMPILED = {
    "wire": {
        "sfss": "groups keys promise record ring stamps",
        "sfss/memcache": "answers block classic_exchanges client connection exchanges group_exchanges lane line link"
        " lookup opaques own replies requests ring_exchanges server service sighting_exchange socket_transport stamped"
        " tls_transport transport",
        "sfss/memcache/commands": "dispatch own_forms retrieval storage words",
    },
    "web": {
        "sfss/web": "answers application conditions connection counters files memory origins outbox paths pieces"
        " proxies repeated_head requests retry_budget server uploads versions",
        "sfss/web/batches": "getting items keys outcomes putting records room",
    },
    "proxy": {
        "proxy": "coordinator counters gathering grouping health latency options peer placed_ring reading writing"
    },
    "nodes": {"nodes": "appender batch bounds entry format hot index overlay reading store tree volume writer"},
}
"""The modules on the way of a request, by library and folder. Calls within a library are those of C."""

BUILDING = {"bdist_wheel", "build", "build_ext", "develop", "editable_wheel", "install"}
"""Commands of setup.py that build. The others only ask for names and versions."""


def extensions() -> list[Extension]:
    """What to compile: nothing when not building, where something that it needs is missing, or with SFSS_COMPILE=0."""
    if BUILDING.isdisjoint(sys.argv[1:]):
        return []
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    headers = Path(sysconfig.get_path("include"), "Python.h")
    try:
        from mypyc.build import mypycify
    except ImportError:
        obstacle = "mypy is not installed"
    else:
        obstacle = "" if headers.exists() and shutil.which(compiler) else f"{compiler} or {headers} is not installed"
    if os.environ.get("SFSS_COMPILE") == "0":
        obstacle = "SFSS_COMPILE=0"
    if obstacle:
        sys.stderr.write(f"sfss runs interpreted, at about half the speed: {obstacle}\n")
        return []
    libraries = [
        ([f"{folder}/{name}.py" for folder, names in folders.items() for name in names.split()], f"sfss_{library}")
        for library, folders in COMPILED.items()
    ]
    sources = [source for files, _ in libraries for source in files]
    # Types come from the sources alone: what they import need not be installed where a wheel is built.
    options = ["--config-file=", "--python-version=3.11", "--ignore-missing-imports"]
    made = mypycify([*options, *sources], opt_level="2", debug_level="0", separate=libraries)
    for extension in made:
        # What no other library calls needs no table to be called by: 1 % fewer instructions, and 7 % smaller.
        extension.extra_compile_args.append("-fvisibility=hidden")
    return made


setup(
    ext_modules=extensions(),
    name="sfss",
    version=version,
    description="A store for millions of small files, behind plain HTTP",
    long_description=(here / "README.rst").read_text() if (here / "README.rst").exists() else "",
    long_description_content_type="text/x-rst",
    license="BSD-3-Clause",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["sfss", "sfss.*", "proxy", "proxy.*", "nodes", "nodes.*"]),
    include_package_data=True,
    package_data={"sfss": ["py.typed", "http/static/*"], "proxy": ["py.typed"], "nodes": ["py.typed"]},
    install_requires=[
        "aiohttp>=3.14.3,<3.15",
        "aiomcache>=0.8.2,<0.9",
        "click>=8.1,<9",
        "lmdb>=1.6,<4",
        "prometheus-client>=0.22,<1",
        "uhashring>=2.4,<3",
        "uvloop>=0.21,<1",
        "xxhash>=3.5,<5",
    ],
    # An editable installation is a path in a .pth file: the only kind that buildout, editors and mypy all see through.
    options={"editable_wheel": {"mode": "compat"}, "build_ext": {"parallel": os.cpu_count()}},
    extras_require={
        "test": tests_require,
        "bench": [
            "fastapi>=0.115,<1",
            "flask>=3.1,<4",
            "gunicorn>=23,<28",
            "httptools>=0.6,<1",
            "matplotlib>=3.10,<4",
            "psycopg[binary,pool]>=3.2,<4",
            "uvicorn>=0.38,<1",
        ],
        "compile": ["mypy>=2.4,<3", "setuptools>=77"],
        "check": ["ruff>=0.17,<0.18", "mypy>=2.4,<3", "import-linter>=2.5,<3"],
    },
    entry_points={
        "console_scripts": [
            "sfss = sfss.commands.main:main",
            "sfss-node = nodes.command:main",
            "sfss-proxy = proxy.command:main",
        ]
    },
)
