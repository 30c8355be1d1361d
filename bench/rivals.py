"""The peers: servers that others use in the place of sfss, started as they come, each with what its answers are worth.

Programs come from Debian's packages, handlers from bench/peers/. Each function raises `Unavailable` where something
is not installed, and says what.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

from bench.servers import HOST, Server, Servers, Unavailable, free_port, tool, until_done
from bench.side import AIOHTTP, FASTAPI, FILE, FLASK, MEMCACHED, NGINX, Ack, Side

WORKERS = 2
"""Processes of the Python peers that have no event loop of their own to share."""

NGINX_CONFIGURATION = """\
daemon off;
{user}worker_processes auto;
pid {home}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    default_type application/octet-stream;
    client_max_body_size 4m;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/unused; fastcgi_temp_path {home}/unused;
    uwsgi_temp_path {home}/unused; scgi_temp_path {home}/unused;
    server {{
        listen {host}:{port} backlog=1024;
        root {home}/files;
        location / {{ dav_methods PUT DELETE; create_full_put_path on; }}
    }}
}}
"""
"""As Debian's nginx.conf, but for the access log, which sfss has off by default, too. The temporary files of PUT are
on the same file system as the files, so that each is renamed and not copied."""


def memcached(servers: Servers, megabytes: int = 1024) -> Server:
    """memcached with one thread, which keeps up to `megabytes` of values."""
    port = free_port()
    command = [tool("memcached"), "-l", HOST, "-p", str(port), "-t", "1", "-m", str(megabytes), "-I", "4m"]
    return servers.start(f"memcached-{port}", [*command, "-c", "2048", "-u", "nobody"], port)


def memcached_alone(servers: Servers) -> Side:
    return Side(MEMCACHED, (memcached(servers),), Ack(1, synced=False, lost_by="the end of the process"))


def aiohttp_memcached(servers: Servers) -> Side:
    """A plain handler with aiohttp and aiomcache over one memcached."""
    kept = memcached(servers)
    port = free_port()
    command = [sys.executable, "-m", "bench.peers.aiohttp_memcached", str(port), str(kept.port)]
    handler = servers.start(f"aiohttp-{port}", command, port)
    return Side(AIOHTTP, (handler, kept), Ack(1, synced=False, lost_by="the end of the memcached"), path=FILE)


def nginx(servers: Servers) -> Side:
    """nginx serving a directory, with PUT by its WebDAV module."""
    program = tool("nginx")
    built = subprocess.run([program, "-V"], capture_output=True, text=True, check=True)
    if "http_dav_module" not in built.stderr:
        raise Unavailable("nginx is built without http_dav_module (PUT); Debian's package nginx has it")
    home = servers.scratch / "nginx"
    (home / "files").mkdir(parents=True)
    port = free_port()
    # A master of root would give its workers to a user who can't enter the scratch directory.
    user = "user root;\n" if os.geteuid() == 0 else ""
    configuration = home / "nginx.conf"
    configuration.write_text(NGINX_CONFIGURATION.format(home=home, host=HOST, port=port, user=user))
    server = servers.start("nginx", [program, "-p", str(home), "-c", str(configuration)], port)
    return Side(
        NGINX,
        (server,),
        Ack(1, synced=False, lost_by="a power cut"),
        path="/bench/",
        directories=(home / "files",),
    )


def flask_postgresql(servers: Servers) -> Side:
    """A plain handler with Flask over PostgreSQL, in gunicorn's threads."""
    _need("flask", "psycopg", "psycopg_pool", "gunicorn")
    database, directory = postgresql(servers)
    port = free_port()
    bind = f"{HOST}:{port}"
    command = [sys.executable, "-m", "gunicorn", "--workers", str(WORKERS), "--worker-class", "gthread"]
    command += ["--threads", "8", "--bind", bind, "--log-level", "warning", "bench.peers.flask_postgresql:app"]
    where = {"BENCH_POSTGRESQL": f"host={HOST} port={database.port} user=bench dbname=postgres"}
    handler = servers.start("flask", command, port, environment=where)
    return Side(
        FLASK,
        (handler, database),
        Ack(1, synced=True, lost_by="the end of its disk"),
        path=FILE,
        directories=(directory,),
    )


def postgresql(servers: Servers) -> tuple[Server, Path]:
    """A database of its own with all defaults, and its directory; run by `postgres` where root may not run it."""
    initdb, postgres = (_postgresql_program(name) for name in ("initdb", "postgres"))
    home = servers.scratch / "postgresql"
    home.mkdir()
    user = None
    if os.geteuid() == 0:
        user = "postgres"
        try:
            account = pwd.getpwnam(user)
        except KeyError:
            raise Unavailable("PostgreSQL does not run as root, and there is no user postgres") from None
        os.chown(home, account.pw_uid, account.pw_gid)
        servers.scratch.chmod(0o711)
    directory = home / "data"
    made = subprocess.run(
        [initdb, "-D", str(directory), "-U", "bench", "--auth=trust", "--encoding=UTF8"],
        capture_output=True, text=True, user=user, cwd=home,
    )  # fmt: skip
    if made.returncode:
        raise Unavailable(f"initdb failed: {made.stderr.strip()}")
    port = free_port()
    command = [postgres, "-D", str(directory), "-h", HOST, "-p", str(port), "-c", "unix_socket_directories="]
    server = servers.start("postgresql", command, port, user=user)
    # It listens before it lets anybody in, and the table is there before two workers want to make it.
    table = "CREATE TABLE files (path text PRIMARY KEY, body bytea NOT NULL)"
    psql = [tool("psql"), "-h", HOST, "-p", str(port), "-U", "bench", "-c", table, "postgres"]
    until_done(psql, "PostgreSQL lets nobody in")
    return server, directory


def _postgresql_program(name: str) -> str:
    """Debian keeps the server's programs out of PATH, one folder for each version."""
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: float(path.parts[4]))
    found = shutil.which(name) or (str(versions[-1]) if versions else None)
    if found is None:
        raise Unavailable(f"{name} (PostgreSQL) is not installed")
    return found


def fastapi_files(servers: Servers) -> Side:
    """A plain handler with FastAPI over a directory, in uvicorn."""
    _need("fastapi", "uvicorn", "httptools")
    home = servers.scratch / "fastapi"
    home.mkdir()
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--workers", str(WORKERS), "--host", HOST, "--port", str(port)]
    command += ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
    command += ["--timeout-worker-healthcheck", "60"]  # by default workers that start slowly are killed after 5 s
    server = servers.start(
        "fastapi", [*command, "bench.peers.fastapi_files:app"], port, environment={"BENCH_FILES": str(home)}
    )
    return Side(FASTAPI, (server,), Ack(1, synced=False, lost_by="a power cut"), path=FILE, directories=(home,))


def _need(*modules: str) -> None:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise Unavailable(f"{', '.join(missing)} not installed (pip install 'sfss[bench]')")
