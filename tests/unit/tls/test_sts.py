"""MTA-STS: what is published, what is fetched from a real HTTPS host, what is kept."""

from __future__ import annotations

import contextlib
import os
import unittest
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.ssl import PrivateCertificate
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from relayd.dns.answer import Answer, DnsError, DnsTrouble, NxDomain
from relayd.dns.resolver import Resolver
from relayd.relay import mtasts
from relayd.relay.hosts import Hosts, Leads
from relayd.relay.internal import may_lead_to
from relayd.relay.mtasts import PAUSE, REFRESH, Kept, StsPolicies
from relayd.relay.stsfetch import FetchError, StsFetch
from relayd.tls.flaw import Flaw
from relayd.tls.sts import MAX_AGE, MAX_SIZE, StsPolicy, parse_policy, policy_id
from tests.certs import DAY, Authority, Issued
from tests.support import TestCase
from tests.unit.intake.scene import FakeLog

reactor: Any = _reactor
POLICY = (
    "version: STSv1\r\nmode: enforce\r\nmx: mx1.example.com\r\nmx: *.example.net\r\n"
    "max_age: 86400\r\n"
)


class Texts(unittest.TestCase):
    def test_the_record(self) -> None:
        for texts, ident in (
            (["v=STSv1; id=20160831085700Z;"], "20160831085700Z"),
            (["v=STSv1;id=1", "v=spf1 -all"], "1"),
            (["v=STSv1; x=y; id=2"], "2"),
            (["v=STSv1; id=1", "v=STSv1; id=2"], ""),
            (["v=STSv1; id=a b"], ""),
            (["v=STSv10; id=1"], ""),
            ([" v=STSv1; id=1"], ""),
            ([], ""),
        ):
            self.assertEqual(policy_id(texts), ident, texts)

    def test_the_policy(self) -> None:
        policy = parse_policy(POLICY)
        self.assertEqual(policy, StsPolicy("enforce", ("mx1.example.com", "*.example.net"), 86400))
        self.assertEqual(parse_policy(str(policy)), policy)
        for host, allowed in (
            ("MX1.example.com.", True),
            ("mx2.example.com", False),
            ("a.example.net", True),
            ("a.b.example.net", False),
            ("example.net", False),
        ):
            self.assertIs(policy.allows(host), allowed, host)

    def test_what_is_no_policy(self) -> None:
        for text in (
            "",
            "<html>",
            POLICY.replace("STSv1", "STSv2"),
            POLICY.replace("enforce", "maybe"),
            POLICY.replace("mx:", "nx:"),
            POLICY.replace("86400", "-1"),
            POLICY.replace("*.example.net", "*"),
            POLICY.replace("*.example.net", "a.*.example.net"),
        ):
            with self.assertRaises(ValueError, msg=text):
                parse_policy(text)
        self.assertEqual(parse_policy("version:STSv1\nmode:none\nmax_age:1").mx, ())

    @given(st.text())
    def test_any_text(self, text: str) -> None:
        policy_id([text, "v=STSv1;" + text])
        with contextlib.suppress(ValueError):
            parse_policy(text)


