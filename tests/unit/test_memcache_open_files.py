"""Connections are no more than the limit on open files has room for; the rest of the process needs files, too."""

from __future__ import annotations

import pytest

from sfss.memcache.server import FILES_KEPT, REFUSED_MAX, ServerLimits, within_open_files


def test_with_files_enough_the_limits_stay() -> None:
    limits = ServerLimits()

    assert within_open_files(limits, 65_536) is limits


@pytest.mark.parametrize("files", [256, 512, 1024, 2048])
def test_connections_refused_ones_and_strangers_leave_files_to_the_process(files: int) -> None:
    limits = within_open_files(ServerLimits(), files)

    assert limits.connections_max >= 64
    assert limits.connections_max + min(limits.strangers_max, REFUSED_MAX) <= files - FILES_KEPT / 2


def test_however_few_files_there_are_some_connections_are_taken() -> None:
    assert within_open_files(ServerLimits(), 64).connections_max == 16
