"""More that is fuzzed: the rest of what clients, next hops, name servers and local users write.

As in targets.py: each takes octets, its invariant stands in its docstring.
"""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

from relayd.config.load import load_text
from relayd.dns.names import fold_name, name_text, wire_name
from relayd.intake.header import HeaderSection, front
from relayd.intake.pickup import DamagedError, pieces, read_slip
from relayd.intake.submission import completed
from relayd.intake.trace import TraceField
from relayd.login.bearer import OAUTHBEARER, XOAUTH2, Bearer, BearerInitiator
from relayd.login.initiator import RefusedError, Secret, initiator
from relayd.login.mechanisms import MECHANISMS, Challenge, Channel, LoginError
from relayd.mail.address import AddressError, Mailbox
from relayd.mail.client import Client
from relayd.mail.plan import Verdict
from relayd.report.tlsrpt import mailbox_of, uris
from relayd.rules.evaluate import Facts, evaluate
from relayd.smtp.grammar import (
    RemoteProtocolError,
    parse_auth,
    parse_bdat,
    parse_hello,
    parse_mail,
    parse_rcpt,
)
from relayd.smtp.xclient import parse_xclient
from relayd.smtp.xtext import (
    XtextError,
    decode_orcpt,
    decode_xtext,
    encode_orcpt,
    encode_xtext,
)

HOST = "gw.test"
MAIL = ("SIZE", "BODY", "SMTPUTF8", "RET", "ENVID", "AUTH", "REQUIRETLS")
RCPT = ("NOTIFY", "ORCPT")
_HEADER_SIZE = 1 << 20
_REPORTED = ("rfc822", "utf-8")
_RULES = load_text(
    "hostname gw.test\naccept any\n"
    'rewrite recipient regex "^(.+)@cap\\.test$" -> "\\1@new.test"\n'
    'rewrite recipient regex "^(.+)@host\\.test$" -> "x@\\1.new.test"\n'
    'rewrite sender regex "^(.+)@cap\\.test$" -> "\\1@new.test"\n'
    'forward regex "^(.+)-(.*)@new\\.test$" -> "\\2.\\1@far.test"\n'
    "rewrite recipient @.sub.test -> @.a-name-that-is-much-longer.test\n"
    "rewrite recipient @old.test -> @new.test\n",
    Path("/nonexistent"),
    "relayd.conf",
).ruleset


def rewriting(data: bytes) -> None:
    """Rules make valid addresses of an address, or it is refused for good; nothing is unknown.

    Where only the domain becomes another the local part keeps every octet.
    """
    try:
        mailbox = Mailbox.parse(data.decode("utf-8", "replace"))
    except AddressError:
        return
    plan = evaluate(_RULES, Facts(Client("192.0.2.1"), mailbox, mailbox))
    if plan.verdict is Verdict.REFUSE:
        assert plan.reply.code == 550, plan
        return
    for destination in plan.destinations:
        for made in (destination.mailbox, destination.reverse_path):
            assert made is not None
            assert Mailbox.parse(str(made)) == made
        if mailbox.domain_key in ("cap.test", "old.test") and "-" not in mailbox.local:
            assert destination.mailbox == Mailbox(mailbox.local, "new.test"), plan


def submission(data: bytes) -> None:
    """A header section is the same however it is cut; completed it has lost nothing.

    Nothing of the sender's can be taken for a part of our trace field.
    """
    whole, cut = (HeaderSection(TraceField(HOST), _HEADER_SIZE, keep=True) for _ in range(2))
    whole.receive(data)
    whole.end()
    for at in range(0, len(data), 61):
        if not cut.complete:
            cut.receive(data[at : at + 61])
    cut.end()
    assert (whole.octets, whole.size, whole.hops) == (cut.octets, cut.size, cut.hops)
    before = front(data)
    assert before is not None or re.fullmatch(rb"[!-9;-~]*[ \t]*", data), data
    assert not (before == b"" and data[:1] in (b" ", b"\t", b":")), data
    section = whole.octets
    made = completed(section, now=0.0, ident=1, hostname=HOST, origin=HOST)
    kept = b"".join(made.replace(b"@gw.test", b"").split())
    assert kept.endswith(b"".join(section.replace(b"@gw.test", b"").split())), (section, made)
    assert len(made) <= len(section) + 2000 * len("@gw.test") + 200 + 3 * (len(section) >> 9)


