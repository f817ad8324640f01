"""`/metrics`, `/healthz` and `/readyz` of one worker, on a thread of their own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from shared.errors import BadSetting

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

# None when all is well, else what is wrong.
Probe = Callable[[], str | None]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Probes come every few seconds; their lines would bury the log."""


def _app(registry: CollectorRegistry, *, healthy: Probe, ready: Probe) -> WSGIApplication:
    metrics: WSGIApplication = make_wsgi_app(registry)
    probes = {"/healthz": healthy, "/readyz": ready}

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "/")
        if path == "/metrics":
            return metrics(environ, start_response)
        if path not in probes:
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"see /metrics, /healthz and /readyz\n"]
        problem = probes[path]()
        status = "200 OK" if problem is None else "503 Service Unavailable"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{problem or 'ok'}\n".encode()]

    return app


class StatusServer:
    """The HTTP side of one worker; `port` is the one it got."""

    def __init__(self, *, host: str, port: int, registry: CollectorRegistry, healthy: Probe, ready: Probe) -> None:
        """Binds the port.

        Raises:
            BadSetting: the address can't be had.
        """
        app = _app(registry, healthy=healthy, ready=ready)
        try:
            self._server = make_server(host, port, app, server_class=_Server, handler_class=_QuietHandler)
        except OSError as error:
            raise BadSetting(
                f"metrics_host {host!r}, metrics_port {port}: {error.strerror}. Another worker on this machine? "
                "Give each its own --metrics-port, or 0 for a free one."
            ) from error
        self.port: int = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name="status", daemon=True)

    def start(self) -> None:
        """Answer requests until `stop`."""
        self._thread.start()

    def stop(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._server.server_close()
