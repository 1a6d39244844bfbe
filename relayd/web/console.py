"""The console: from a request to a page, by who asks; and every action with its author."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from relayd.login.roles import Role
from relayd.login.users import Seat
from relayd.mail.ident import parse_ident
from relayd.ops.commands import Operations
from relayd.ops.documents import RequestError
from relayd.web import assets, guard, pages
from relayd.web.api import Api, told
from relayd.web.catalogue import API, find_call
from relayd.web.entrance import Credentials, Entrance
from relayd.web.exchange import HTML, TurnedAwayError, WebAnswer, WebRequest, redirect
from relayd.web.live import Rates, SharedMarkup, Sums
from relayd.web.markup import Markup, link
from relayd.web.operations import carried_out
from relayd.web.parts import Beginning, Parts, missing, parts_of
from relayd.web.rules import RulesScreen
from relayd.web.rulespages import CHECK, RULES
from relayd.web.sessions import COOKIE, Person, Sessions, cookie_field

_MESSAGE = "/message/"
_TOO_OLD = "nothing was done: the page was too old, or not one of ours. Load it again."
DONE_LISTS = {"suspend": "suspended", "resume": "resumed"}
_FOR_GOOD = ("Cache-Control", "max-age=31536000, immutable")  # its name has its hash in it

Entrances = Callable[[str], Entrance]
Seats = Callable[[str], Mapping[str, Seat]]


class Console:
    """One for all places: who logged in at one of them is known at the others of that table."""

    def __init__(
        self,
        commands: Operations,
        api: Api,
        hostname: str,
        entrances: Entrances,
        seats: Seats,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        sums: Sums = dict,
        *,
        edits: bool = False,
    ) -> None:
        """`entrances` and `seats` are by the name of a table of users; `sums`: what is counted.

        `edits`: the screen Rules is on.
        """
        self._edits = edits
        self._rules = RulesScreen(commands)
        self._commands = commands
        self._api = api
        self._hostname = hostname
        self._entrances = entrances
        self._seats = seats
        self._clock = clock
        self._monotonic = monotonic
        self._sessions = Sessions(monotonic)
        self._rates = Rates(sums)
        self._now = SharedMarkup(self._standing)

    async def answer(self, asked: WebRequest) -> WebAnswer:
        """The answer to a request, whatever it is."""
        try:
            guard.check(asked, self._hostname)
            if asked.path.startswith(f"{API}/"):
                return await self._api.answer(asked)
            return await self._page(asked)
        except TurnedAwayError as error:
            if f"{asked.path}/".startswith("/api/"):  # whoever looks for the API reads documents
                return told(error)
            body = pages.refused(error.status, str(error))
            return WebAnswer(error.status, HTML, body, error.fields)

    async def _page(self, asked: WebRequest) -> WebAnswer:
        if asked.path in assets.ASSETS:
            kind, content = assets.ASSETS[asked.path]
            return WebAnswer(HTTPStatus.OK, kind, content, (_FOR_GOOD,))
        post = asked.method == "POST"
        if asked.path == "/login" and asked.place.table:
            return await self._log_in(asked) if post else self._login_form(asked)
        person = self._person(asked)
        if person is None:
            if asked.path == CHECK and post:  # asked by a page while somebody types
                return WebAnswer(HTTPStatus.OK, HTML, b"", (("HX-Redirect", "/login"),))
            if post:
                raise TurnedAwayError(HTTPStatus.FORBIDDEN, _TOO_OLD)
            if asked.path == pages.NOW:  # asked by a page, which is to make room for the login
                return WebAnswer(HTTPStatus.OK, HTML, b"", (("HX-Redirect", "/login"),))
            return redirect("/login")
        if asked.path == pages.NOW and not post:
            live = await self._now.get(self._monotonic())
            return WebAnswer(HTTPStatus.OK, HTML, str(live).encode())
        if not post:
            return await self._shown(asked, person)
        form = asked.form()
        if not self._sessions.fits(form.get("token", ""), person.ticket):
            raise TurnedAwayError(HTTPStatus.FORBIDDEN, _TOO_OLD)
        if asked.path == "/logout" and asked.place.table:
            self._sessions.end(asked.cookie(COOKIE))
            return redirect("/login", cookie_field(""))
        if asked.path == "/act":
            return await self._act(asked, person, form)
        if asked.path == RULES and self._edits:
            return await self._rules.done(self._view(asked, person), form)
        if asked.path == CHECK and self._edits:
            return await self._rules.checked(self._view(asked, person), form)
        raise TurnedAwayError(HTTPStatus.NOT_FOUND, "there is nothing to be done here")

    # who it is

    def _person(self, asked: WebRequest) -> Person | None:
        """Who asks; None: nobody has logged in. What he may do is looked up each time."""
        table = asked.place.table
        if not table:  # whoever may open the socket is the administrator
            return Person(f"console:{asked.user}", Role.ADMIN, asked.user)
        cookie = asked.cookie(COOKIE)
        # a page that asks by itself keeps no session alive: nobody may be before it
        rests = asked.path == pages.NOW
        name = self._sessions.find(cookie, rests=rests) if cookie else ""
        own, _, login = name.partition(" ")
        seat = self._seats(table).get(login) if own == table else None
        if seat is None:
            return None
        return Person(f"console:{login}", seat.role, cookie)

    def _login_form(
        self, asked: WebRequest, why: str = "", status: int = HTTPStatus.OK
    ) -> WebAnswer:
        # another tab, or whatever else a browser asks for, takes no form its token
        ticket = self._sessions.ticket(asked.cookie(COOKIE))
        body = pages.login(self._sessions.form_token(ticket), why)
        return WebAnswer(status, HTML, body, (cookie_field(ticket),))

    async def _log_in(self, asked: WebRequest) -> WebAnswer:
        form, before = asked.form(), asked.cookie(COOKIE)
        if not before or not self._sessions.fits(form.get("token", ""), before):
            raise TurnedAwayError(HTTPStatus.FORBIDDEN, _TOO_OLD)
        said = Credentials(form.get("name", ""), form.get("password", ""), form.get("code", ""))
        table = asked.place.table
        try:
            name = await self._entrances(table).admit(said, asked.client, str(asked.place))
        except TurnedAwayError as error:
            return self._login_form(asked, str(error), error.status)
        self._sessions.end(before)
        # whatever the browser had before, it has another one now
        return redirect("/", cookie_field(self._sessions.begin(f"{table} {name}")))

    # what is shown

    async def _shown(self, asked: WebRequest, person: Person) -> WebAnswer:
        return WebAnswer(HTTPStatus.OK, HTML, await self._screen(self._view(asked, person)))

    def _view(self, asked: WebRequest, person: Person) -> pages.PageView:
        return pages.PageView(
            person,
            self._clock(),
            asked.path,
            asked.fields(),
            self._sessions.form_token(person.ticket),
            bool(asked.place.table),
            self._edits,
        )

    async def _screen(self, view: pages.PageView) -> bytes:
        fields, path = view.fields, view.path
        if path == "/":
            return pages.now(view, await self._now.get(self._monotonic()))
        if path == "/queue":
            wanted = {name: each for name in pages.QUEUE_FIELDS if (each := fields.get(name, ""))}
            found = await self._ask(view, "/queue", **wanted, limit=pages.PER_PAGE)
            rests = await self._ask(view, "/suspended")
            return pages.queue(view, found["messages"], fields, rests["suspended"])
        if path == "/trace":
            return await self._trace(view)
        if path == "/explain":
            return await self._explain(view)
        if path == "/providers":
            figures = await self._ask(view, "/figures")
            pace, blame = await self._ask(view, "/pace"), await self._ask(view, "/blame")
            return pages.providers(view, figures, pace["sites"], blame["origins"])
        if path == RULES and self._edits:
            return await self._rules.shown(view)
        if path == "/health":
            return pages.health(view, await self._ask(view, "/status"), fields)
        if path.startswith(_MESSAGE):
            ident = _ident(path.removeprefix(_MESSAGE))
            story = await self._ask(view, f"/messages/{ident}")
            return pages.message(view, story, fields, await self._parts(view, ident))
        raise TurnedAwayError(HTTPStatus.NOT_FOUND, "there is no such page")

    async def _standing(self) -> Markup:
        """What changes of the screen Now; whoever may log in may see it."""
        now = self._clock()
        self._rates.look(now)
        view = pages.PageView(Person("console", Role.VIEWER, ""), now, pages.NOW, {}, "", False)
        figures, status = await self._ask(view, "/figures"), await self._ask(view, "/status")
        return pages.standing(view, figures, status, self._rates)

    async def _parts(self, view: pages.PageView, ident: str) -> Parts | None:
        """Of a message that waits; None: they are not for him."""
        if view.person.role < Role.ADMIN:
            return None
        beginning = Beginning()
        request: dict[str, object] = {"command": "content", "id": ident}
        try:
            await self._commands.run(request, beginning, view.person.name)
        except RequestError as error:
            return missing(error)
        return parts_of(beginning.octets, beginning.size)

    async def _trace(self, view: pages.PageView) -> bytes:
        fields = view.fields
        wanted = {name: each for name in pages.TRACE_FIELDS if (each := fields.get(name, ""))}
        if not wanted:
            return pages.trace(view, None)
        try:
            found = await self._ask(view, "/find", **wanted, limit=pages.PER_PAGE)
        except TurnedAwayError as error:
            return pages.trace(view, None, str(error))
        return pages.trace(view, found["found"])

    async def _explain(self, view: pages.PageView) -> bytes:
        """A question, so GET: nothing changes by it."""
        fields = view.fields
        wanted = {name: each for name in pages.QUESTION_FIELDS if (each := fields.get(name, ""))}
        if "recipient" not in wanted:
            return pages.explain(view, None)
        call, _ = find_call("POST", "/explain")
        request: dict[str, object] = {**wanted, "command": call.command}
        try:
            answer = await carried_out(self._commands, call, request, view.person.name)
        except TurnedAwayError as error:
            return pages.explain(view, None, str(error))
        return pages.explain(view, answer)

    async def _ask(self, view: pages.PageView, path: str, **fields: object) -> dict[str, Any]:
        call, said = find_call("GET", path)
        request = {**fields, **said, **dict(call.fixed), "command": call.command}
        return await carried_out(self._commands, call, request, view.person.name)

    # what is done

    async def _act(self, asked: WebRequest, person: Person, form: Mapping[str, str]) -> WebAnswer:
        command, back = form.get("command", ""), _back(form.get("back", "/queue"))
        if command not in (*pages.ACTIONS, *pages.SUSPENDING, "reload"):
            raise TurnedAwayError(HTTPStatus.BAD_REQUEST, "there is no such action")
        call, _ = find_call("POST", f"/{command}")
        if person.role < call.role:
            why = f"nothing was done: that is for {call.role}, and you are {person.role}"
            raise TurnedAwayError(HTTPStatus.FORBIDDEN, why)
        request: dict[str, object] = {"command": command}
        if command in pages.SUSPENDING:
            request |= _suspension(form)
        elif command != "reload":
            idents = [_ident(name[3:]) for name in form if name.startswith("id.")]
            if not idents:
                raise TurnedAwayError(HTTPStatus.BAD_REQUEST, "nothing was done: choose messages")
            if command == "remove" and form.get("sure") != "yes":
                body = pages.confirm(self._view(asked, person), command, idents, back)
                return WebAnswer(HTTPStatus.OK, HTML, body)
            request |= {"ids": idents, "note": "at the console" if command == "remove" else ""}
        answer = await carried_out(self._commands, call, request, person.name)
        if answer.get("complaint"):
            raise TurnedAwayError(HTTPStatus.CONFLICT, answer["complaint"])
        joint = "&" if "?" in back else "?"
        count = str(_count(command, answer))
        return redirect(back + joint + link("", done=command, count=count)[1:])


def _suspension(form: Mapping[str, str]) -> dict[str, object]:
    kind, seconds = form.get("kind", ""), form.get("seconds", "0")
    if kind not in pages.SUSPENDED_KINDS or seconds not in ("0", *pages.SUSPENDED_FOR):
        raise TurnedAwayError(HTTPStatus.BAD_REQUEST, "nothing was done: what, and for how long?")
    reason = form.get("reason", "")
    return {kind: form.get("whom", ""), "seconds": int(seconds), "reason": reason}


def _count(command: str, answer: Mapping[str, Any]) -> int:
    """What the action has met: recipients, or suspensions."""
    if command == "reroute":  # of those it looked at, only these
        return sum(answer["changed"].values())
    if command in pages.SUSPENDING:
        return len(answer[DONE_LISTS[command]])
    return int(answer.get("recipients", 0))


def _ident(text: str) -> str:
    try:
        parse_ident(text)
    except ValueError as error:
        raise TurnedAwayError(HTTPStatus.NOT_FOUND, str(error)) from None
    return text


def _back(to: str) -> str:
    """One of our own pages, and never a word of somebody else's as a header field."""
    path, _, query = to.partition("?")
    known = path in pages.SCREENS or path.startswith(_MESSAGE)
    if not known or not guard.is_path(path) or not query.isascii() or not query.isprintable():
        raise TurnedAwayError(HTTPStatus.BAD_REQUEST, "nothing was done: there is no way back")
    return to
