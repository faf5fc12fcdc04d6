"""A small server with the routes of the plugin, for tests of the page without TensorBoard.

The first part of a path names a site, which is a dictionary of runs by name; it stands for
TensorBoard's path prefix, too.
"""

import contextlib
import functools
import http.server
import json
import pathlib
import struct
import threading
import urllib.parse

import keras_sam_viewer

STATIC = pathlib.Path(keras_sam_viewer.__file__).parent / "static"
TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html"}
# What TensorBoard sends with the frame of a plugin, as far as it concerns this page.
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; "
    "script-src 'self'; style-src 'self' 'unsafe-inline'; frame-src 'self' data: blob:"
)
FRAME = b"""<!doctype html><html><head><meta charset="utf-8">
<link rel="icon" href="data:,"></head>
<body><script type="module" src="./start.js"></script></body></html>"""
START = b'import {render} from "./index.js"; render();'


def answer(runs, route, parameters):
    """Returns the body for a route, or raises `KeyError` with a sentence."""
    if route == "runs":
        listed = [{"name": name, "steps": list(run.steps)} for name, run in runs.items()]
        return json.dumps({"runs": listed}).encode()
    run = runs[parameters["run"]]
    if route == "meta":
        return run.blobs["meta"]
    if route == "stats":
        blobs = [run.blobs[f"stats/{step}"] for step in run.steps]
        return b"".join(struct.pack("<I", len(blob)) + blob for blob in blobs)
    key = [parameters[name] for name in ("step", "layer", "example")]
    return run.blobs["map/" + "/".join(key)]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, sites, *arguments):
        self.sites = sites
        super().__init__(*arguments)

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        site, _, route = url.path[1:].partition("/")
        parameters = dict(urllib.parse.parse_qsl(url.query))
        status, kind = 200, "application/octet-stream"
        if route in ("", "start.js"):
            kind = TYPES[".js"] if route else TYPES[".html"]
            body = START if route else FRAME
        elif (STATIC / route).is_file() and "/" not in route:
            body, kind = (STATIC / route).read_bytes(), TYPES[pathlib.Path(route).suffix]
        else:
            try:
                body = answer(self.sites[site], route, parameters)
            except KeyError:
                status, body = 404, b'{"error": "There is no such record."}'
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", POLICY)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def serve(sites):
    """Serves sites, dictionaries of runs by name, and yields the address."""
    handler = functools.partial(Handler, sites)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
