"""How a process starts, stops, refuses and ends."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sfss import process
from sfss.errors import SetupError


@pytest.fixture(autouse=True)
def process_as_before() -> Iterator[None]:
    umask = os.umask(0o022)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, files)
    os.umask(umask)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_main_to_stop_and_the_status_is_0(number: signal.Signals) -> None:
    async def main(stop: asyncio.Event) -> None:
        os.kill(os.getpid(), number)
        await asyncio.wait_for(stop.wait(), 30)

    assert process.run("sfss-part", main) == 0


def test_a_refused_start_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    async def main(stop: asyncio.Event) -> None:
        raise SetupError("no such folder")

    status = process.run("sfss-part", main)

    assert (status, capsys.readouterr().err) == (2, "sfss-part: no such folder\n")


def test_an_error_is_logged_with_its_traceback_and_status_1(caplog: pytest.LogCaptureFixture) -> None:
    async def main(stop: asyncio.Event) -> None:
        raise RuntimeError("boom")

    assert process.run("sfss-part", main) == 1
    assert "boom" in caplog.text


def test_files_are_made_for_their_user_only(tmp_path: Path) -> None:
    async def main(stop: asyncio.Event) -> None:
        (tmp_path / "made").write_bytes(b"")

    process.run("sfss-part", main)

    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o600


def test_servers_run_on_uvloop_with_more_open_files_than_the_soft_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
    seen: list[object] = []

    async def main(stop: asyncio.Event) -> None:
        seen.extend([type(asyncio.get_running_loop()).__module__, resource.getrlimit(resource.RLIMIT_NOFILE)[0]])

    process.run("sfss-part", main)

    assert seen == ["uvloop", min(hard, process.OPEN_FILES_MAX)]


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.EADDRINUSE, "in use"), (errno.EACCES, "no permission"), (errno.EADDRNOTAVAIL, "can't listen on")],
)
def test_a_refused_port_names_the_address_and_the_option(number: int, words: str) -> None:
    message = str(process.refusal(OSError(number, os.strerror(number)), "127.0.0.1", 80, "--port"))

    assert words in message
    assert "127.0.0.1:80" in message
    assert "--port" in message
    assert "\n" not in message


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_no_consent(host: str) -> None:
    process.check_reach(host, insecure=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_what_others_can_reach_needs_consent_and_is_warned_of(host: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(SetupError, match=r"secret.*--insecure"):
        process.check_reach(host, insecure=False)
    assert not caplog.text
    process.check_reach(host, insecure=True)
    assert f"{host} can be reached from other machines" in caplog.text


def test_our_own_packages_pass() -> None:
    process.check_packages()


@pytest.mark.parametrize("package", ["proxy", "nodes"])
def test_somebody_elses_package_is_refused(tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text('"""Another one."""')
    (tmp_path / package / "py.typed").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, package, raising=False)

    with pytest.raises(SetupError, match=f"'{package}' is not the one of sfss"):
        process.check_packages()
