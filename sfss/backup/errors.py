"""Why a backup or a restore can't go on."""

from __future__ import annotations

from sfss.errors import SfssError


class BackupFailed(SfssError):
    """It was given up; what was done stays done, and the message says what to do. Exit status 1."""
