"""Serve the report and the Data Docs of a lake in an object store, on loopback, read-only.

usage: python -m lakejobs.commands.serve URL PORT
"""

from __future__ import annotations

import http.server
import mimetypes
import posixpath
import sys
import urllib.parse
from http import HTTPStatus

from lakejobs.messages import LakeError
from lakejobs.storage import MissingError, Store
from lakejobs.storage.layout import open_store


def handler(store: Store) -> type[http.server.BaseHTTPRequestHandler]:
    """Answers with the files below `quality/` of a lake."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
            path = f"quality{posixpath.normpath('/' + asked.lstrip('/'))}"
            try:
                with store.reading(path) as source:
                    content = source.read()
            except MissingError:
                self.send_error(HTTPStatus.NOT_FOUND)
            except LakeError as error:
                self.send_error(HTTPStatus.BAD_GATEWAY, explain=str(error))
            else:
                self.send_response(HTTPStatus.OK)
                kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
                self.send_header("Content-Type", f"{kind}; charset=utf-8" if kind.startswith("text/") else kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

    return Handler


def main() -> None:
    root, port = sys.argv[1:]
    http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), handler(open_store(root, 60))).serve_forever()


if __name__ == "__main__":
    main()
