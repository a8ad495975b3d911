"""The board as a server of this machine: uvicorn, which is small, kept well, and speaks HTTP as it should be spoken."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from whet.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

PORT = 8350


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0: any that is free. InputError if that cannot be."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(128)
        return made
    except OSError as e:
        raise InputError(f"cannot listen on {host}, port {port}", why=e.strerror or str(e),
                         do="choose another with --port (0: any that is free), or another --host") from e


def address(bound: socket.socket, host: str) -> str:
    """What people open."""
    port = bound.getsockname()[1]
    shown = "localhost" if host in ("0.0.0.0", "::", "") else f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}/"


def serve(app: ASGIApp, bound: socket.socket, ready: Callable[[], None] = lambda: None) -> None:
    """Answer until Ctrl-C; `ready` is called before, when browsers may already connect.

    MissingExtraError without uvicorn.
    """
    try:
        import uvicorn
    except ImportError as e:
        raise MissingExtraError.for_package("uvicorn", "board", "the board") from e
    ready()
    uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, lifespan="off",
                                  timeout_graceful_shutdown=2)).run(sockets=[bound])
