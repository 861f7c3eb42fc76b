"""A web server on this machine that can end too early, forget ranges, or send on."""

import contextlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """Files by path; `ranges` are those that were asked for.

    Attributes:
        files: content by path.
        redirects: address by path.
        cut: bytes after which a connection ends; None: never.
        knows_ranges: whether a part of a file can be had.
    """

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.cut: int | None = None
        self.knows_ranges = True
        self.ranges: list[str | None] = []
        self.address = ""


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if target := server.redirects.get(self.path):
                self.send_response(302)
                self.send_header("Location", target)
                return self.end_headers()
            asked = self.headers.get("Range")
            server.ranges.append(asked)
            content = server.files.get(self.path)
            if content is None:
                return self.send_error(404)
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and server.knows_ranges else 0
            if start and start >= len(content):
                return self.send_error(416)
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            self.wfile.write(content[start : server.cut])

        def log_message(self, *args):
            pass

    return Handler


@contextlib.contextmanager
def serving():
    """A `Server` whose `address` is http on this machine."""
    server = Server()
    listening = ThreadingHTTPServer(("127.0.0.1", 0), _handler(server))
    server.address = f"http://127.0.0.1:{listening.server_port}"
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()
