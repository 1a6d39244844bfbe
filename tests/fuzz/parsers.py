"""More that is fuzzed: what parses headers, logins, and the words of other servers.

As in targets.py: each takes octets, its invariant stands in its docstring.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from relayd.config.load import load_text
from relayd.login.dovecot import DovecotClient, DovecotError
from relayd.login.scram import ScramError, ScramServer, Verifier
from relayd.mail.address import AddressError, Mailbox
from relayd.mail.content import BytesContent
from relayd.mime.conversion import ConvertedContent
from relayd.mime.survey import EightBitSurvey, Unconvertible
from relayd.rules.addrspec import addresses
from relayd.rules.header import MAX_FIELDS, TooManyFieldsError, edit_header
from relayd.rules.srs import Scheme, SrsError
from relayd.smtp.proxyheader import ProxyError, read_header
from relayd.tls.sts import MAX_AGE, StsPolicy, parse_policy, policy_id

NOW = 1.8e9
_RULES = load_text(
    "hostname gw.test\n"
    "accept to @old.test\n"
    "rewrite header From, To, Reply-To @old.test -> @new.test\n"
    "route any direct\n",
    Path("/nonexistent"),
    "relayd.conf",
).ruleset
_VERIFIER = Verifier.of("correct horse", salt=b"salt" * 4, iterations=4096)
_OURS, _THEIRS = Scheme("gw.test", (b"ours",)), Scheme("gw.test", (b"theirs",))


def header(data: bytes) -> None:
    """Rewriting changes domains in the named fields and not one octet elsewhere, but for folds."""
    try:
        edited = edit_header(_RULES, (0,), data)
    except TooManyFieldsError:
        assert data.count(b"\r\n") >= MAX_FIELDS
        return
    # folds only add to white space
    before, after = b"".join(data.split()), b"".join(edited.split())
    assert after.replace(b"new.test", b"") == _without(before, after), (data, edited)
    _, empty, body = data.partition(b"\r\n\r\n")
    assert not empty or edited.endswith(empty + body)
    assert len(edited) <= len(data) + 3 * (1 + len(data) // 400)
    for local, domain, mailbox in addresses(data):
        assert 0 <= local[0] < local[1] < domain[0] < domain[1] <= len(data)
        assert b"@" in data[local[1] : domain[0]], mailbox


def _without(data: bytes, edited: bytes) -> bytes:
    """`data` less what became new.test in `edited`, found from left to right."""
    kept: list[bytes] = []
    at = 0
    for piece in edited.split(b"new.test"):
        found = data.find(piece, at)
        assert found >= 0, (data, edited)
        kept.append(piece)
        at = found + len(piece)
    return b"".join(kept)


def proxy(data: bytes) -> None:
    """A PROXY header is whole, unfinished or none; the same however its octets are cut."""
    whole: object = None
    with contextlib.suppress(ProxyError):
        found = whole = read_header(data)
        assert found is None or 0 < found.size <= len(data)
    for size in range(1, min(len(data), 300)):
        try:
            part = read_header(data[:size])
        except ProxyError:
            assert whole is None
            break
        if part is not None:
            assert part == whole, (size, part, whole)
            break


def dovecot(data: bytes) -> None:
    """Whatever an auth service says: verdicts, or the one error; and no line to it but ours."""
    client = DovecotClient(7)
    with contextlib.suppress(DovecotError):
        for at in range(0, len(data), 50):
            client.receive(data[at : at + 50])
        if client.ready:
            client.ask("a\tb\n", "c\0d", address="192.0.2.1\n", secured=True)
    for line in client.data_to_send().split(b"\n"):
        assert line.split(b"\t")[0] in (b"VERSION", b"CPID", b"AUTH", b""), line


def scram(data: bytes) -> None:
    """Nobody is let in who does not know the password, and nothing but ScramError happens."""
    first, _, final = data.partition(b"\xff")
    server = ScramServer(plus=False, offered=False, bindings={}, nonce="n" * 24)
    try:
        server.first(first)
        server.challenge(_VERIFIER)
        server.final(final)
    except ScramError:
        return
    raise AssertionError("let in")


def srs(data: bytes) -> None:
    """What our key did not sign is not undone; what it signed comes back as it was."""
    with contextlib.suppress(AddressError, SrsError):
        mailbox = Mailbox.parse(data.decode("utf-8", "replace"))
        signed = _OURS.forward(mailbox, NOW)
        assert "@" in str(signed)
        back = _OURS.reverse(signed, NOW)
        if not signed.local.startswith("SRS1"):
            assert back.local == mailbox.local, (mailbox, back)
            assert back.domain_key == mailbox.domain_key, (mailbox, back)
    with contextlib.suppress(AddressError, SrsError):
        _THEIRS.reverse(Mailbox(data.decode("utf-8", "replace"), "gw.test"), NOW)
        raise AssertionError("undone without the key")


def sts(data: bytes) -> None:
    """A policy is read or ValueError says why; printed and read again it is the same."""
    text = data.decode("utf-8", "replace")
    assert len(policy_id(text.split("\0"))) <= 32
    with contextlib.suppress(ValueError):
        policy = parse_policy(text)
        assert 0 <= policy.max_age <= MAX_AGE
        assert parse_policy(str(policy)) == policy
        assert isinstance(policy, StsPolicy)
        assert not policy.allows("")


def conversion(data: bytes) -> None:
    """Any content leaves in 7 bits, the same however it is cut, or is refused with a reason."""
    content = data[1:]
    try:
        whole = in_seven_bits(content)
    except Unconvertible as why:
        assert str(why)
        assert not content.isascii()
        return
    assert whole.isascii() and (whole == content or not content.isascii()), whole
    if len(content) < 4096:
        assert in_seven_bits(content, data[0] % 61 + 1 if data else 1) == whole


def in_seven_bits(content: bytes, piece: int = 1 << 16) -> bytes:
    """What becomes of a content that comes in pieces of this size."""
    survey = EightBitSurvey()
    for at in range(0, len(content), piece):
        survey.feed(content[at : at + piece])
    survey.end()
    return b"".join(ConvertedContent(BytesContent(content), survey.edits).chunks())