def names(data: bytes) -> None:
    """What is taken for a domain name fits on the wire and comes back as it was."""
    text = data.decode("utf-8", "replace")
    try:
        name = wire_name(text)
    except ValueError:
        return
    assert len(name.to_wire() or b"") <= 255
    if re.fullmatch(r"[A-Za-z0-9.-]+", text) and text != ".":
        assert fold_name(name_text(name)) == fold_name(text), text


def greeting(data: bytes) -> None:
    """Whatever a client calls itself: our trace field is one field of ASCII lines, and bounded."""
    with contextlib.suppress(RemoteProtocolError):
        client = Client("192.0.2.1", helo=parse_hello(data), tls=data.decode("latin-1"))
        field = TraceField(HOST).received(client, 1, None, 0.0)
        assert field.isascii()
        assert re.fullmatch(rb"Received: from [^\r\n]+(?:\r\n [^\r\n]+)*\r\n", field), field
        assert len(field) < 1000, field


def paths(data: bytes) -> None:
    """A path and its parameters are read or refused; what is read can be said again."""
    with contextlib.suppress(RemoteProtocolError):
        path, _ = parse_mail(b"FROM:" + data, MAIL, HOST)
        if path is not None:
            assert Mailbox.parse(str(path)) == path
    with contextlib.suppress(RemoteProtocolError):
        mailbox, _ = parse_rcpt(b"TO:" + data, RCPT, True, HOST)
        assert not mailbox.domain or Mailbox.parse(str(mailbox)) == mailbox
    parse_bdat(data[:2048])


def xtext(data: bytes) -> None:
    """What decodes is the same once it is encoded and decoded again."""
    text = data.decode("utf-8", "replace")
    with contextlib.suppress(XtextError):
        decoded = decode_xtext(text)
        assert decode_xtext(encode_xtext(decoded)) == decoded
    for kind in _REPORTED:
        with contextlib.suppress(XtextError):
            orcpt = decode_orcpt(kind, text)
            for smtputf8 in (True, False):
                again = encode_orcpt(orcpt, smtputf8=smtputf8).partition(";")[2]
                assert decode_orcpt(kind, again) == orcpt


def xclient(data: bytes) -> None:
    """XCLIENT is read or refused, and what is read is short and printable."""
    with contextlib.suppress(RemoteProtocolError):
        event = parse_xclient(data, ("NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN"))
        for text in (event.helo or "", event.login or "", event.address or ""):
            assert len(text) <= 255
            assert text.isprintable()


def sasl(data: bytes) -> None:
    """Whatever a client answers in a login: LoginError, or a question; nobody is let in."""
    with contextlib.suppress(RemoteProtocolError):
        parse_auth(data)
    answers = data.split(b"\xff")
    for mechanism in MECHANISMS.values():
        with contextlib.suppress(LoginError):
            steps = mechanism(None, Channel())
            asked = next(steps)
            for answer in answers:
                if not isinstance(asked, Challenge):
                    break
                asked = steps.send(answer)


def challenges(data: bytes) -> None:
    """Whatever a next hop asks in a login: an answer without the password, or RefusedError."""
    for offered in (("SCRAM-SHA-256",), ("PLAIN",), ("LOGIN",)):
        asked = initiator(Secret("user", "pass-word"), offered, {}, tls=True)
        assert asked is not None
        with contextlib.suppress(RefusedError):
            asked.initial()
            asked.respond(data)
    for mechanism in (OAUTHBEARER, XOAUTH2):
        bearer = BearerInitiator(Bearer("user", "to-ken", HOST, 25), mechanism)
        bearer.respond(data)
        assert len(bearer.note) <= 203
        assert "to-ken" not in bearer.note


def slip(data: bytes) -> None:
    """A file of the drop folder is read or DamagedError says why; the content ends in CRLF."""
    line, _, content = data.partition(b"\n")
    with contextlib.suppress(DamagedError):
        found = read_slip(line, HOST)
        assert 0 < len(found.recipients) <= 1000
    with contextlib.suppress(DamagedError):
        read = b"".join(pieces(io.BytesIO(content)))
        assert read.endswith(b"\r\n")
        assert read.removesuffix(b"\r\n") in (content, content.removesuffix(b"\r\n"))


def tlsrpt(data: bytes) -> None:
    """Where TLS reports go is read from any TXT record: few, and each a mailto: or https: URI."""
    found = uris(data.decode("latin-1").split("\0"))
    for uri in found:
        assert mailbox_of(uri) or uri.lower().startswith("https:"), uri
    assert len(found) <= 10
