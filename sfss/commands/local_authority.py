"""Certificates for a local cluster: an authority of its own in the data folder, and one certificate for all parts.

The command openssl makes them, which is there wherever Python's ssl is; a library would be one more to keep up. Each is
made beside and renamed, the key before the certificate that goes with it, so that what a kill leaves is made again.
The parts read a new one by themselves (`sfss.tls`).

tls/ca.key, tls/ca.pem       the authority, for ten years; made once
tls/key.pem, tls/cert.pem    for this machine's loopback addresses; made anew in its last month
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from sfss.errors import SetupError

_AUTHORITY_DAYS = 3650
_DAYS = 825
"""More than that some clients don't take."""

_RENEW_S = 30 * 86400
_NAMES = "subjectAltName=IP:127.0.0.1,IP:::1,DNS:localhost"
_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
_OPENSSL_S_MAX = 30.0
_LOOK_S = 86400.0


class LocalAuthority:
    """The folder `tls` of a data folder."""

    def __init__(self, data: Path) -> None:
        self._folder = data.absolute() / "tls"
        self.authority = self._folder / "ca.pem"
        self.certificate = self._folder / "cert.pem"
        self.key = self._folder / "key.pem"

    def prepare(self) -> None:
        """Make what isn't there, or ends soon. Blocks. Raises `SetupError`."""
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            if not self.authority.exists():
                self._make_authority()
            if not self._serves_on():
                self._make_certificate()
        except OSError as error:
            raise SetupError(f"certificates can't be kept in {self._folder}: {error.strerror or error}") from None

    async def keep(self, say: Callable[[str], None]) -> None:
        """Look every day whether the certificate ends soon, for ever. What can't be done is said, and tried again."""
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                await asyncio.to_thread(self.prepare)
            except SetupError as error:
                say(str(error))

    def _make_authority(self) -> None:
        subject = ("-subj", "/CN=sfss up", "-days", str(_AUTHORITY_DAYS))
        self._openssl("req", "-x509", *_NEW_KEY, *subject, "-keyout", "ca.key.new", "-out", "ca.pem.new")
        self._put("ca.key", "ca.pem")

    def _serves_on(self) -> bool:
        """Whether there is a certificate with its key, of this authority, that doesn't end soon."""
        if not (self.certificate.exists() and self.key.exists()):
            return False
        checks = (
            ("x509", "-in", "cert.pem", "-noout", "-checkend", str(_RENEW_S)),
            ("verify", "-CAfile", "ca.pem", "cert.pem"),
        )
        return all(self._run(*check).returncode == 0 for check in checks) and self._fit()

    def _fit(self) -> bool:
        of_certificate = self._run("x509", "-in", "cert.pem", "-noout", "-pubkey")
        of_key = self._run("pkey", "-in", "key.pem", "-pubout")
        return of_key.returncode == 0 and of_certificate.stdout == of_key.stdout

    def _make_certificate(self) -> None:
        (self._folder / "names").write_text(f"{_NAMES}\n")
        self._openssl("req", *_NEW_KEY, "-subj", "/CN=sfss", "-keyout", "key.pem.new", "-out", "request.pem")
        self._openssl(
            *("x509", "-req", "-in", "request.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-days", str(_DAYS)),
            *("-set_serial", f"0x{os.urandom(8).hex()}", "-extfile", "names", "-out", "cert.pem.new"),
        )
        self._put("key.pem", "cert.pem")
        for name in ("names", "request.pem"):
            (self._folder / name).unlink()

    def _put(self, *names: str) -> None:
        for name in names:
            made = self._folder / f"{name}.new"
            made.chmod(0o600)
            made.replace(self._folder / name)

    def _openssl(self, *arguments: str) -> None:
        done = self._run(*arguments)
        if done.returncode != 0:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["it says nothing"]
            raise SetupError(f"`openssl {arguments[0]}` in {self._folder} failed: {said[-1]}")

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        try:
            return subprocess.run(
                ["openssl", *arguments],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_OPENSSL_S_MAX,
                check=False,
            )
        except FileNotFoundError:
            raise SetupError(
                "--tls makes certificates with the command openssl, which isn't there; install it"
            ) from None
        except subprocess.TimeoutExpired:
            raise SetupError(f"`openssl {arguments[0]}` was not done after {_OPENSSL_S_MAX:g} s") from None
