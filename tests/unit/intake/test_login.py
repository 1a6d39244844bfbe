"""AUTH in a session: who gets in, who is slowed, what a submission listener adds."""

from __future__ import annotations

from base64 import b64decode, b64encode
from itertools import pairwise
from typing import Any, ClassVar, cast

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from relayd.intake.authentication import LoginPolicy
from relayd.intake.header import HeaderSection
from relayd.intake.intake import ReceptionLimits
from relayd.intake.limits import NORMAL
from relayd.intake.submission import Completion, completed
from relayd.intake.trace import TraceField
from relayd.login.accounts import Checked, DovecotAccounts, FileAccounts
from relayd.login.dovecot import DovecotAnswer, Result
from relayd.login.guesses import Guesses
from relayd.login.mechanisms import DEFAULT
from relayd.login.scram import ScramClient, Verifier
from relayd.login.users import Users
from tests.support import TestCase
from tests.unit.intake.scene import CONTENT, Peer, Scene, message

USERS = Users({"alice@example.com": Verifier.of("pencil", iterations=4096)})


def plain(name: str, password: str) -> str:
    return "AUTH PLAIN " + b64encode(f"\0{name}\0{password}".encode()).decode()


RIGHT, WRONG = plain("alice@example.com", "pencil"), plain("alice@example.com", "pen")


class Site:
    """A scene with accounts; hashes are computed when the test says so, if it is slow."""

    def __init__(
        self,
        *,
        slow: bool = False,
        accounts: Any = None,  # noqa: ANN401
        mechanisms: tuple[str, ...] = DEFAULT,
    ) -> None:
        self.scene = Scene()
        self.slow = slow
        self.hashing: list[tuple[Deferred[bool], Any]] = []
        self.guesses = Guesses(self.scene.clock.seconds)
        login = LoginPolicy(
            accounts or FileAccounts(lambda: USERS, self._in_thread),
            self.guesses,
            self.scene.log,
            in_clear=True,
            mechanisms=mechanisms,
        )
        self.scene.listen(login=login)

    def _in_thread(self, work: Any) -> Deferred[bool]:  # noqa: ANN401
        done: Deferred[bool] = Deferred()
        if self.slow:
            self.hashing.append((done, work))
        else:
            done.callback(work())
        return done

    def assert_no_failure(self, test: TestCase) -> None:
        """All ten tries are left."""
        begun = [self.guesses.begin("192.0.2.1") for _ in range(20)]
        tokens = [each for each in begun if each is not None]
        test.assertEqual(len(tokens), 10)
        for token in tokens:
            self.guesses.forgive("192.0.2.1", token)

    def submission(self, *, login: bool = True) -> None:
        self.scene.listen(submission=True, login_required=login, origin="example.com")


