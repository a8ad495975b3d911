"""A PostgreSQL of one's own: a new cluster in a folder, on a unix socket, as a user that is not root."""

from __future__ import annotations

import os
import pwd
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

USERS = ("postgres", "nobody")  # whom root starts it as: it refuses to run as root


def binaries() -> Path | None:
    """The folder of `initdb` and `postgres`: on the path, or where Debian puts them."""
    for folder in (*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True),
                   *(Path(p) for p in os.environ.get("PATH", "").split(":") if p)):
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    return None


@contextmanager
def server(**settings: str) -> Iterator[str]:
    """A running server; its URL, without the database's name. It is stopped and removed at the end."""
    where = binaries()
    assert where is not None
    user = _user()
    root = Path(tempfile.mkdtemp(prefix="whet-pg-", dir="/tmp"))  # a socket's path is of 107 bytes at most
    process = None
    try:
        if user is not None:
            shutil.chown(root, user)
        as_user = {} if user is None else {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
        data, port = root / "data", random.randrange(20_000, 60_000)
        subprocess.run([where / "initdb", "-D", data, "-U", "whet", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"],
                       check=True, capture_output=True, cwd=root, **as_user)
        options = {"listen_addresses": "", "unix_socket_directories": str(root), "fsync": "off", "port": str(port),
                   "max_connections": "40", "shared_buffers": "32MB", **settings}
        with (root / "log").open("wb") as log:
            process = subprocess.Popen(
                [where / "postgres", "-D", data, *(f"--{k}={v}" for k, v in options.items())], stdout=log, stderr=log,
                cwd=root, **as_user)
        deadline = time.monotonic() + 30
        while not (data / "postmaster.pid").exists() or "ready" not in (data / "postmaster.pid").read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((root / "log").read_text())
            time.sleep(0.05)
        yield f"postgresql://whet@:{port}/{{}}?host={root}"
    finally:
        if process is not None:
            process.send_signal(signal.SIGINT)  # "fast": it does not wait for clients
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(root, ignore_errors=True)


def _user() -> str | None:
    if os.geteuid() != 0:
        return None
    for name in USERS:
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise AssertionError("root, and no user to start PostgreSQL as")
