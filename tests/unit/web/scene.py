"""A console over a spool in memory, on a real unix socket and a real TCP port."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from twisted.internet import reactor as the_reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint, connectProtocol
from twisted.internet.interfaces import IConsumer, IListeningPort
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool, readBody
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IBodyProducer
from zope.interface import implementer

from relayd.config.values import ConsolePlace, MetricsPlace
from relayd.login.accounts import FileAccounts
from relayd.login.guesses import Guesses
from relayd.login.roles import Role
from relayd.login.scram import Verifier
from relayd.login.users import Seat, Users
from relayd.mail.client import Client
from relayd.ops.control import listen
from relayd.ops.suspending import SuspendingDesk
from relayd.ops.tokensdesk import TokensDesk
from relayd.relay.suspensions import Suspensions
from relayd.web.api import Api
from relayd.web.console import Console
from relayd.web.entrance import Entrance
from relayd.web.site import SiteFactory
from tests.unit.ops.journal import Journal
from tests.unit.ops.test_control import Fixture

reactor: Any = the_reactor
SECRET = b"12345678901234567890"  # of RFC 6238, appendix B
PASSWORD = "correct horse"
PEOPLE = {
    "viv": Seat(Role.VIEWER),
    "olga": Seat(Role.OPERATOR),
    "ada": Seat(Role.ADMIN),
    "tom": Seat(Role.ADMIN, SECRET),
}
USERS = Users(
    {name: Verifier.of(PASSWORD, iterations=4096) for name in (*PEOPLE, "mailonly")},
    seats=PEOPLE,
)


@implementer(IAgentEndpointFactory)
class _Socket:
    def __init__(self, path: Path) -> None:
        self._path = path

    def endpointForURI(self, uri: object) -> UNIXClientEndpoint:
        return UNIXClientEndpoint(reactor, str(self._path))


class Raw(Protocol):
    """Octets to and fro, without a client's good manners."""

    def __init__(self) -> None:
        self.heard = b""
        self.ended: Deferred[bytes] = Deferred()

    def say(self, octets: bytes) -> None:
        if self.transport is not None:
            self.transport.write(octets)

    def dataReceived(self, data: bytes) -> None:
        self.heard += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ended.callback(self.heard)


class RefusalJournal(Journal):
    """Remembers refusals as well."""

    def __init__(self) -> None:
        super().__init__()
        self.refusals: list[tuple[Client, str, str, str]] = []

    def refused(self, client: Client, command: str, reply: str, why: str = "") -> None:
        self.refusals.append((client, command, reply, why))


class Heard:
    """An answer."""

    def __init__(self, status: int, headers: Headers, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.text = body.decode()

    def field(self, name: str) -> str:
        return ", ".join(self.headers.getRawHeaders(name, []))

    @property
    def cookie(self) -> str:
        return self.field("set-cookie").partition(";")[0]

    @property
    def token(self) -> str:
        """Of a form in it."""
        return self.text.partition('name="token" value="')[2].partition('"')[0]


class Browser:
    """Asks with what a browser would send from a page of ours; keeps its cookie."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self.cookie = ""
        self.token = ""

    async def ask(
        self, path: str, form: dict[str, str] | None = None, method: str = "",
        body: bytes | None = None, kind: str = "application/x-www-form-urlencoded",
        **fields: str,
    ) -> Heard:  # fmt: skip
        """GET, or POST of a form; `fields` of the head, an empty one leaves out what is usual."""
        posts = form is not None or body is not None
        usual = {"cookie": self.cookie}
        if posts:
            usual |= {"origin": "http://localhost", "sec-fetch-site": "same-origin",
                      "content-type": kind}  # fmt: skip
        usual |= {name.replace("_", "-"): value for name, value in fields.items()}
        headers = Headers({name: [value] for name, value in usual.items() if value})
        if form is not None:
            body = urlencode(form).encode()
        response = await self._agent.request(
            (method or ("POST" if posts else "GET")).encode(),
            f"http://localhost{path}".encode(),
            headers,
            None if body is None else _Body(body),
        )
        heard = Heard(response.code, response.headers, await readBody(response))
        if heard.cookie:
            self.cookie = heard.cookie
        self.token = heard.token or self.token
        return heard

    async def log_in(self, name: str, password: str = PASSWORD, code: str = "") -> Heard:
        """By the form."""
        page = await self.ask("/login")
        form = {"token": page.token, "name": name, "password": password, "code": code}
        return await self.ask("/login", form)


@implementer(IBodyProducer)
class _Body:
    def __init__(self, body: bytes) -> None:
        self.length = len(body)
        self._body = body

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self._body)
        done: Deferred[None] = Deferred()
        done.callback(None)
        return done

    def stopProducing(self) -> None:
        pass

    def pauseProducing(self) -> None:
        pass

    def resumeProducing(self) -> None:
        pass


class Scene(Fixture):
    """Two sockets: at one whoever opens it is the administrator, at the other one logs in."""

    def setUp(self) -> None:
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.commands._log = self.log = self.journal = RefusalJournal()
        self.tokens = TokensDesk(self.folder / "api-tokens", self.journal, lambda: 1e9)
        self.commands._suspending = SuspendingDesk(
            Suspensions(self.folder, self.journal, lambda: 1e9), list, lambda: ["exchange"],
            self.journal, lambda: 1e9,
        )  # fmt: skip
        self.moment = 1000.0
        self.wall = 59.0
        self.guesses = Guesses(lambda: self.moment)
        self.seats = dict(PEOPLE)
        self.entrance = self.made_entrance()
        self.console = Console(
            self.commands,
            Api(self.commands, self.tokens.find, self.guesses),
            "gw.example.com",
            lambda table: self.entrance,
            lambda table: self.seats,
            lambda: 1_767_600_600.0,
            lambda: self.moment,
        )
        self.sites: dict[str, SiteFactory] = {}
        for name, table in (("admin", ""), ("people", "people")):
            port = self._open(name, table)
            self.addCleanup(port.stopListening)

    def made_entrance(self, since: float = 0.0) -> Entrance:
        """As a relayd has it that was started then."""

        async def at_once(slow: Callable[[], bool]) -> bool:
            return slow()

        return Entrance(
            FileAccounts(lambda: USERS, at_once), lambda: self.seats, self.guesses,
            self.journal, lambda: self.wall, since,
        )  # fmt: skip

    def _open(self, name: str, table: str) -> IListeningPort:
        path = self.folder / name
        place = ConsolePlace(MetricsPlace(path=path), table)
        self.sites[name] = SiteFactory(self.clock, place, self.console.answer, self.journal)
        return listen(reactor, path, self.sites[name], mode=0o660)

    def browser(self, name: str = "people") -> Browser:
        pool = HTTPConnectionPool(reactor, persistent=False)
        return Browser(Agent.usingEndpointFactory(reactor, _Socket(self.folder / name), pool))

    async def raw(self, name: str = "admin") -> Raw:
        """A connection that says what the test says."""
        endpoint: Any = UNIXClientEndpoint(reactor, str(self.folder / name))
        found: Raw = await connectProtocol(endpoint, Raw())
        return found

    def token_of(self, role: str, name: str = "t", domain: str = "") -> str:
        """A token of the API."""
        made = self.tokens.answer(
            {"action": "make", "name": name, "role": role, "domain": domain}, "uid=0"
        )
        return str(made["token"])