class Mechanisms(TestCase):
    """What is on offer, under TLS 1.3 with its channel binding as well."""

    PLUS = "SCRAM-SHA-256-PLUS"
    BINDINGS: ClassVar = {"tls-exporter": b"x" * 32}

    def offered(self, *mechanisms: str, accounts: Any = None) -> tuple[str, str]:  # noqa: ANN401
        """In the clear, and under TLS."""
        site = Site(mechanisms=mechanisms or DEFAULT, accounts=accounts)
        peer = site.scene.greeted()
        lines = []
        for bindings in ({}, self.BINDINGS):
            session: Any = peer.protocol
            session._login.secured(bindings)
            session._offer_login(session._login)
            found = [each[4:] for each in peer.say("EHLO x") if each[4:9] == "AUTH "]
            lines.append(" ".join(found))
        return lines[0], lines[1]

    def test_plus_is_not_offered_unless_it_is_asked_for(self) -> None:
        self.assertEqual(self.offered(), ("AUTH SCRAM-SHA-256 PLAIN LOGIN",) * 2)
        self.assertEqual(
            self.offered(self.PLUS, "SCRAM-SHA-256", "PLAIN"),
            ("AUTH SCRAM-SHA-256 PLAIN", "AUTH SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN"),
        )
        self.assertEqual(self.offered(self.PLUS), ("", "AUTH SCRAM-SHA-256-PLUS"))

    def test_any_other_can_be_left_out_too(self) -> None:
        self.assertEqual(self.offered("SCRAM-SHA-256"), ("AUTH SCRAM-SHA-256",) * 2)
        self.assertEqual(self.offered("LOGIN", "PLAIN"), ("AUTH LOGIN PLAIN",) * 2)
        dovecot = DovecotAccounts(cast("Any", None))
        self.assertEqual(self.offered(accounts=dovecot), ("AUTH PLAIN LOGIN",) * 2)
        self.assertEqual(
            self.offered("SCRAM-SHA-256", "PLAIN", accounts=dovecot), ("AUTH PLAIN",) * 2
        )

    def test_what_is_left_out_is_not_taken_either(self) -> None:
        peer = Site(mechanisms=("SCRAM-SHA-256",)).scene.greeted()
        self.assertEqual(peer.say(RIGHT)[0][:3], "504")

    def test_a_client_that_could_bind_logs_in_where_no_plus_is_offered(self) -> None:
        # RFC 5802 section 6: "y" tells that it saw no -PLUS, and so it must have been offered
        for mechanisms, code in ((DEFAULT, "235"), ((self.PLUS, *DEFAULT), "535")):
            peer = Site(mechanisms=mechanisms).scene.greeted()
            session: Any = peer.protocol
            session._login.secured(self.BINDINGS)
            session._offer_login(session._login)
            client = ScramClient("alice@example.com", "pencil", could_bind=True)
            said = peer.say(f"AUTH SCRAM-SHA-256 {b64encode(client.first()).decode()}")
            if said[0].startswith("334"):
                final = client.final(b64decode(said[0][4:]))
                said = peer.say(b64encode(final))
                client.verify(b64decode(said[0][4:]))
                said = peer.say("")
            self.assertEqual(said[0][:3], code)

    def test_gnu_sasl_gives_up_where_plus_is_offered_and_gets_in_where_it_is_not(self) -> None:
        # as mutt does: the best mechanism and no other, cancelled once the binding is missing
        for mechanisms, code in ((DEFAULT, "235"), ((self.PLUS, *DEFAULT), "501")):
            peer = Site(mechanisms=mechanisms).scene.greeted()
            session: Any = peer.protocol
            session._login.secured(self.BINDINGS)
            session._offer_login(session._login)
            [offer] = [each for each in peer.say("EHLO x") if each[4:9] == "AUTH "]
            best = offer[9:].split()[0]
            self.assertEqual(peer.say(f"AUTH {best}"), ["334 "])
            if best == self.PLUS:
                self.assertEqual(peer.say("*")[0][:3], code)
                continue
            client = ScramClient("alice@example.com", "pencil")
            said = peer.say(b64encode(client.first()))
            said = peer.say(b64encode(client.final(b64decode(said[0][4:]))))
            self.assertEqual(peer.say("")[0][:3], code)


