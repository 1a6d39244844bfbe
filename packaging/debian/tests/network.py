"""A small internet on loopback: a name server, mail exchangers, a smart host that all keep mail.

    network.py FOLDER [without-mx] [with-down]

127.0.0.1:53 answers for example.net (mx.example.net, 192.0.2.2) and down.example.net (192.0.2.9,
where nobody listens). 192.0.2.2:25 keeps what it gets in FOLDER/mx, 127.0.0.3:2525 in
FOLDER/smarthost, one file a message: the envelope's recipients, an empty line, the content.
With with-down there is somebody at 192.0.2.9 after all, who keeps it in FOLDER/down.
"""

from __future__ import annotations

import itertools
import socketserver
import sys
import threading
import time
from pathlib import Path

import dns.flags
import dns.message
import dns.rrset

MX = {"example.net.": "mx.example.net.", "down.example.net.": "mx.down.example.net."}
A = {"mx.example.net.": "192.0.2.2", "mx.down.example.net.": "192.0.2.9"}
NUMBERS = itertools.count(time.time_ns())  # another run writes other files


class Names(socketserver.DatagramRequestHandler):
    """DNS over UDP."""

    def handle(self) -> None:
        query = dns.message.from_wire(self.rfile.read())
        question = query.question[0]
        name = question.name.to_text().lower()
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA
        if question.rdtype == dns.rdatatype.MX and name in MX:
            answer.answer.append(dns.rrset.from_text(name, 60, "IN", "MX", f"10 {MX[name]}"))
        elif question.rdtype == dns.rdatatype.A and name in A:
            answer.answer.append(dns.rrset.from_text(name, 60, "IN", "A", A[name]))
        elif name not in MX and name not in A:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        self.wfile.write(answer.to_wire())


class Mail(socketserver.StreamRequestHandler):
    """Just enough SMTP to take a message."""

    def handle(self) -> None:
        recipients: list[str] = []
        self.say("220 sink.example.net ESMTP")
        while line := self.rfile.readline().decode("latin-1").rstrip("\r\n"):
            verb = line[:4].upper()
            if verb == "DATA":
                self.say("354 go on")
                content = b""
                while (part := self.rfile.readline()) != b".\r\n" and part:
                    content += part.removeprefix(b".")
                folder: Path = self.server.folder  # type: ignore[attr-defined]
                path = folder / f"{next(NUMBERS)}"
                draft = path.with_suffix(".part")
                draft.write_bytes("\n".join([*recipients, "", ""]).encode() + content)
                draft.rename(path.with_suffix(".eml"))
                recipients = []
                self.say("250 kept")
            elif verb == "QUIT":
                self.say("221 bye")
                return
            else:
                if verb == "RCPT":
                    recipients.append(line[8:].strip())
                self.say("250 ok")

    def say(self, text: str) -> None:
        self.wfile.write(text.encode() + b"\r\n")


class Names4(socketserver.ThreadingUDPServer):
    allow_reuse_address = True


class Mail4(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 100
    folder: Path


def main() -> None:
    folder = Path(sys.argv[1])
    servers: list[socketserver.BaseServer] = [Names4(("127.0.0.1", 53), Names)]
    places = {"mx": ("192.0.2.2", 25), "smarthost": ("127.0.0.3", 2525)}
    if "without-mx" in sys.argv:  # who listens on all addresses needs that one, too
        del places["mx"]
    if "with-down" in sys.argv:
        places["down"] = ("192.0.2.9", 25)
    for name, address in places.items():
        server = Mail4(address, Mail)
        server.folder = folder / name
        server.folder.mkdir(parents=True, exist_ok=True)
        servers.append(server)
    for each in servers:
        threading.Thread(target=each.serve_forever, daemon=True).start()
    print("ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
