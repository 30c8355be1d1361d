"""What a local cluster consists of: its parts with their commands and ports, the proxies' configuration, and what to
tell people about it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from proxy.cluster import NodeAddress
from sfss import __version__
from sfss.addresses import host_and_port
from sfss.commands.data_folder import DataFolder, Founding
from sfss.commands.local_authority import LocalAuthority
from sfss.commands.ports import Door
from sfss.commands.probes import answers_http, answers_memcache
from sfss.commands.supervisor import Part
from sfss.errors import SetupError
from sfss.memcache.trust import Trust
from sfss.process import is_loopback

LOOPBACK = "127.0.0.1"
"""Nodes, proxies and monitors listen here: in a local cluster nobody else has to reach them."""

# Web, proxies and nodes stop one after the other, all within sfss.process.STOP_S_MAX.
_WEB_STOP_S_MAX = 8.0
_PROXY_STOP_S_MAX = 4.0
_NODE_STOP_S_MAX = 6.0

_COPIES = 3
_QUORUM = 2
"""Over fewer nodes there are fewer (`proxy.quorum.Quorum.over`)."""


def ring_name(founding: Founding, number: int) -> str:
    """How the ring calls a node."""
    return NodeAddress(LOOPBACK, founding.node_port + number).ring_name


@dataclass(frozen=True, slots=True)
class Plan:
    """All that was asked for. A port is that of the first of its kind; the others follow it."""

    founding: Founding
    proxies: int
    workers: int
    host: str
    port: int
    proxy_port: int
    monitor_port: int
    access_log: bool
    log_level: str
    log_json: bool
    secret: Path | None = None
    authority: LocalAuthority | None = None

    def node_address(self, number: int) -> str:
        return f"{LOOPBACK}:{self.founding.node_port + number}"

    def proxy_address(self, number: int) -> str:
        return f"{LOOPBACK}:{self.proxy_port + number}"

    def web_url(self) -> str:
        """The web tier as this machine reaches it."""
        host = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(self.host, self.host)  # noqa: S104  compared, not listened on
        return f"http://{host_and_port(host, self.port)}"


def doors(plan: Plan) -> list[Door]:
    """Every port that the cluster listens on."""
    wanted = [
        Door(f"node-{number}", LOOPBACK, plan.founding.node_port + number, "--node-port")
        for number in range(plan.founding.nodes)
    ]
    for number in range(plan.proxies):
        wanted.append(Door(f"proxy-{number}", LOOPBACK, plan.proxy_port + number, "--proxy-port"))
        wanted.append(Door(f"the monitor of proxy-{number}", LOOPBACK, plan.monitor_port + number, "--monitor-port"))
    wanted.append(Door("web", plan.host, plan.port, "--port"))
    return wanted


def proxy_ini(plan: Plan, number: int, state: Path) -> str:
    """The configuration file of proxy `number`."""
    servers = ",".join(plan.node_address(node) for node in plan.founding.founders)
    secret = "" if plan.secret is None else f"\nsecret = {plan.secret.absolute()}"
    files = plan.authority
    trusted = "" if files is None else f"\ntlsca = {files.authority}"
    shown = "" if files is None else f"\ntlscert = {files.certificate}\ntlskey = {files.key}"
    return f"""\
# Written by `sfss up` at each start.

[default]
server_port = {plan.founding.node_port}
servers = {servers}{secret}{trusted}

[proxy]
listen = {LOOPBACK}
port = {plan.proxy_port + number}{shown}
N = {_COPIES}
W = {_QUORUM}
R = {_QUORUM}
state = {state}
accesslog = {"yes" if plan.access_log else "no"}