class LoginTests(TestCase):
    def test_in(self) -> None:
        site = Site()
        peer = site.scene.greeted()
        self.assertEqual(peer.say(RIGHT), ["235 2.7.0 Authentication successful"])
        self.assertEqual(peer.say(RIGHT), ["503 5.5.1 You are authenticated already"])
        peer.say(*message(sender="alice@example.com"), *CONTENT)
        [(stored, _)] = site.scene.spool.stored
        self.assertEqual(stored.client.login, "alice@example.com")
        self.assertEqual(stored.client.protocol, "ESMTPA")
        site.assert_no_failure(self)

    def test_nothing_is_answered_before_the_hash(self) -> None:
        site = Site(slow=True)
        peer = site.scene.greeted()
        self.assertEqual(peer.say(RIGHT, "NOOP", "MAIL FROM:<>"), [])
        [(done, work)] = site.hashing
        done.callback(work())
        self.assertEqual([line[:3] for line in peer.replies()], ["235", "250", "250"])

    def test_gone_while_it_is_computed(self) -> None:
        site = Site(slow=True)
        peer = site.scene.greeted()
        peer.say(WRONG)
        peer.leave()
        [(done, work)] = site.hashing
        done.callback(work())
        self.assertEqual(peer.replies(), [])
        self.assertEqual(len(site.scene.log.of("session")), 1)

    def test_shut_down_while_it_is_computed(self) -> None:
        site = Site(slow=True)
        peer = site.scene.greeted()
        peer.say(RIGHT)
        site.scene.service.close()
        site.hashing[0][0].callback(True)
        self.assertEqual([line[:3] for line in peer.replies()], ["421"])

    def test_a_hash_that_takes_too_long_is_454_and_nobodys_failure(self) -> None:
        site = Site(slow=True)
        peer = site.scene.greeted()
        self.assertEqual(peer.say(RIGHT, "NOOP"), [])
        site.scene.clock.advance(NORMAL.verdict - 1)
        self.assertEqual(peer.replies(), [])
        site.scene.clock.advance(1)
        self.assertEqual([line[:9] for line in peer.replies()], ["454 4.7.0", "250 2.0.0"])
        [(done, work)] = site.hashing
        done.callback(work())
        self.assertEqual(peer.replies(), [])
        self.assertIn("took too long", site.scene.log.of("trouble")[0])
        self.assertEqual(peer.say(RIGHT), [])
        site.hashing[1][0].callback(True)
        self.assertEqual([line[:3] for line in peer.replies()], ["235"])
        site.assert_no_failure(self)

    def test_who_guesses_and_goes_has_guessed(self) -> None:
        """What is given up is not forgiven: else hashing would be had for nothing."""
        site = Site(slow=True)
        for _ in range(10):
            peer = site.scene.greeted()
            self.assertEqual(peer.say(WRONG), [])
            peer.leave()
        self.assertEqual([line[:3] for line in site.scene.greeted().say(WRONG)], ["454"])

    def test_login_in_steps_and_cancelled(self) -> None:
        site = Site()
        peer = site.scene.greeted()
        self.assertEqual(peer.say("AUTH LOGIN"), ["334 VXNlcm5hbWU6"])
        self.assertEqual(peer.say("YWxpY2VAZXhhbXBsZS5jb20="), ["334 UGFzc3dvcmQ6"])
        self.assertEqual(peer.say("*"), ["501 5.7.0 Authentication cancelled"])
        site.assert_no_failure(self)
        peer.say("AUTH LOGIN", "YWxpY2VAZXhhbXBsZS5jb20=")
        self.assertEqual(peer.say("cGVuY2ls")[0][:3], "235")

    def test_scram(self) -> None:
        for password, code in (("pencil", "235"), ("pen", "535")):
            peer = Site().scene.greeted()
            client = ScramClient("alice@example.com", password)
            [line] = peer.say(f"AUTH SCRAM-SHA-256 {b64encode(client.first()).decode()}")
            final = client.final(b64decode(line[4:]))
            [line] = peer.say(b64encode(final).decode())
            if code == "235":
                client.verify(b64decode(line[4:]))
                [line] = peer.say("")
            self.assertEqual(line[:3], code)

    def test_a_session_that_guesses_ends(self) -> None:
        peer = Site().scene.greeted()
        codes = [line[:3] for line in peer.say(*[WRONG] * 8)]
        self.assertEqual(codes, ["535"] * 5 + ["421"])
        self.assertTrue(peer.told_to_go)

    def test_ten_a_minute_and_then_not_even_the_right_one(self) -> None:
        site = Site()
        for _ in range(4):
            site.scene.greeted().say(*[WRONG] * 5)
        peer = site.scene.greeted()
        self.assertEqual(peer.say(RIGHT)[0][:9], "454 4.7.0")
        self.assertEqual(site.scene.greeted("198.51.100.1").say(RIGHT)[0][:3], "235")
        site.scene.clock.advance(61)
        self.assertEqual(site.scene.greeted().say(RIGHT)[0][:3], "235")
        refused = [line for line in site.scene.log.of("refused") if " 535 " in line]
        self.assertEqual(len(refused), 10)

    def test_the_log_names_the_login_and_no_password(self) -> None:
        site = Site()
        site.scene.greeted().say(WRONG, plain("nobody", "hunter2"), "AUTH PLAIN AAAA")
        text = "\n".join(site.scene.log.of("refused"))
        self.assertIn("AUTH PLAIN -> 535 5.7.8", text)
        self.assertIn("login alice@example.com: wrong password or no such login", text)
        self.assertIn("login nobody: wrong password or no such login", text)
        self.assertNotIn("hunter2", text)

    def test_dovecots_word_counts(self) -> None:
        class Socket:
            async def check(self, user: str, password: str, **facts: object) -> DovecotAnswer:
                result = {"yes": Result.GRANTED, "no": Result.DENIED}.get(password, Result.TROUBLE)
                return DovecotAnswer(1, result, "Alice@Example.com")

        site = Site(accounts=DovecotAccounts(Socket()))
        peer = site.scene.greeted()
        self.assertIn("250 AUTH PLAIN LOGIN", peer.say("EHLO x"))
        self.assertEqual(peer.say(plain("alice", "no"))[0][:3], "535")
        self.assertEqual(peer.say(plain("alice", "what"))[0][:9], "454 4.7.0")
        self.assertEqual(len(site.scene.log.of("trouble")), 1)
        self.assertEqual(peer.say(plain("alice", "yes"))[0][:3], "235")
        codes = [line[:3] for line in peer.say("MAIL FROM:<alice@example.com>", "RSET")]
        self.assertEqual(codes, ["250", "250"])

    def test_who_else_may_not_be_sent_as(self) -> None:
        peer = Site().scene.greeted()
        peer.say(RIGHT)
        self.assertEqual(peer.say("MAIL FROM:<bob@example.com>")[0][:9], "553 5.7.1")
        self.assertEqual(peer.say("MAIL FROM:<>")[0][:3], "250")

    def test_a_bug_in_the_accounts_ends_the_session_alone(self) -> None:
        class Broken(FileAccounts):
            async def check(self, *_: object, **__: object) -> Checked:
                raise RuntimeError("a bug")

        site = Site(accounts=Broken(lambda: USERS, lambda _: Deferred()))
        peer = site.scene.greeted()
        self.assertEqual(peer.say(RIGHT)[0][:3], "421")
        (line,) = site.scene.log.of("trouble")
        self.assertRegex(line, r"'RuntimeError'.* 'intake/test_login.py:\d+'")
        self.assertNotIn("a bug", line)  # such words may hold a password


