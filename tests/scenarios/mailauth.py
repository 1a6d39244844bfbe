"""mailauth (npm), another one that verifies SPF, DKIM, DMARC and ARC: what it says of messages."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.scenarios.harness import MAILAUTH, program

Records = Mapping[str, Mapping[str, Sequence[str]]]
"""Name in lower case, without its last dot -> type ("TXT", "A", "AAAA", "MX") -> data; an MX is
`10 mx.example`, a TXT one string however long."""


@dataclass(frozen=True)
class Received:
    """A message, and from whom it came."""

    content: bytes
    ip: str = "192.0.2.1"
    helo: str = "client.example"
    sender: str = ""


@dataclass(frozen=True)
class Signature:
    """What it says of one DKIM-Signature, in the order of the header section."""

    result: str
    domain: str
    selector: str
    algorithm: str
    """`rsa-sha256`, `ed25519-sha256`"""
    comment: str


@dataclass(frozen=True)
class Said:
    """What it says of a message; results in the words of RFC 8601."""

    dkim: tuple[Signature, ...]
    spf: str
    dmarc: str
    arc: str
    fields: bytes
    """The fields it would put on top: Authentication-Results, and its ARC set if it was to seal."""


@dataclass(frozen=True)
class Seal:
    """In whose name it is to seal."""

    domain: str
    selector: str
    pem: bytes


def mailauth(
    messages: Sequence[Received],
    records: Records | None = None,
    *,
    server: str = "",
    seal: Seal | None = None,
    enter: Sequence[str] = (),
) -> list[Said]:
    """What it says of each message, in one process: by the records, or by those of a name server.

    `server` is ADDRESS:PORT. `enter` are the words in front of a command that runs elsewhere.
    """
    asked = {
        "messages": [
            {
                "content": base64.b64encode(message.content).decode(),
                "ip": message.ip,
                "helo": message.helo,
                "sender": message.sender,
            }
            for message in messages
        ],
        "records": records or {},
        "server": server,
        "seal": seal
        and {
            "signingDomain": seal.domain,
            "selector": seal.selector,
            "privateKey": seal.pem.decode(),
        },
    }
    script = Path(__file__).with_suffix(".js")
    done = subprocess.run(
        [*enter, program("node"), str(script), MAILAUTH],
        input=json.dumps(asked), capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    if done.returncode != 0:
        raise AssertionError(f"mailauth: {done.stderr}")
    return [
        Said(
            tuple(Signature(**one) for one in said["dkim"]),
            said["spf"],
            said["dmarc"],
            said["arc"],
            said["fields"].encode(),
        )
        for said in json.loads(done.stdout)
    ]