class Answers:
    """A DNS of our own."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {"A": ("127.0.0.1",)}

    async def ask(self, name: str, rdtype: str) -> Answer[Any]:
        value = self.values.get(rdtype)
        if value is None:
            raise NxDomain(name, rdtype, "no such name")
        if isinstance(value, DnsError):
            raise value
        return Answer(name, name, value, False, 1)


class Fetching(TestCase):
    def setUp(self) -> None:
        self.authority = Authority()
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.trusted = self.folder / "authorities.pem"
        self.trusted.write_bytes(Authority("another").pem + self.authority.pem)
        self.requests: list[Any] = []
        self.body = POLICY.encode()
        self.code = 200
        self.kind = "text/plain; charset=utf-8"

    def host(self, issued: Issued, leads: Leads = None) -> StsFetch:
        case = self

        class Root(Resource):
            isLeaf = True  # noqa: N815  # Twisted's name

            def render_GET(self, request: Request) -> bytes:
                case.requests.append((request.getHeader("host"), request.uri))
                request.setResponseCode(case.code)
                request.setHeader("content-type", case.kind)
                request.setHeader("location", "https://127.0.0.1/")
                return case.body

        options = PrivateCertificate.loadPEM(issued.key_pem + issued.chain_pem).options()
        port = reactor.listenSSL(0, Site(Root()), options, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        hosts = Hosts(Resolver(reactor, ask=Answers().ask))
        number = port.getHost().port
        return StsFetch(reactor, hosts, authorities=self.trusted, leads=leads, port=number)

    async def test_a_policy(self) -> None:
        fetch = self.host(self.authority.issue("mta-sts.example.com"))
        self.assertEqual(await fetch("example.com"), POLICY)
        self.assertEqual(self.requests, [("mta-sts.example.com", b"/.well-known/mta-sts.txt")])

    async def test_no_policy_comes_from_an_internal_host(self) -> None:
        fetch = self.host(self.authority.issue("mta-sts.example.com"), may_lead_to)
        error = await self.assertFailure(Deferred.fromCoroutine(fetch("example.com")), FetchError)
        self.assertIn("127.0.0.1 is an internal address", str(error))
        self.assertEqual(self.requests, [])

    async def test_no_policy_comes_from_a_host_with_a_common_name_only(self) -> None:
        fetch = self.host(self.authority.issue("mta-sts.example.com", alternatives=()))
        error = await self.assertFailure(Deferred.fromCoroutine(fetch("example.com")), FetchError)
        self.assertIn("the certificate is for another name", str(error))
        self.assertEqual(self.requests, [])

    async def test_what_does_not_count(self) -> None:
        fetch = self.host(self.authority.issue("mta-sts.example.com"))
        for name, value, words in (
            ("code", 404, "said 404"),
            ("code", 301, "said 301"),  # section 3.3: redirects are not followed
            ("kind", "text/html", "no text/plain"),
            ("body", b"x" * (MAX_SIZE + 1), "too large"),
        ):
            before = getattr(self, name)
            setattr(self, name, value)
            error = await self.assertFailure(
                Deferred.fromCoroutine(fetch("example.com")), FetchError
            )
            self.assertIn(words, str(error))
            self.assertIs(flaw_of(error), Flaw.STS_FETCH)
            setattr(self, name, before)

    async def test_a_domain_named_after_certificates_has_no_fault_of_its_certificate(
        self,
    ) -> None:
        fetch = self.host(self.authority.issue("mta-sts.certificate.example"))
        self.code = 404
        error = await self.assertFailure(
            Deferred.fromCoroutine(fetch("certificate.example")), FetchError
        )
        self.assertIs(flaw_of(error), Flaw.STS_FETCH)

    async def test_certificates_that_do_not_count(self) -> None:
        for issued in (
            self.authority.issue("example.com"),
            self.authority.issue("mta-sts.example.com", start=-3 * DAY, end=-DAY),
            Authority("a stranger").issue("mta-sts.example.com"),
        ):
            fetch = self.host(issued)
            error = await self.assertFailure(
                Deferred.fromCoroutine(fetch("example.com")), FetchError
            )
            self.assertIs(flaw_of(error), Flaw.STS_WEBPKI)
        self.assertEqual(self.requests, [])


def flaw_of(error: object) -> Flaw:
    """Which it is told as."""
    assert isinstance(error, FetchError)
    return error.flaw


class Keeping(TestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.now = 1_000_000.0
        self.log = FakeLog()
        self.answers = Answers()
        self.text: str | None = POLICY
        self.fetched = 0
        self.policies = self.start()

    def start(self) -> StsPolicies:
        resolver = Resolver(reactor, ask=self.answers.ask, clock=lambda: self.now)
        return StsPolicies(resolver, self.fetch, self.folder, self.log, lambda: self.now)

    async def fetch(self, domain: str) -> str:
        self.fetched += 1
        if self.text is None:
            raise FetchError(f"{domain}: refused")
        return self.text

    def announce(self, ident: str) -> None:
        self.answers.values["TXT"] = (f"v=STSv1; id={ident}",)
        self.now += 10

    async def test_not_announced_not_fetched(self) -> None:
        self.assertIsNone(await self.policies("example.com"))
        self.assertEqual(self.fetched, 0)

    async def test_fetched_once_and_kept_over_a_restart(self) -> None:
        self.announce("1")
        for _ in range(3):
            policy = await self.policies("example.com")
            assert policy is not None
            self.assertTrue(policy.enforced)
            self.policies = self.start()
        self.assertEqual(self.fetched, 1)

    async def test_long_policies_of_many_domains_are_bounded_and_hold_all_the_same(self) -> None:
        self.patch(mtasts, "MOST_OCTETS", 50_000)
        self.text = POLICY + "".join(f"mx: mx{n}.{'x' * 60}.example\n" for n in range(300))
        self.announce("1")
        for number in range(4):
            self.assertIsNotNone(await self.policies(f"d{number}.example"))
            self.assertLessEqual(self.policies._octets, 50_000)
        self.assertEqual(len(self.policies._kept), 1)
        self.assertIsNotNone(await self.policies("d0.example"))  # from the disk
        self.assertEqual(self.fetched, 4)

    async def test_a_new_id_fetches_anew(self) -> None:
        self.announce("1")
        await self.policies("example.com")
        self.text = POLICY.replace("enforce", "none")
        self.announce("2")
        self.assertIsNone(await self.policies("example.com"))
        self.assertEqual(self.fetched, 2)

    async def test_what_was_promised_holds_when_the_announcement_is_stripped(self) -> None:
        self.announce("1")
        await self.policies("example.com")
        for strip in (None, DnsTrouble("_mta-sts.example.com", "TXT", "SERVFAIL")):
            self.answers.values["TXT"] = strip
            self.now += 400
            self.assertIsNotNone(await self.policies("example.com"))
        self.announce("2")
        self.text = None  # and the policy host does not answer
        self.assertIsNotNone(await self.policies("example.com"))
        self.now += 86400
        self.assertIsNone(await self.policies("example.com"))  # but not beyond its age

    async def test_a_failed_fetch_is_not_repeated_at_once(self) -> None:
        self.announce("1")
        self.text = None
        for _ in range(3):
            self.assertIsNone(await self.policies("example.com"))
        self.assertEqual(self.fetched, 1)
        self.now += PAUSE
        self.text = POLICY
        self.assertIsNotNone(await self.policies("example.com"))

    async def test_a_policy_in_use_is_fetched_anew_once_a_day(self) -> None:
        self.text = POLICY.replace("86400", "864000")
        self.announce("1")
        await self.policies("example.com")
        self.now += REFRESH + 1
        for _ in range(3):
            self.assertIsNotNone(await self.policies("example.com"))
        self.assertEqual(self.fetched, 2)

    async def test_damage_in_the_cache_is_no_policy(self) -> None:
        self.announce("1")
        await self.policies("example.com")
        (file,) = self.folder.iterdir()
        file.write_text("{")
        self.policies = self.start()
        self.assertIsNotNone(await self.policies("example.com"))
        self.assertEqual(self.fetched, 2)

    async def keep(self, domain: str, age: int) -> Path:
        before = set(self.folder.iterdir()) if self.folder.exists() else set()
        self.text = POLICY.replace("86400", str(age))
        self.announce("1")
        self.assertIsNotNone(await self.policies(domain))
        (path,) = set(self.folder.iterdir()) - before
        return path

    async def test_files_of_policies_that_have_expired_go_and_no_others(self) -> None:
        self.policies.prune()  # no folder yet
        short = await self.keep("short.example", 1000)
        long = await self.keep("long.example", 2_000_000)
        damaged, strange = self.folder / ("d" * 32), self.folder / "notes"
        left, writing = self.folder / ("e" * 32 + ".12"), self.folder / ("f" * 32 + ".13")
        for path in (damaged, strange, left, writing):
            path.write_text("{")
            os.utime(path, (self.now, self.now))
        self.policies.prune()
        self.assertTrue(short.exists())
        self.now += 5000
        os.utime(writing, (self.now, self.now))
        self.policies.prune()
        self.assertEqual(set(self.folder.iterdir()), {long, damaged, strange, writing})
        self.now += MAX_AGE
        self.policies.prune()
        self.assertEqual(set(self.folder.iterdir()), {strange})

    async def test_a_policy_renewed_while_the_expired_one_is_removed_stays(self) -> None:
        path = await self.keep("example.com", 1000)
        self.now += 5000
        other = self.start()
        seen = StsPolicies._expired

        def slow(policies: StsPolicies, path: Path) -> bool:
            """Between the look and the removal another worker fetches it anew."""
            self.patch(StsPolicies, "_expired", seen)
            expired = seen(policies, path)
            other._keep("example.com", Kept("2", self.now, parse_policy(POLICY)))
            return expired

        self.patch(StsPolicies, "_expired", slow)
        self.policies.prune()
        self.assertTrue(path.exists())

    async def test_a_large_folder_is_pruned_slice_by_slice(self) -> None:
        self.patch(mtasts, "SLICE", 2)
        for number in range(5):
            await self.keep(f"d{number}.example", 1000)
        self.now += 5000
        counts = []
        for _ in range(3):
            self.policies.prune()
            counts.append(len(list(self.folder.iterdir())))
        self.assertEqual(counts, [3, 1, 0])

    async def test_all_who_ask_at_once_wait_for_one_fetch(self) -> None:
        self.announce("1")
        gate: Deferred[str] = Deferred()

        async def fetch(domain: str) -> str:
            self.fetched += 1
            return await gate

        self.policies.fetch = fetch
        asked = [Deferred.fromCoroutine(self.policies("example.com")) for _ in range(5)]
        gate.callback(POLICY)
        for each in asked:
            self.assertIsNotNone(await each)
        self.assertEqual(self.fetched, 1)