[monitor]
port = {plan.monitor_port + number}
proxy = {plan.proxy_address(number)}
"""


def tiers(folder: DataFolder, plan: Plan) -> list[list[Part]]:
    """The parts, the lowest tier first. Writes the proxies' configuration files. Raises `SetupError`."""
    logging = ["--log-level", plan.log_level, *(["--log-json"] if plan.log_json else [])]
    accesses = ["--access-log"] if plan.access_log else []
    secret = [] if plan.secret is None else ["--secret", str(plan.secret.absolute())]
    files = plan.authority
    trusted = "" if files is None else str(files.authority)
    shown = [] if files is None else ["--tlscert", str(files.certificate), "--tlskey", str(files.key)]
    access = Trust("" if plan.secret is None else str(plan.secret), authority=trusted).access()
    nodes = [
        Part(
            name=f"node-{number}",
            command=[
                *installed_command("sfss-node"),
                *(
                    "-l",
                    LOOPBACK,
                    "-p",
                    str(plan.founding.node_port + number),
                    "-H",
                    str(folder.path / f"node-{number}"),
                ),
                *secret,
                *shown,
                *logging,
                *accesses,
            ],
            answers=partial(answers_memcache, LOOPBACK, plan.founding.node_port + number, access),
            stop_s_max=_NODE_STOP_S_MAX,
        )
        for number in range(plan.founding.nodes)
    ]
    proxies = [
        Part(
            name=f"proxy-{number}",
            command=[*installed_command("sfss-proxy"), "--conf", str(_configure_proxy(folder, plan, number)), *logging],
            answers=partial(answers_memcache, LOOPBACK, plan.proxy_port + number, access),
            stop_s_max=_PROXY_STOP_S_MAX,
        )
        for number in range(plan.proxies)
    ]
    addresses = ",".join(plan.proxy_address(number) for number in range(plan.proxies))
    web = Part(
        name="web",
        command=[
            *installed_command("sfss"),
            *("--host", plan.host, "--port", str(plan.port), "--workers", str(plan.workers), "--proxies", addresses),
            *secret,
            *(["--tlsca", trusted] if trusted else []),
            *logging,
            *accesses,
        ],
        answers=partial(answers_http, _host_of(plan), plan.port, "/readyz"),
        stop_s_max=_WEB_STOP_S_MAX,
    )
    return [nodes, proxies, [web]]


def what_to_try(plan: Plan, data: Path) -> str:
    """What is printed once everything runs: a few lines that can be copied and work."""
    url = plan.web_url()
    monitors = "  ".join(f"http://{LOOPBACK}:{plan.monitor_port + number}/" for number in range(plan.proxies))
    open_to_all = (
        ""
        if is_loopback(plan.host)
        else f"\n\n  Anyone who reaches {host_and_port(plan.host, plan.port)} can read and write."
    )
    return f"""
sfss {__version__} runs: {_count(plan.founding.nodes, "node")}, {_count(plan.proxies, "proxy", "proxies")}, \
{_count(plan.workers, "web process", "web processes")}. Ctrl-C stops it; the files stay in {data}

  curl -F "upload_file=@/etc/hostname" -X POST "{url}/files?path=try/hostname.txt"
  curl --data-binary @/etc/hostname -X PUT "{url}/file?path=try/hostname.txt"
  curl "{url}/file?path=try/hostname.txt"
  curl -X DELETE "{url}/file?path=try/hostname.txt"

  status   {url}/status
  monitor  {monitors}
  logs     {data / "log"}{open_to_all}
"""


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _host_of(plan: Plan) -> str:
    return plan.web_url().removeprefix("http://").rpartition(":")[0].strip("[]")


def _configure_proxy(folder: DataFolder, plan: Plan, number: int) -> Path:
    state = folder.path.absolute() / f"proxy-{number}"
    return folder.write(f"conf/proxy-{number}.ini", proxy_ini(plan, number, state))


def installed_command(name: str) -> Sequence[str]:
    """The console script that was installed with the one that runs; a virtual environment and a buildout each have
    their own."""
    beside = [str(Path(start).parent) for start in (sys.argv[0], sys.executable)]
    for folder in beside:
        found = shutil.which(name, path=folder)
        if found:
            return [found]
    raise SetupError(f"can't find the command {name} in {' or '.join(beside)}; install sfss anew")
