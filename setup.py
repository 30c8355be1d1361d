"""Packages, dependencies and console scripts. Tools are configured in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = re.search(r'__version__ = "([^"]+)"', (here / "sfss" / "__init__.py").read_text()).group(1)

tests_require = [
    "pytest>=9,<10",
    "pytest-asyncio>=1.5,<2",
    "pytest-aiohttp>=1.1,<2",
    "hypothesis>=6.150,<7",
    "pymemcache>=4,<5",
    "setuptools>=77",  # builds the archives that tests/integration/test_setup.py looks into
]

setup(
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
        "uhashring>=2.4,<3",
        "uvloop>=0.21,<1",
        "xxhash>=3.5,<5",
    ],
    # An editable installation is a path in a .pth file: the only kind that buildout, editors and mypy all see through.
    options={"editable_wheel": {"mode": "compat"}},
    extras_require={
        "test": tests_require,
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