class SubmissionTests(TestCase):
    def sent(self, site: Site, *lines: str) -> bytes:
        peer = self.logged_in(site)
        peer.say("MAIL FROM:<alice>", "RCPT TO:<bob>", "DATA", *lines, ".")
        stored, submission = site.scene.spool.stored[-1]
        content = b"".join(stored.content.chunks())
        self.assertTrue(
            content[: submission.header_size].endswith(b"\r\n\r\n") or b"\r\n\r\n" not in content
        )
        self.assertEqual(stored.envelope.reverse_path and str(stored.envelope.reverse_path),
                         "alice@example.com")  # fmt: skip
        self.assertEqual(str(submission.recipients[0].mailbox), "bob@example.com")
        return content.partition(b";\r\n ")[2].partition(b"\r\n")[2]

    def logged_in(self, site: Site) -> Peer:
        site.submission()
        peer = site.scene.greeted()
        self.assertEqual(peer.say("MAIL FROM:<alice>")[0][:9], "530 5.7.0")
        peer.say(RIGHT)
        return peer

    def test_date_message_id_and_domains(self) -> None:
        content = self.sent(Site(), "From: alice", "To: bob, Eve <eve@example.org>", "", "Hi.")
        self.assertRegex(content.decode(), r"\ADate: Sat, 22 Nov 2025 .*\r\nMessage-ID: <\w{12}@gw")
        self.assertTrue(
            content.endswith(
                b"\r\nFrom: alice@example.com\r\n"
                b"To: bob@example.com, Eve <eve@example.org>\r\n\r\nHi.\r\n"
            ),
            content,
        )

    def test_content_without_a_body_or_a_header(self) -> None:
        self.assertTrue(self.sent(Site(), "Subject: x").endswith(b"\r\nSubject: x\r\n"))
        self.assertTrue(self.sent(Site(), "", "Hi.").endswith(b">\r\n\r\nHi.\r\n"))

    def test_limits_hold_for_what_leaves(self) -> None:
        """A megabyte of names without a domain is not to leave as seven."""
        for body, code in (
            ("a," * (1 << 19), "552"),  # Date and Message-ID are too much
            ("a," * (500 << 10), "250"),
            ("a, " * 40_000, "250"),
            ("\r\n ".join(["a,"] * 50_000), "250"),
        ):
            peer = self.logged_in(site := Site())
            peer.say("MAIL FROM:<alice>", "RCPT TO:<bob>", "DATA")
            text = f"To: {body}\r\n\r\nHi.\r\n"
            (reply,) = peer.say(text[:-2], ".")
            with self.subTest(body[:9]):
                self.assertEqual(reply[:3], code)
                if code == "250":
                    stored = site.scene.spool.stored[-1][0].content
                    self.assertLess(stored.size, len(text) + 2000 * len("@example.com") + 1000)

    def test_a_message_is_within_message_size_when_it_is_complete(self) -> None:
        site = Site()
        site.submission()
        text = "To: bob\r\n\r\nHi.\r\n"
        for size, code in ((1000, "250"), (len(text) + 50, "552")):
            site.submission(login=False)
            site.scene.change(limits=ReceptionLimits(message_size=size))
            peer = site.scene.greeted()
            peer.say("MAIL FROM:<alice>", "RCPT TO:<bob>", "DATA")
            (reply,) = peer.say(text[:-2], ".")
            self.assertEqual(reply[:3], code, reply)

    def test_added_fields_stand_below_our_trace_field(self) -> None:
        for first in ("no colon", " blank", "From a@b", "To: bob"):
            content = self.sent(Site(), first, "X: y", "", "Hi.")
            self.assertRegex(content, rb"\ADate: .*\r\nMessage-ID: .*\r\n", first)

    def test_who_relays_completes_nothing(self) -> None:
        peer = Site().scene.greeted()
        self.assertEqual(peer.say("MAIL FROM:<alice>")[0][:3], "501")


