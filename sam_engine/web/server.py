"""Serve a dataset on this machine: bind, say where, answer until interrupted."""

import contextlib
import mimetypes
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from sam_engine.errors import ConfigError
from sam_engine.web.app import Viewer, make_app
from sam_engine.web.guard import Guard, make_token

HOST = "127.0.0.1"
"""Never another: the viewer is for whoever sits at this machine."""


@contextlib.contextmanager
def bound(port: int) -> Iterator[socket.socket]:
    """Yield a listening socket of this machine alone.

    Args:
        port: 0 for any that is free.

    Raises:
        ConfigError: The port is taken, or may not be used.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise ConfigError(f"--port is {port}, which cannot be had ({error}); 0 takes any") from error
        listener.listen()
        yield listener


def guarded(viewer: Viewer, port: int, token: str) -> ASGIApp:
    """Return the application that a server on this port runs."""
    # Else they depend on what the machine has registered, and browsers run no module of another type.
    mimetypes.add_type("text/javascript", ".mjs")
    mimetypes.add_type("text/javascript", ".js")
    mimetypes.add_type("application/wasm", ".wasm")
    hosts = [f"{name}:{port}" for name in (HOST, "localhost")]
    return Guard(make_app(viewer), token=token, hosts=hosts)


def server_config(app: ASGIApp) -> uvicorn.Config:
    """Return how it is served: without a log of addresses, which hold the token once."""
    return uvicorn.Config(app, log_config=None, log_level="warning", access_log=False, lifespan="off")


@contextlib.contextmanager
def serving(viewer: Viewer, token: str | None = None, *, port: int = 0) -> Iterator[str]:
    """Serve in a thread of this process, by default on any port; yield the address with its token.

    Its listing is not started.
    """
    token = token or make_token()
    with bound(port) as listener:
        port = listener.getsockname()[1]
        server = uvicorn.Server(server_config(guarded(viewer, port, token)))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield f"http://{HOST}:{port}/?token={token}"
        finally:
            server.should_exit = True
            thread.join()


def serve(viewer: Viewer, *, port: int, open_browser: bool, page: str = "") -> None:
    """Serve until interrupted. The address is the first line on stdout, before anything is read.

    Args:
        viewer: To serve.
        port: 0 for any.
        open_browser: Whether to open the address.
        page: Its fragment, as ``#/annotate``: which page is shown.

    Raises:
        ConfigError: The port cannot be had.
    """
    token = make_token()
    with bound(port) as listener:
        port = listener.getsockname()[1]
        url = f"http://{HOST}:{port}/?token={token}{page}"
        sys.stdout.write(url + "\n")
        sys.stdout.flush()
        viewer.listing.start()
        if open_browser:
            threading.Timer(0.5, webbrowser.open, [url]).start()
        try:
            uvicorn.Server(server_config(guarded(viewer, port, token))).run(sockets=[listener])
        finally:
            viewer.listing.close()
            viewer.prompting.close()
