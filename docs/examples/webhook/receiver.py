#!/usr/bin/python3
"""Takes events of relayd's webhooks on 127.0.0.1, and prints each of them once.

    receiver.py PORT KEYFILE            # the key file of the statement `hook`

Put a web server with TLS before it, and do something useful where `print` stands.
"""

import base64
import hmac
import json
import sys
import time
from collections import OrderedDict
from email.message import Message
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

PORT = int(sys.argv[1])
KEY = Path(sys.argv[2]).read_bytes().split(b"\n")[0].strip()
LEEWAY = 300  # seconds that clocks may differ; an older request is somebody's copy
# IDs of events that were here; keep them on disk where once is once
SEEN: OrderedDict[str, None] = OrderedDict()


def signed_by_relayd(headers: Message, body: bytes) -> bool:
    """Whether who has the key has signed just this, and just now."""
    ident = headers.get("webhook-id", "")
    stamp = headers.get("webhook-timestamp", "")
    if not stamp.isdigit() or abs(time.time() - int(stamp)) > LEEWAY:
        return False
    text = f"{ident}.{stamp}.".encode() + body
    wanted = "v1," + base64.b64encode(hmac.digest(KEY, text, "sha256")).decode()
    given = headers.get("webhook-signature", "").split(" ")  # several while the key changes
    return any(hmac.compare_digest(wanted, each) for each in given)


class Receiver(BaseHTTPRequestHandler):
    """Answers 200 once the events are taken, and 401 to others."""

    def do_POST(self) -> None:
        """A request of relayd's."""
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if not signed_by_relayd(self.headers, body):
            self.send_error(401)
            return
        for event in json.loads(body)["events"]:
            if event["id"] in SEEN:
                continue  # our 200 was lost, and it was posted again
            data = event["data"]
            print(event["type"], data["id"], *data["recipients"], flush=True)
            SEEN[event["id"]] = None
            if len(SEEN) > 100_000:
                SEEN.popitem(last=False)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """No line for each request."""


HTTPServer(("127.0.0.1", PORT), Receiver).serve_forever()