ADDRESSES = (
    (b"bob", b"bob@d"),
    (b" bob , eve", b" bob@d , eve@d"),
    (b"<bob>", b"<bob@d>"),
    (b"Bob Smith <bob>", b"Bob Smith <bob@d>"),
    (b'"bob, x" <bob>, y@z', b'"bob, x" <bob@d>, y@z'),
    (b"bob (a comment, with comma)", b"bob@d (a comment, with comma)"),
    (b"bob@example.org", b"bob@example.org"),
    (b"Bob Smith", b"Bob Smith"),
    (b"friends: bob, eve@x;", b"friends: bob@d, eve@x;"),
    (b"undisclosed-recipients:;", b"undisclosed-recipients:;"),
    (b'"a b".c', b'"a b".c@d'),
    (b"<>", b"<>"),
    (b"", b""),
    (b"a..b", b"a..b@d"),
    (b"Bob <c..d>, .e, <f.>", b"Bob <c..d@d>, .e@d, <f.@d>"),
    (b"..., <.>, a .b, <a b.>", b"..., <.>, a .b, <a b.>"),
    (b"<bob", b"<bob"),
    (b"\r\n bob,\r\n\teve", b"\r\n bob@d,\r\n\teve@d"),
)


class CompletionTests(TestCase):
    def complete(self, section: bytes) -> bytes:
        return completed(section, now=0.0, ident=1, hostname="h", origin="d")

    def test_addresses(self) -> None:
        for body, expected in ADDRESSES:
            section = b"Date: x\r\nMessage-ID: y\r\nTo:%s\r\n\r\n"
            with self.subTest(body=body):
                self.assertEqual(self.complete(section % body), section % expected)

    def test_lines_stay_within_bounds(self) -> None:
        body = b",".join([b"name"] * 190)
        section = b"Date: x\r\nMessage-ID: y\r\nTo: " + body + b"\r\n\r\n"
        whole = self.complete(section)
        self.assertEqual(whole.count(b"name@d"), 190)
        self.assertLessEqual(max(map(len, whole.split(b"\r\n"))), 998)
        self.assertEqual(
            b"".join(whole.split()), b"".join(section.replace(b"name", b"name@d").split())
        )

    def test_so_many_addresses_and_no_more(self) -> None:
        section = b"Date: x\r\nMessage-ID: y\r\nTo: " + b"a,\r\n " * 3000 + b"a\r\n\r\n"
        whole = self.complete(section)
        self.assertEqual(whole.count(b"a@d"), 2000)
        self.assertEqual(whole.replace(b"a@d", b"a"), section)

    def test_what_never_ends_stays_as_it_is(self) -> None:
        for opened in (b"[\\", b'"\\', b"(", b"<", b"(\\", b'"'):
            section = b"Date: x\r\nMessage-ID: y\r\nTo: " + opened * 5000 + b"\r\n\r\n"
            self.assertEqual(self.complete(section), section, opened)

    @given(st.binary(max_size=120))
    def test_twice_is_once(self, octets: bytes) -> None:
        section = b"To: " + octets.replace(b"\r", b"").replace(b"\n", b"\r\n ") + b"\r\n\r\n"
        once = self.complete(section)
        self.assertEqual(self.complete(once), once)
        self.assertTrue(once.endswith(b"\r\n\r\n"))

    @given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=6))
    def test_however_it_is_cut(self, octets: bytes, cuts: list[int]) -> None:
        octets = b"Subject: " + octets
        whole = Completion(self.header(), lambda section: b"X: y\r\n" + section)
        whole._header.receive(octets)
        expected = whole.receive(octets)
        whole._header.end()
        expected += whole.end()
        pieces = Completion(self.header(), lambda section: b"X: y\r\n" + section)
        written = b""
        edges = [0, *sorted(cuts), len(octets)]
        for start, end in pairwise(edges):
            piece = octets[start:end]
            if piece:
                if not pieces._header.complete:
                    pieces._header.receive(piece)
                written += pieces.receive(piece)
        pieces._header.end()
        written += pieces.end()
        self.assertEqual(written, expected)
        self.assertEqual(written, b"X: y\r\n" + octets)

    def header(self) -> HeaderSection:
        return HeaderSection(TraceField("h"), 1 << 20, keep=True)
