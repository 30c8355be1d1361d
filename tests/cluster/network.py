"""A network of its own for the parts of a cluster, in which packets can be lost: between any two, one way or both.

Each part lives in a network namespace, all of them on one bridge, and the tests reach them from outside. What is
blocked is dropped by the receiver's packet filter, so it is as with a broken cable or switch: nobody is told,
connections stay open, and new ones are never answered. (A relay is different: it takes every connection, and has taken
what it drops.)
Namespaces and cables end with the processes that hold them, even when the tests are killed.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence

import pytest

from tests.parent_death import die_with_parent

_TOOLS = ("ip", "iptables", "unshare", "nsenter")


def _missing() -> str:
    if os.geteuid() != 0:
        return "makes network namespaces, so it needs root"
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    return f"needs {', '.join(missing)} (iproute2, iptables, util-linux)" if missing else ""


needs_namespaces = pytest.mark.skipif(bool(_missing()), reason=_missing() or "-")

_numbers = itertools.count()


class Network:
    """Addresses, cables and packet filters by name of a part. Use as a context."""

    def __init__(self, names: Sequence[str]) -> None:
        # 198.18.0.0/15 is set aside for tests of networks; runs at the same time get different parts of it.
        number = os.getpid() * 4 + next(_numbers) % 4
        self._cable = f"sfss{number}"
        self._subnet = f"198.18.{number % 254}"
        self._hosts = {name: f"{self._subnet}.{last}" for last, name in enumerate(names, 2)}
        self._holders: dict[str, subprocess.Popen[bytes]] = {}

    def host(self, name: str) -> str:
        return self._hosts[name]

    def prefix(self, name: str) -> list[str]:
        """What to run a part under."""
        return ["nsenter", f"--net={self._namespace(name)}"]

    def block(self, senders: Iterable[str], receivers: Iterable[str]) -> None:
        """Lose every packet from the ones to the others, until `heal`. What goes the other way arrives."""
        senders = list(senders)
        for receiver in receivers:
            for sender in senders:
                if sender != receiver:
                    self._in(receiver, "iptables", "-w", "-A", "INPUT", "-s", self._hosts[sender], "-j", "DROP")

    def split(self, side: Iterable[str], others: Iterable[str] | None = None) -> None:
        """Lose every packet between the ones and the others (default: all others), both ways, until `heal`."""
        side = set(side)
        others = self._hosts.keys() - side if others is None else set(others)
        self.block(side, others)
        self.block(others, side)

    def heal(self) -> None:
        """Everything arrives again."""
        for name in self._hosts:
            self._in(name, "iptables", "-w", "-F", "INPUT")

    def __enter__(self) -> Network:
        try:
            self._set_up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for holder in self._holders.values():
            holder.kill()
            holder.wait()

    def _set_up(self) -> None:
        for name in ("", *self._hosts):
            self._hold(name)
        hub = self._holders[""].pid
        _run("ip", "link", "add", self._cable, "type", "veth", "peer", "name", "outside", "netns", str(hub))
        _run("ip", "address", "add", f"{self._subnet}.1/24", "dev", self._cable)
        _run("ip", "link", "set", self._cable, "up")
        self._in("", "ip", "link", "add", "name", "hub", "type", "bridge")
        self._in("", "ip", "link", "set", "hub", "up")
        self._plug("outside")
        for name, host in self._hosts.items():
            end = f"to-{host.rpartition('.')[2]}"
            self._in(name, "ip", "link", "add", "cable", "type", "veth", "peer", "name", end, "netns", str(hub))
            self._in(name, "ip", "address", "add", f"{host}/24", "dev", "cable")
            for link in ("lo", "cable"):
                self._in(name, "ip", "link", "set", link, "up")
            self._plug(end)

    def _hold(self, name: str) -> None:
        """Make a namespace, which lasts as long as the process that sleeps in it."""
        holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"], preexec_fn=die_with_parent)
        self._holders[name] = holder
        give_up = time.monotonic() + 10
        while os.stat(self._namespace(name)).st_ino == os.stat("/proc/self/ns/net").st_ino:
            if time.monotonic() > give_up:
                raise TimeoutError("no network namespace after 10 s")
            time.sleep(0.005)

    def _plug(self, end: str) -> None:
        self._in("", "ip", "link", "set", end, "master", "hub")
        self._in("", "ip", "link", "set", end, "up")

    def _namespace(self, name: str) -> str:
        return f"/proc/{self._holders[name].pid}/ns/net"

    def _in(self, name: str, *command: str) -> None:
        _run(*self.prefix(name), *command)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
