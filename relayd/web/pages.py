"""The console's pages, rendered here and whole without scripts: Now, Queue, Trace, Health."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from relayd.login.roles import Role
from relayd.ops.text import coarse, many, moment, octets
from relayd.web import assets
from relayd.web.live import EVERY, KINDS, Rates
from relayd.web.markup import Markup, element, link, page, pairs, preformatted, table
from relayd.web.parts import Parts, ShownPart
from relayd.web.sessions import Person

NOW = "/now"  # what changes of the screen Now
SCREENS = {
    "/": "Now",
    "/queue": "Queue",
    "/trace": "Trace",
    "/explain": "Explain",
    "/rules": "Rules",
    "/providers": "Providers",
    "/health": "Health",
}
ACTIONS = {
    "retry": "Retry now",
    "hold": "Hold",
    "release": "Release",
    "reroute": "Reroute",
    "remove": "Remove",
}
DONE = {
    "retry": "due now",
    "hold": "held",
    "release": "released",
    "reroute": "sent another way",
    "remove": "removed",
    "suspend": "suspended",
    "resume": "resumed",
}
SUSPENDING = ("suspend", "resume")
SUSPENDED_KINDS = ("destination", "provider", "sender", "login")
SUSPENDED_FOR = {"900": "15 minutes", "3600": "an hour", "14400": "4 hours", "86400": "a day"}
STATES = ("", "queued", "held")
FOUND_STATES = (*STATES, "waiting", "delivered", "bounced", "discarded", "removed")
PER_PAGE = 50

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PageView:
    """What every page is told: for whom it is, when it is, and which one of ours it is."""

    person: Person
    now: float
    path: str
    fields: Mapping[str, str]
    token: str  # for its forms
    logs_in: bool  # there is a way out, too
    edits: bool = False  # the screen Rules is on

    def form(self, path: str, *parts: object, **attributes: str | bool) -> Markup:
        """A form that does something."""
        hidden = element("input", type="hidden", name="token", value=self.token)
        return element("form", hidden, *parts, method="post", action=path, **attributes)

    def age(self, at: float) -> str:
        """How long ago that was."""
        return coarse(max(self.now - at, 0.0)) if at else ""


def framed(view: PageView, title: str, *parts: object, scripts: Iterable[str] = ()) -> bytes:
    """A page of the console."""
    rules = view.edits and view.person.role >= Role.ADMIN
    screens = [
        element("li", _screen(path, name, view.path))
        for path, name in SCREENS.items()
        if rules or path != "/rules"
    ]
    name = view.person.name.removeprefix("console:")  # that is for the log
    who: object = element("span", f"{name} ({view.person.role})")
    if view.logs_in:
        who = view.form("/logout", who, " ", element("button", "Log out"))
    return page(
        f"{title} - relayd",
        assets.STYLE,
        assets.ICON,
        element("a", "Skip to the content", href="#content", class_="skip"),
        element("header", element("nav", element("ul", screens), aria_label="Screens"), who),
        element("main", element("h1", title), *parts, id="content", tabindex="-1"),
        scripts=scripts,
    )


def _screen(path: str, name: str, here: str) -> Markup:
    if path == here:
        return element("a", name, href=path, aria_current="page")
    return element("a", name, href=path)


def bare(title: str, *parts: object) -> bytes:
    """A page for who has not logged in."""
    return page(
        f"{title} - relayd",
        assets.STYLE,
        assets.ICON,
        element("main", element("h1", title), *parts),
    )


def refused(status: int, why: str) -> bytes:
    """Why there is no page, or why nothing was done."""
    title = "Not found" if status == HTTPStatus.NOT_FOUND else "Not done"
    return bare(title, preformatted(why), element("p", element("a", "Now", href="/")))


def login(token: str, why: str = "") -> bytes:
    """Where one logs in."""
    return bare(
        "Log in",
        element("p", why, class_="bad", role="alert") if why else None,
        element(
            "form",
            element("input", type="hidden", name="token", value=token),
            _field("name", "Login", autocomplete="username", required=True),
            _field("password", "Password", type="password", autocomplete="current-password"),
            _field("code", "One-time code, if you have one", autocomplete="one-time-code",
                   inputmode="numeric"),
            element("button", "Log in"),
            method="post", action="/login", class_="filter",
        ),
    )  # fmt: skip


def now(view: PageView, live: Markup) -> bytes:
    """How it is at this moment; `live` is what `standing` has made."""
    return framed(
        view,
        "Now",
        element(
            "figure",
            element("div", id="plot"),
            element("figcaption", [
                element("span", f"{kind.capitalize()} ", class_=kind) for kind in KINDS
            ], "per second"),
            hidden=True,
        ),
        element("div", live, id="now", hx_get=NOW, hx_trigger=f"every {EVERY:.0f}s"),
        scripts=(assets.HTMX, assets.LIVE),
    )  # fmt: skip


def standing(view: PageView, figures: Document, status: Document, rates: Rates) -> Markup:
    """What changes of it, the same for all who may look."""
    waiting = status["waiting"]
    return Markup(
        _health(figures, status),
        element("p", f"As of {moment(view.now)}", class_="faint"),
        _rates(rates),
        pairs(
            (
                ("Waiting", f"{many(waiting['messages'], 'message')}, {octets(waiting['octets'])}"),
                ("Recipients", f"{waiting['queued']:,} queued, {waiting['held']:,} held"),
                ("Sessions", f"{figures['sessions']:,}"),
                ("Deliveries", f"{figures['deliveries']:,}"),
            )
        ),
        table(
            "Destinations",
            ("Destination", "Standing", "Waiting", "Oldest", "Trouble"),
            (
                (
                    element("a", lane["destination"], id=f"to-{number}",
                            href=link("/queue", destination=lane["destination"])),
                    lane["standing"],
                    f"{lane['waiting']:,}",
                    # what is held has an age, too, but does not wait here
                    view.age(lane.get("oldest", 0.0)) if lane["waiting"] else "",
                    lane.get("trouble", ""),
                )
                for number, lane in enumerate(status["destinations"])
            ),
            "Nothing waits.",
        ),
        _providers(view, figures),
        _suspended(view, status),
    )  # fmt: skip


def _rates(rates: Rates) -> Markup:
    said = json.dumps(rates.series(), separators=(",", ":"))
    soon, long, total = rates.mean(60.0), rates.mean(600.0), rates.total()

    def per_second(means: tuple[float, ...], number: int) -> str:
        return f"{means[number]:,.2f}/s" if means else "not known yet"

    return Markup(
        element("div", id="series", data_rates=said, hidden=True),
        table(
            "Rates",
            ("What", "Last minute", "Ten minutes", "Since the start"),
            (
                (kind.capitalize(), per_second(soon, number), per_second(long, number),
                 f"{total[number]:,.0f}")
                for number, kind in enumerate(KINDS)
            ) if total else (),
            "Nothing is counted.",
        ),
    )  # fmt: skip


def _health(figures: Document, status: Document) -> Markup:
    bad = [*_troubles(figures["healthy"], status)]
    if not bad:
        return element("p", "All is well.", class_="good")
    return element("ul", [element("li", each, class_="bad") for each in bad])


def _troubles(healthy: bool, status: Document) -> Iterator[str]:
    if not healthy:
        yield "The spool cannot record: no mail is taken."
    if status.get("refused"):
        yield "The configuration on disk was refused: see Health."
    for each in status.get("not_listening", ()):
        yield f"Not listening: {each}"
    for each in status.get("set_up", ()):
        yield f"{each['destination']} is not set up: {each['trouble']}"
    for each in status.get("sites", ()):
        yield f"{each['site']}: {each['trouble']}"
    for each in status.get("lost_addresses", ()):
        yield f"The address {each['address']} of source {each['source']} is gone."
    for each in status.get("full", ()):
        yield f"A limit is reached: {each}"


def providers(
    view: PageView, figures: Document, sites: Iterable[Document], origins: Iterable[Document]
) -> bytes:
    """Where mail does not go as it comes, and whose mail is complained about."""
    return framed(
        view,
        "Providers",
        _providers(view, figures),
        table(
            "Hosts and their pace",
            ("Where", "Provider", "A minute", "Connections", "On the way", "Taken", "Refused",
             "Waits until", "Blocked until", "What it said"),
            (
                (
                    each["site"],
                    each["provider"],
                    f"{each['rate']:,.1f}{' (pinned)' if each['pinned'] else ''}"
                    if each["rate"] else "as it comes",
                    str(each["connections"] or "any"),
                    f"{each['in_flight']:,}",
                    f"{each['taken']:,}",
                    f"{each['refused']:,}",
                    moment(each["resume_at"]) if each["resume_at"] else "",
                    moment(each["blocked_until"]) if each["blocked_until"] else "",
                    each["trouble"],
                )
                for each in sites
            ),
            "Mail goes everywhere as it comes.",
        ),
        table(
            "Whose mail is refused for what it is",
            ("Who", "Messages", "Complaints", "Share", "A minute", "The last one"),
            (
                (
                    each["origin"],
                    f"{each['messages']:,.0f}",
                    f"{each['complaints']:,.0f}",
                    f"{each['share']:.1%}",
                    f"{each['rate']:,.1f}" if each["rate"] else "as it comes",
                    each["last"],
                )
                for each in origins
            ),
            "Nobody's.",
        ),
    )  # fmt: skip


def _providers(view: PageView, figures: Document) -> Markup:
    return table(
        "Providers",
        ("Provider", "Oldest", "Rate", "State"),
        (
            (
                name,
                view.age(each["oldest"]),
                f"{each['rate']:.2f}/s" if each["rate"] else "as it comes",
                "blocked" if each["blocked"] else "slowed" if each["slowed"] else "open",
            )
            for name, each in sorted(figures["providers"].items())
        ),
        "Nothing to tell of any.",
    )


def _suspended(view: PageView, status: Document) -> Markup:
    return table(
        "Suspended",
        ("What", "Whom", "Until", "Why", "By"),
        (
            (each["kind"], each["whom"], moment(each["until"]), each["reason"], each["by"])
            for each in status.get("suspended", ())
        ),
        "Nothing is suspended.",
    )


def queue(
    view: PageView,
    messages: list[dict[str, Any]],
    said: Document,
    suspended: Iterable[Document] = (),
) -> bytes:
    """What waits, and what can be done about it."""
    may = view.person.role >= Role.OPERATOR
    here = link("/queue", **{name: view.fields.get(name, "") for name in QUEUE_FIELDS})
    rows = [
        (
            _chosen(message["id"]) if may and not number else "",
            element("a", message["id"], href=f"/message/{message['id']}"),
            view.age(message["received_at"]),
            octets(message["size"]),
            each["state"],
            f"<{message['sender']}>",
            f"<{each['mailbox']}>",
            each["destination"],
            each["last_reply"],
        )
        for message in messages
        for number, each in enumerate(message["recipients"])
    ]
    listing = table(
        f"The first {len(messages)} messages" if len(messages) == PER_PAGE else "Messages",
        ("Choose", "ID", "Age", "Size", "State", "Sender", "Recipient", "Queue", "Last reply"),
        rows,
        "Nothing waits that fits.",
    )
    buttons = [
        element("button", label, name="command", value=name) for name, label in ACTIONS.items()
    ]
    back = element("input", type="hidden", name="back", value=here)
    return framed(
        view,
        "Queue",
        _said(said),
        element(
            "form",
            _field("sender", "Sender", value=view.fields.get("sender", "")),
            _field("recipient", "Recipient", value=view.fields.get("recipient", "")),
            _field("destination", "Queue", value=view.fields.get("destination", "")),
            _choice("state", "State", STATES, view.fields.get("state", "")),
            element("button", "Show"),
            method="get", action="/queue", class_="filter", role="search",
        ),
        view.form("/act", listing, back, element("p", *_spaced(buttons)))
        if may and rows else listing,
        _suspending(view, suspended, here),
    )  # fmt: skip


def _suspending(view: PageView, suspended: Iterable[Document], here: str) -> object:
    """What was told to wait, and what can be told to."""
    may = view.person.role >= Role.OPERATOR
    back = element("input", type="hidden", name="back", value=here)
    rows = [
        (
            each["kind"],
            each["whom"],
            moment(each["until"]),
            each["reason"],
            each["by"],
            view.form(
                "/act",
                element("input", type="hidden", name="kind", value=each["kind"]),
                element("input", type="hidden", name="whom", value=each["whom"]),
                back,
                element(
                    "button", "Resume", name="command", value="resume",
                    aria_label=f"Resume {each['kind']} {each['whom']}",
                ),
            ) if may else "",
        )
        for each in suspended
    ]  # fmt: skip
    columns = ("What", "Whom", "Until", "Why", "By", "End it")
    listing = table("Suspended", columns, rows, "Nothing is suspended.")
    if not may:
        return listing
    times = [element("option", said, value=each) for each, said in SUSPENDED_FOR.items()]
    kinds = [element("option", each, value=each) for each in SUSPENDED_KINDS]
    form = view.form(
        "/act",
        back,
        element("label", "What", element("select", kinds, name="kind")),
        _field("whom", "Whom", required=True),
        element("label", "For", element("select", times, name="seconds")),
        _field("reason", "Why"),
        element("button", "Suspend", name="command", value="suspend"),
        class_="filter",
    )
    return [listing, form]


QUEUE_FIELDS = ("sender", "recipient", "destination", "state")
TRACE_FIELDS = (
    *("sender", "recipient", "message_id", "envid", "client", "login", "subject", "state"),
)
_LABELS = {
    "message_id": "Message-ID",
    "envid": "ENVID",
    "client": "Client's address",
    "from": "Client's address",
    "helo": "HELO",
}
QUESTION_FIELDS = ("recipient", "sender", "from", "helo", "login", "listener")


def _chosen(ident: str) -> Markup:
    return element(
        "input", type="checkbox", name=f"id.{ident}", value="yes", aria_label=f"Choose {ident}"
    )


def _said(said: Document) -> Markup | None:
    """What the action before has done: words of ours and a number, whoever made the link."""
    command, count = said.get("done", ""), said.get("count", "")
    if command not in DONE or not count.isdecimal() or len(count) > 12:
        return None
    thing = "suspension" if command in SUSPENDING else "recipient"
    noun = thing if int(count) == 1 else f"{thing}s"
    words = f"{int(count):,} {noun} {DONE[command]}"
    return element("p", words, class_="good", role="status")


def confirm(view: PageView, command: str, idents: list[str], back: str) -> bytes:
    """What cannot be taken back is asked for once more."""
    hidden = [element("input", type="hidden", name=f"id.{ident}", value="yes") for ident in idents]
    noun = "message" if len(idents) == 1 else "messages"
    return framed(
        view,
        f"Remove {len(idents)} {noun}?",
        element("p", "Their recipients get nothing, and nobody is told."),
        element("ul", [element("li", ident) for ident in idents]),
        view.form(
            "/act",
            hidden,
            element("input", type="hidden", name="command", value=command),
            element("input", type="hidden", name="back", value=back),
            element("input", type="hidden", name="sure", value="yes"),
            element("button", "Remove"),
            " ",
            element("a", "No", href=back),
        ),
    )


def trace(view: PageView, found: list[dict[str, Any]] | None, why: str = "") -> bytes:
    """Looks for mail, waiting or finished; None: nobody has asked yet."""
    asked = view.fields.get
    form = element(
        "form",
        [
            _field(name, _LABELS.get(name, name.capitalize()), value=asked(name, ""))
            for name in TRACE_FIELDS[:-1]
        ],
        _choice("state", "State", FOUND_STATES, asked("state", "")),
        element("button", "Find"),
        method="get", action="/trace", class_="filter", role="search",
    )  # fmt: skip
    listing = None if found is None else table(
        "Found, the newest first",
        ("ID", "Age", "Sender", "Recipient", "Subject", "State", "Reply"),
        (
            (
                element("a", each["id"], href=f"/message/{each['id']}"),
                view.age(each["received_at"]),
                f"<{each['sender']}>",
                f"<{each['recipient']}>",
                each["subject"],
                each["state"],
                each["reply"],
            )
            for each in found
        ),
        "Nothing is found.",
    )  # fmt: skip
    complaint = element("p", why, class_="bad", role="alert") if why else None
    return framed(view, "Trace", form, complaint, listing)


def explain(view: PageView, answer: Document | None, why: str = "") -> bytes:
    """What the rules would do with a recipient; None: nobody has asked yet."""
    form = element(
        "form",
        [
            _field(name, _LABELS.get(name, name.capitalize()), value=view.fields.get(name, ""))
            for name in QUESTION_FIELDS
        ],
        element("button", "Explain"),
        method="get", action="/explain", class_="filter", role="search",
    )  # fmt: skip
    complaint = element("p", why, class_="bad", role="alert") if why else None
    if answer is None:
        return framed(view, "Explain", form, complaint)
    where = [*answer["destinations"], *answer["copies"]]
    good = "good" if answer["verdict"] == "accept" else "bad"
    return framed(
        view,
        "Explain",
        form,
        element("p", f"{answer['verdict']} {answer['reply']}", class_=good, role="status"),
        table(
            "Where it goes",
            ("Mailbox", "Next hop", "Hosts", "Reverse-path", "Signed by"),
            (
                (
                    f"<{each['mailbox']}>",
                    each["next_hop"],
                    ", ".join(each["hosts"]),
                    f"<{each['reverse_path']}>",
                    ", ".join(each["signed_by"]),
                )
                for each in where
            ),
            "Nowhere.",
        ),
        _steps("What the rules say", answer["trail"]),
        table(
            "What they look at",
            ("Fact", "Value", "From"),
            ((each["fact"], each["value"], each["source"]) for each in answer["facts"]),
            "Nothing else.",
        ),
    )


def _steps(caption: str, trail: Iterable[Document]) -> Markup:
    return table(
        caption,
        ("Stage", "Place", "Rule", "Note"),
        ((each["stage"], each["place"], each["rule"], each["note"]) for each in trail),
        "Nothing is known of it.",
    )


def message(view: PageView, story: Document, said: Document, parts: Parts | None = None) -> bytes:
    """The whole story of one; `parts` for who may read it."""
    client, received = story["client"], story["received_at"]
    waits = any(each["state"] in ("queued", "held") for each in story["recipients"])
    return framed(
        view,
        f"Message {story['id']}",
        _said(said),
        pairs(
            (
                ("Received", f"{moment(received)}, {view.age(received)} ago"),
                ("Sender", f"<{story['sender']}>"),
                ("Subject", story["subject"]),
                ("Message-ID", story["message_id"]),
                ("Size", octets(story["size"])),
                ("Client", ", ".join(f"{name} {each}" for name, each in client.items())),
                *((name.upper(), str(each)) for name, each in story["parameters"].items()),
            )
        ),
        table(
            "Recipients",
            ("Recipient", "Was", "Next hop", "State", "Tries", "Next or end", "Reply", "Of"),
            (
                (
                    f"<{each['mailbox']}>",
                    each["original"],
                    each["next_hop"],
                    each["state"],
                    str(each["attempts"]),
                    moment(each.get("ended_at") or each.get("next_attempt") or 0.0)
                    if each.get("ended_at") or each.get("next_attempt") else "",
                    each["reply"] or each["why"],
                    f"{each['remote_mta']} {each['remote_address']}",
                )
                for each in story["recipients"]
            ),
        ),
        _way(view, story),
        _steps("What the rules said", story.get("trail", ())),
        _content(parts, waits) if parts is not None else None,
        view.form(
            "/act",
            element("input", type="hidden", name=f"id.{story['id']}", value="yes"),
            element("input", type="hidden", name="back", value=f"/message/{story['id']}"),
            element("p", *_spaced([
                element("button", label, name="command", value=name)
                for name, label in ACTIONS.items()
            ])),
        ) if waits and view.person.role >= Role.OPERATOR else None,
    )  # fmt: skip


def _way(view: PageView, story: Document) -> Markup:
    """What happened and will happen to it, in its order."""
    client = story["client"]
    whence = client.get("helo", "") or client.get("address", "")
    steps = [(story["received_at"], f"received from {whence}" if whence else "received", "")]
    for each in story["recipients"]:
        whom = f"<{each['mailbox']}>"
        ended, due = each.get("ended_at") or 0.0, each.get("next_attempt") or 0.0
        at_whom = f" at {each['remote_mta']}" if each["remote_mta"] else ""
        tries = f", tried {each['attempts']} times" if each["attempts"] > 1 else ""
        if ended:
            steps.append((ended, f"{whom}: {each['state']}{at_whom}{tries}", each["reply"]))
        elif each["state"] == "held":
            steps.append((view.now, f"{whom}: still held{tries}", each["why"] or each["reply"]))
        elif due:
            steps.append((due, f"{whom}: to be tried{tries}", each["reply"]))
    steps.sort(key=lambda step: step[0])
    items = [
        element("li", moment(at), " ", element("strong", what), f": {why}" if why else "")
        for at, what, why in steps
    ]
    return Markup(element("h2", "Its way"), element("ol", items, class_="way"))


def _content(parts: Parts, waits: bool) -> Markup:
    if parts.why and not parts.header:
        why = parts.why if waits else "Nothing of it waits any more, and its content went with it."
        return Markup(element("h2", "Parts"), element("p", why))
    return Markup(
        table(
            "Parts",
            ("Type", "Name", "Size"),
            ((" - " * each.depth + each.kind, each.name,
              "" if each.kind.startswith("multipart/") else octets(each.size))
             for each in parts.parts),
            parts.why,
        ),
        None if parts.whole else element("p", "It is long: only its beginning was looked at."),
        element("h2", "Header"),
        preformatted(parts.header),
        [_text(each) for each in parts.parts if each.text],
    )  # fmt: skip


def _text(part: ShownPart) -> Markup:
    name = f"{part.name} ({part.kind})" if part.name else part.kind
    more = element("p", "There is more of it.") if part.cut else None
    return Markup(element("h2", name), preformatted(part.text), more)


def health(view: PageView, status: Document, said: Document) -> bytes:
    """The configuration, the certificates, the shards, the tables."""
    refused_ = status.get("refused")
    reload = None
    if view.person.role >= Role.ADMIN:
        reload = view.form(
            "/act",
            element("input", type="hidden", name="back", value="/health"),
            element("button", "Put what is on disk in force", name="command", value="reload"),
        )
    return framed(
        view,
        "Health",
        element("p", "The configuration is in force.", class_="good", role="status")
        if said.get("done") == "reload" else None,
        pairs(
            (
                ("Host", status["hostname"]),
                ("relayd", f"{status.get('version', '')}, pid {status['pid']}"),
                ("Configuration", status.get("config", "")),
                ("In force since", _moment(status.get("in_force_since", 0.0))),
                ("Rules", status.get("rules", "")),
                ("Workers", str(status.get("workers", 1))),
                ("Waits for a restart", ", ".join(status.get("restart", ())) or "nothing"),
            )
        ),
        element("h2", "Refused on disk") if refused_ else None,
        preformatted(refused_["why"]) if refused_ else None,
        reload,
        element("ul", [element("li", each) for each in status["warnings"]])
        if status.get("warnings") else None,
        table(
            "Certificates",
            ("File", "Until", "Trouble"),
            ((each["file"], _moment(each["until"]), each["trouble"])
             for each in status.get("certificates", ())),
            "There are none.",
        ),
        table(
            "Shards of the spool",
            ("Shard", "Can record", "Sessions", "Deliveries"),
            ((str(each["shard"]), "yes" if each["healthy"] else "no",
              str(each.get("sessions", "")), str(each.get("deliveries", "")))
             for each in status["shards"]),
        ),
        table(
            "Tables of directories",
            ("Table", "Entries", "Confirmed", "Trouble"),
            ((each["name"], str(each["entries"]), _moment(each["confirmed"] or 0.0),
              each["trouble"] or each["asks"]) for each in status.get("tables", ())),
            "There are none.",
        ),
        table(
            "Directories that are asked",
            ("Table", "Remembered", "Trouble"),
            ((each["name"], str(each["remembered"]), each["trouble"])
             for each in status.get("live_tables", ())),
            "There are none.",
        ),
    )  # fmt: skip


def _moment(at: float) -> str:
    return moment(at) if at else "not known"


def _field(name: str, label: str, **attributes: str | bool) -> Markup:
    return element("label", label, element("input", name=name, **attributes))


def _choice(name: str, label: str, choices: tuple[str, ...], chosen: str) -> Markup:
    options = [
        element("option", each or "any", value=each, selected=each == chosen) for each in choices
    ]
    return element("label", label, element("select", options, name=name))


def _spaced(parts: list[Markup]) -> list[object]:
    return [each for part in parts for each in (part, " ")]
