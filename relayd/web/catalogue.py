"""What can be asked over HTTP: each path, its command, who may, what it takes and answers.

The API goes by this table, its description is made of it, and the pages ask by it. What is not
here nobody asks for over HTTP: tokens and logins are made on the host itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from relayd.login.roles import Role
from relayd.ops import answers
from relayd.web.exchange import TurnedAwayError

API = "/api/1"
MOST = 1000  # recipients or messages in one answer
USUAL = 100  # ... where nobody says how many
TEXT, NUMBER, FLAG, IDENTS = "string", "number", "boolean", "array"  # as JSON Schema has them


@dataclass(frozen=True, slots=True)
class Parameter:
    """One field of a request."""

    name: str
    kind: str = TEXT
    about: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """One thing that can be asked."""

    method: str
    path: str  # below API; {id} stands for a message's ID
    command: str
    role: Role
    answer: type
    about: str
    parameters: tuple[Parameter, ...] = ()
    many: str = ""  # the answer is an object with this one field, a list of `answer`
    fixed: tuple[tuple[str, str], ...] = ()  # what the command is told besides

    @property
    def name(self) -> str:
        """Its operationId."""
        return self.path[1:].replace("/{id}", "_by_id").replace("/", "_")


LIMIT = Parameter("limit", NUMBER, f"at most so many; {USUAL}, and at most {MOST}")
FILTER = (
    Parameter("sender", TEXT, "a mailbox, part of one, or <>"),
    Parameter("recipient", TEXT, "a mailbox, or part of one"),
    Parameter("destination", TEXT, "a next hop's name, or a domain sent to directly"),
    Parameter("state", TEXT, "queued or held"),
    Parameter("older_than", NUMBER, "seconds"),
)
CHOSEN = (
    Parameter("ids", IDENTS, "of messages"),
    *FILTER,
    Parameter("all", FLAG, "all that waits: said where nothing else is"),
    Parameter("note", TEXT, "why, for whoever looks at it"),
)
FIND = (
    *(Parameter(name) for name in ("sender", "recipient", "message_id", "envid", "client")),
    *(Parameter(name) for name in ("login", "subject", "state")),
    Parameter("since", NUMBER, "seconds since the epoch"),
    Parameter("until", NUMBER, "seconds since the epoch"),
    LIMIT,
)
WHOM = tuple(Parameter(name) for name in ("destination", "provider", "sender", "login"))
FILE = Parameter("file", TEXT, "one of those with rules, as `rules` lists them")
DRAFT = (FILE, Parameter("text", TEXT, "the whole file"))
VERSION = Parameter("version", TEXT, "of the text that is replaced")
KEPT = Parameter("kept", TEXT, "the id of a kept version")
QUESTION = (
    *(Parameter(name) for name in ("recipient", "from", "sender", "header", "helo", "login")),
    Parameter("listener"),
    Parameter("size", NUMBER, "octets"),
)


def _get(
    path: str, command: str, answer: type, about: str, parameters: tuple[Parameter, ...] = (),
    many: str = "", fixed: tuple[tuple[str, str], ...] = (),
) -> Call:  # fmt: skip
    return Call("GET", path, command, Role.VIEWER, answer, about, parameters, many, fixed)


def _post(
    path: str, role: Role, answer: type, about: str, parameters: tuple[Parameter, ...] = ()
) -> Call:
    return Call("POST", path, path[1:], role, answer, about, parameters)


def _rules(
    method: str, path: str, action: str, answer: type, about: str, *parameters: Parameter
) -> Call:
    fixed = (("action", action),)
    return Call(method, path, "rules", Role.ADMIN, answer, about, parameters, "", fixed)


CALLS = (
    _get("/status", "status", answers.StatusAnswer, "how relayd is, and what waits where"),
    _get("/figures", "figures", answers.FiguresAnswer, "what is known without counting"),
    _get("/queue", "queue", answers.QueuedAnswer, "what waits", (*FILTER, LIMIT), "messages"),
    _get("/find", "find", answers.FoundAnswer, "mail that waits or is finished, newest first",
         FIND, "found"),
    _get("/messages/{id}", "show", answers.StoryAnswer, "all that is known of one message"),
    _get("/pace", "pace", answers.PaceAnswer, "where mail does not go as it comes"),
    _get("/blame", "blame", answers.BlameAnswer, "whose mail is refused for what it is"),
    _get("/filters", "filters", answers.FiltersAnswer, "who is asked about mail"),
    _get("/limits", "limits", answers.LimitsAnswer, "who is near a limit",
         (Parameter("name", TEXT, "of one limit"),)),
    _get("/tables", "table", answers.TablesAnswer, "tables that directories are read into"),
    _get("/suspended", "suspended", answers.SuspendedAnswer, "what was told to wait"),
    # it takes its time, and shows lines of the files
    Call("GET", "/check", "check", Role.ADMIN, answers.ComplaintAnswer,
         "whether what is on disk is good"),
    _post("/explain", Role.VIEWER, answers.ExplainAnswer,
          "what the rules do with a recipient; nothing changes", QUESTION),
    _post("/retry", Role.OPERATOR, answers.ChangedAnswer, "make recipients due now", CHOSEN),
    _post("/hold", Role.OPERATOR, answers.ChangedAnswer, "keep recipients", CHOSEN),
    _post("/release", Role.OPERATOR, answers.ChangedAnswer, "let held ones go", CHOSEN),
    _post("/remove", Role.OPERATOR, answers.ChangedAnswer, "end recipients; nobody is told",
          CHOSEN),
    _post("/reroute", Role.OPERATOR, answers.ReroutedAnswer,
          "send what waits the way that the rules of now say",
          (*CHOSEN[:-1], Parameter("dry_run", FLAG), Parameter("route_only", FLAG))),
    _post("/suspend", Role.OPERATOR, answers.SuspendedAnswer, "tell some of the mail to wait",
          (*WHOM, Parameter("seconds", NUMBER), Parameter("reason"))),
    _post("/resume", Role.OPERATOR, answers.ResumedAnswer, "let it go on",
          (*WHOM, Parameter("all", FLAG))),
    _rules("GET", "/rules", "list", answers.RulesFilesAnswer, "the files with the rules"),
    _rules("GET", "/rules/text", "show", answers.RulesTextAnswer,
           "what is in one of them, and what was", FILE, KEPT),
    _rules("POST", "/rules/check", "check", answers.RulesCheckAnswer,
           "whether all would be good if a file were this", *DRAFT),
    _rules("POST", "/rules/replay", "replay", answers.RulesReplayAnswer,
           "what it would make of the mail of the last days", *DRAFT,
           Parameter("since", NUMBER, "seconds that are looked back; a day")),
    _rules("POST", "/rules/activate", "activate", answers.RulesActivatedAnswer,
           "write it, and put it in force", *DRAFT, VERSION),
    _rules("POST", "/rules/back", "back", answers.RulesActivatedAnswer,
           "put a version before in force again; the last one where none is said",
           FILE, VERSION, KEPT),
    _post("/reload", Role.ADMIN, answers.ComplaintAnswer, "put what is on disk in force"),
)  # fmt: skip

_VARIABLE = re.compile(r"\{id\}")


def find_call(method: str, path: str) -> tuple[Call, dict[str, object]]:
    """The call for a path below API, and what the path says; raises TurnedAwayError."""
    allowed = []
    for call in CALLS:
        pattern = _VARIABLE.sub("([A-Za-z0-9_-]{1,64})", call.path)
        match = re.fullmatch(pattern, path)
        if match is None:
            continue
        if call.method == method or (call.method, method) == ("GET", "HEAD"):
            return call, {"id": match[1]} if match.groups() else {}
        allowed.append(call.method)
    if allowed:
        why = f"{path} is for {', '.join(allowed)}"
        raise TurnedAwayError(HTTPStatus.METHOD_NOT_ALLOWED, why, [("Allow", ", ".join(allowed))])
    raise TurnedAwayError(HTTPStatus.NOT_FOUND, f"there is no {API}{path}")


def request_of(call: Call, said: Mapping[str, Any]) -> dict[str, object]:
    """What the command is asked; only what the call knows. Raises TurnedAwayError."""
    known = {each.name: each for each in call.parameters}
    request: dict[str, object] = {}
    for name, value in said.items():
        if name not in known:
            raise TurnedAwayError(HTTPStatus.BAD_REQUEST, f"{call.path} knows no {name!r}")
        if not _is(known[name].kind, value):
            raise TurnedAwayError(HTTPStatus.BAD_REQUEST, f"{name}: {known[name].kind} expected")
        request[name] = value
    if LIMIT in call.parameters:
        limit = request.get("limit", USUAL)
        assert isinstance(limit, int | float)
        if not 1 <= limit <= MOST:
            raise TurnedAwayError(HTTPStatus.BAD_REQUEST, f"limit: from 1 to {MOST} expected")
        request["limit"] = int(limit)
    return {**request, **dict(call.fixed), "command": call.command}


def from_query(call: Call, said: Mapping[str, str]) -> dict[str, Any]:
    """The values of a query, of which each is text; raises TurnedAwayError."""
    kinds = {each.name: each.kind for each in call.parameters}
    return {
        name: _number(name, text) if kinds.get(name) == NUMBER else text
        for name, text in said.items()
        if text
    }


def _number(name: str, text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = float("nan")
    if not abs(found) < 1e15:  # nan is not, either
        raise TurnedAwayError(HTTPStatus.BAD_REQUEST, f"{name}: number expected")
    return found


def _is(kind: str, value: object) -> bool:
    if kind == NUMBER:
        right = isinstance(value, int | float) and not isinstance(value, bool)
        return right and abs(float(str(value))) < 1e15
    if kind == IDENTS:
        return (
            isinstance(value, list)
            and len(value) <= MOST
            and all(isinstance(each, str) for each in value)
        )
    return isinstance(value, bool if kind == FLAG else str)
