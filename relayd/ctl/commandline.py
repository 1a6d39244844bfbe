"""The command line of relayctl: its commands, their options, and a line about each."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

from relayd import __version__
from relayd.ctl import dkim, spoolcommand, terminal, tlsreport
from relayd.login.roles import NO_ROLE, ROLES, Role
from relayd.ops.training import FIELD, WORDS

Run = Callable[[argparse.Namespace], int]

_DURATION = re.compile(r"(\d+)([smhdw]?)")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def span(written: str) -> int:
    """Seconds of a time span such as `90`, `30m`, `1h30m`, `5d`."""
    parts = _DURATION.findall(written)
    if not parts or "".join(number + unit for number, unit in parts) != written:
        raise argparse.ArgumentTypeError(f"{written!r} is no time span (like 90s, 30m, 1h30m, 5d)")
    return sum(int(number) * _UNITS[unit] for number, unit in parts)


def long_span(written: str) -> int:
    """The same, with its unit: whoever says 2 means hours, or days, and not seconds."""
    if written.isdigit():
        raise argparse.ArgumentTypeError(f"{written!r} has no unit: {written}m, {written}h, ...")
    return span(written)


def moment(written: str) -> float:
    """Seconds since the epoch: of a time so long ago, or of a date with or without a time."""
    try:
        return datetime.fromisoformat(written).timestamp()
    except ValueError:
        pass
    try:
        return time.time() - span(written)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{written!r} is no time (2h for two hours ago, 2026-03-01, 2026-03-01T14:30)"
        ) from None


def parser(run: Mapping[str, Run]) -> argparse.ArgumentParser:
    """All that may be said on the command line; `run`: what carries out the command of a name."""
    top = _Grouped(
        prog="relayctl", description="See and steer a running relayd.", parents=[_everywhere()]
    )
    top.set_defaults(config=None, socket=None, json=False, color="auto", no_pager=False)
    top.add_argument("--version", action="version", version=f"relayd {__version__}")
    commands = top.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=argparse.ArgumentParser
    )

    def command(name: str, about: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=about, description=about, parents=[_everywhere()])
        added.set_defaults(run=run[name])
        return added

    command("status", "how the daemon is, and what waits where")
    looking = command("top", "the same, live on the terminal, with rates")
    looking.add_argument("--interval", type=span, default=2, metavar="TIME",
                         help="between two looks; default: 2s")  # fmt: skip
    listing = command("queue", "list what is waiting")
    _add_filter(listing)
    _add_form(listing)
    listing.add_argument("--limit", type=int, default=0, metavar="N", help="at most N messages")
    finding = command("find", "look for mail, waiting or finished, the newest first")
    _add_find(finding)
    _add_form(finding)
    _add_follow(command("follow", "tell what happens, as it happens"))
    _add_digest(command("digest", "a summary of a day: what came, left, failed and was refused"))
    showing = command("show", "all about messages, waiting or finished")
    showing.add_argument("ids", nargs="+", metavar="ID", help="of relayd, or a Message-ID")
    one = command("why", "the rules that decided about a message, and its fate so far")
    one.add_argument("id", metavar="ID", help="of relayd, or a Message-ID")
    one = command("content", "print a waiting message, octet for octet")
    one.add_argument("id", metavar="ID", help="of relayd")
    for name, about in (
        ("retry", "make waiting recipients due now"),
        ("hold", "keep waiting recipients in the spool until they are released"),
        ("release", "put held recipients back in the queue"),
        ("remove", "end waiting recipients; nobody is told"),
    ):
        changing = command(name, about)
        changing.add_argument("ids", nargs="*", metavar="ID", help="of relayd")
        _add_filter(changing)
        changing.add_argument("--all", action="store_true", help="all that is waiting")
        noted = {"hold": "why, for whoever looks at the queue", "remove": "why, for the ledger"}
        about = noted.get(name, argparse.SUPPRESS)
        changing.add_argument("--note", default="", metavar="TEXT", help=about)
    asking = command("explain", "what the rules do with a recipient, and why")
    _add_question(asking)
    _add_replay(command("replay", "what new rules would make of the mail of the last days"))
    command("filters", "who is asked about mail, how fast they are, how often in trouble")
    auditing = command("audit", "whether every recipient in the ledger is accounted for")
    auditing.add_argument("--cluster", action="store_true",
                          help="and what nodes have delivered that was others'")  # fmt: skip
    command("cluster", "the nodes that share a spool, and how its database is")
    checking = command("check", "whether the configuration on disk is good")
    checking.add_argument("file", nargs="?", type=Path, metavar="FILE",
                          help="relayd.conf; without, that of the running relayd")  # fmt: skip
    checking.add_argument("--live", action="store_true",
                          help="our names as the world sees them: DNS, certificates")  # fmt: skip
    reloading = command("reload", "put the configuration on disk in force")
    reloading.add_argument(
        "--quiet", action="store_true", help="only the exit status: the log has the rest"
    )
    _add_user(command("user", "keep the file of those who may log in"))
    _add_token(command("token", "tokens of the HTTP API: make them, revoke them"))
    _add_oauth(command("oauth", "enrol logins at next hops that go by OAuth2 tokens"))
    dkim.add_options(
        command("dkim", "keys for signatures: make them, check their records"), _everywhere
    )
    _add_import(command("import", "make a configuration out of Postfix's"))
    spoolcommand.add_options(command("spool", "make a spool, or copy one for an older relayd"))
    telling = command("tls-report", "what domains are told of TLS (RFC 8460)")
    tlsreport.add_options(telling)
    _add_held(command("held", "what is kept back, and why; release it or discard it"))
    _add_limits(command("limits", "who is near a limit of the rules, or has reached it"))
    _add_table(command("table", "tables that are read from directories; accept what has shrunk"))
    kept = command("backscatter", "reports that strangers did not get, and why")
    kept.add_argument("--send", action="store_true", help="the digest to the postmaster, now")
    command("restart", "replace one worker after the other, refusing nobody")
    command("pace", "how fast mail goes where it does not go as it comes, and why")
    command("blame", "whose mail providers refuse for what it is")
    suspending = command("suspend", "tell some of the mail to wait, what comes later as well")
    _add_whom(suspending)
    suspending.add_argument("--for", dest="seconds", type=long_span, required=True, metavar="TIME",
                            help="such as 30m, 2h, 5d")  # fmt: skip
    suspending.add_argument("--reason", default="", metavar="TEXT", help="for all who ask")
    resuming = command("resume", "let what was suspended go on")
    _add_whom(resuming)
    resuming.add_argument("--all", action="store_true", help="all that is suspended")
    rerouting = command("reroute", "send what waits the way that today's rules say")
    rerouting.add_argument("ids", nargs="*", metavar="ID")
    _add_filter(rerouting)
    rerouting.add_argument("--dry-run", action="store_true", help="change nothing, only tell")
    rerouting.add_argument("--route-only", action="store_true",
                           help="only the next hop: addresses stay as they are")  # fmt: skip
    command("suspended", "what is suspended, for how long, and why")
    completing = command("completion", "what bash, zsh or fish reads to complete this command line")
    completing.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))
    return top


SHELLS = ("bash", "zsh", "fish")
GROUPS = (
    ("See", ("status", "top", "queue", "find", "follow", "show", "why", "content", "digest")),
    ("Steer mail", ("retry", "hold", "release", "remove", "held", "suspend", "resume", "suspended",
                    "reroute")),
    ("Rules and configuration", ("check", "reload", "restart", "explain", "replay", "import",
                                 "table", "limits")),
    ("Others' servers", ("pace", "blame", "filters", "backscatter", "tls-report")),
    ("Logins, keys and tokens", ("user", "token", "oauth", "dkim")),
    ("The spool, the shell", ("audit", "spool", "cluster", "completion")),
)  # fmt: skip
"""The commands as `relayctl help` has them."""


class _Grouped(argparse.ArgumentParser):
    """Whose help has the commands by what they are for."""

    def format_help(self) -> str:
        abouts: dict[str, str] = {}
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                abouts = {each.dest: each.help or "" for each in action._choices_actions}
        lines = ["usage: relayctl [OPTION ...] COMMAND [ARGUMENT ...]", "", self.description or ""]
        for title, names in GROUPS:
            lines += ["", f"{title}:", *(f"  {name:12}{abouts[name]}" for name in names)]
        formatter = self._get_formatter()
        formatter.start_section("Before or behind a command")
        formatter.add_arguments([each for each in self._actions if each.option_strings])
        formatter.end_section()
        more = "relayctl help COMMAND says more of one; relayctl(8) has all of it."
        return "\n".join([*lines, "", formatter.format_help().rstrip(), "", more, ""])


def _everywhere() -> argparse.ArgumentParser:
    """Options before and after the command; new ones each time, for set_defaults changes them."""
    options = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    add = options.add_argument
    add("-c", "--config", type=Path, metavar="FILE", help="relayd's configuration")
    add("--socket", type=Path, metavar="PATH", help="relayd's control socket")
    add("--json", action="store_true", help="print JSON")
    add("--no-pager", action="store_true", help="print long output as it is, also on a terminal")
    add("--color", choices=terminal.WHEN, help="auto: on a terminal, without NO_COLOR")
    return options


def _add_whom(to: argparse.ArgumentParser) -> None:
    add = to.add_argument
    add("--destination", default="", metavar="NAME", help="a next hop's name, or a domain")
    add("--provider", default="", metavar="NAME", help="as a `provider` statement has it")
    add("--sender", default="", metavar="MAILBOX", help="or @DOMAIN, or <>")
    add("--login", default="", metavar="NAME", help="who has logged in as NAME")


def _add_user(to: argparse.ArgumentParser) -> None:
    actions = to.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, about in (
        ("add", "a new login; the password comes from a prompt or from standard input"),
        ("passwd", "another password for a login"),
        ("remove", "take a login out"),
        ("role", "what a login may do at the console"),
        ("totp", "a new secret for one-time codes, which the console then asks for as well"),
        ("list", "the names in the file"),
    ):
        action = actions.add_parser(name, help=about, description=about, parents=[_everywhere()])
        action.add_argument("--file", type=Path, metavar="FILE", help="the users file, where the"
                            " configuration names none or several")  # fmt: skip
        if name != "list":
            action.add_argument("name", metavar="NAME", help="such as alice@example.com")
        if name == "role":
            action.add_argument("role", choices=[*ROLES, NO_ROLE], metavar="ROLE",
                                help=", ".join([*ROLES, NO_ROLE]))  # fmt: skip
        if name == "totp":
            action.add_argument("--off", action="store_true", help="ask for no codes any more")


def _add_token(to: argparse.ArgumentParser) -> None:
    to.set_defaults(name="", role="", domain="")
    actions = to.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, about in (
        ("make", "a new token, shown this once"),
        ("list", "the names of all, and what each may do"),
        ("revoke", "no longer take a token"),
    ):
        action = actions.add_parser(name, help=about, description=about, parents=[_everywhere()])
        if name != "list":
            action.add_argument("name", metavar="NAME", help="such as monitoring")
        if name == "make":
            action.add_argument("--role", choices=[*ROLES], default=str(Role.VIEWER),
                                metavar="ROLE", help="viewer, operator or admin")  # fmt: skip
            action.add_argument("--domain", default="", metavar="DOMAIN",
                                help="sees and acts on mail for this domain alone")  # fmt: skip


def _add_oauth(to: argparse.ArgumentParser) -> None:
    actions = to.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, number, about in (
        ("enroll", None, "get the first tokens: shows a code, and where to enter it"),
        ("status", "?", "how the logins stand"),
        ("forget", None, "remove the tokens of a login"),
    ):
        action = actions.add_parser(name, help=about, description=about, parents=[_everywhere()])
        action.add_argument("name", nargs=number, metavar="NAME", help="as the `oauth` statement")


def _add_table(to: argparse.ArgumentParser) -> None:
    to.set_defaults(name="")
    actions = to.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, about in (
        ("list", "each of them, and how its source was found the last time"),
        ("accept", "take up what was kept back because so much of it is gone"),
    ):
        action = actions.add_parser(name, help=about, description=about, parents=[_everywhere()])
        if name == "accept":
            action.add_argument("name", metavar="NAME", help="as the `table` statement")


def _add_held(to: argparse.ArgumentParser) -> None:
    to.set_defaults(action="list", limit=0)
    to.set_defaults(recipient="", rule="")
    to.add_argument("--limit", type=int, default=0, metavar="N", help="at most N messages")
    actions = to.add_subparsers(dest="action", metavar="ACTION")
    for name, about in (
        ("list", "each message, who holds it, and what was known of it"),
        ("show", "how the rules decided about one, as they were then"),
        ("release", "let it go on its way"),
        ("discard", "end it; nobody is told"),
    ):
        action = actions.add_parser(name, help=about, description=about, parents=[_everywhere()])
        if name == "show":
            action.add_argument("id", metavar="ID")
        elif name != "list":
            action.add_argument("ids", nargs="*", metavar="ID")
        if name != "show":
            action.add_argument("--recipient", default="", metavar="TEXT",
                                help="only this mailbox, or part of one")  # fmt: skip
            action.add_argument("--rule", default="", metavar="TEXT",
                                help="only what this holds: FILE:LINE, or words of it")  # fmt: skip
        if name == "release":
            action.add_argument("--training", default="", choices=WORDS,
                                help=f"with a field {FIELD} that says so")  # fmt: skip
        if name == "discard":
            action.add_argument("--note", default="", help="why, for the ledger")


def _add_limits(to: argparse.ArgumentParser) -> None:
    add = to.add_argument
    add("name", nargs="?", default="", metavar="NAME", help="as the `limit` statement")
    add("--forget", default="", metavar="KEY", help="count this login, client, ... anew")


def _add_filter(to: argparse.ArgumentParser) -> None:
    add = to.add_argument
    add("--sender", default="", metavar="TEXT", help="mailbox, part of one, or <>")
    add("--recipient", default="", metavar="TEXT", help="mailbox or part of one")
    add("--next-hop", "--destination", dest="destination", default="", metavar="NAME",
        help="a next hop's name, or a domain sent to directly")  # fmt: skip
    add("--state", default="", choices=["queued", "held"], metavar="queued|held",
        help="only what is due some day, or only what is kept back")  # fmt: skip
    add("--older-than", type=span, default=0, metavar="TIME", help="such as 30m, 2h, 5d")


def _add_form(to: argparse.ArgumentParser) -> None:
    forms = to.add_mutually_exclusive_group()
    forms.add_argument("--csv", action="store_true", help="a row for each recipient, as it comes")
    forms.add_argument("--jsonl", dest="json", action="store_true", default=argparse.SUPPRESS,
                       help="a line of JSON for each, as --json has it")  # fmt: skip


def _add_find(to: argparse.ArgumentParser) -> None:
    add = to.add_argument
    add("--sender", default="", metavar="MAILBOX", help="or @DOMAIN, or <>")
    add("--recipient", default="", metavar="MAILBOX", help="or @DOMAIN")
    add("--message-id", default="", metavar="ID", help="the Message-ID field's")
    add("--envid", default="", metavar="TEXT", help="what the sender calls it (RFC 3461)")
    add("--client", default="", metavar="ADDRESS", help="the client's IP address")
    add("--login", default="", metavar="NAME", help="the client has logged in as NAME")
    add("--subject", default="", metavar="WORDS", help="words of the Subject field")
    add("--state", default="", metavar="STATE", help="queued, held, delivered, failed, expired,"
        " discarded, removed; or waiting, bounced; several with commas")  # fmt: skip
    add("--since", type=moment, default=0.0, metavar="WHEN", help="2h (ago), or 2026-03-01T14:30")
    add("--until", type=moment, default=0.0, metavar="WHEN", help="likewise")
    add("--limit", type=int, default=0, metavar="N", help="at most N recipients")


def _add_digest(to: argparse.ArgumentParser) -> None:
    add = to.add_argument
    add("--since", type=moment, default="1d", metavar="WHEN",
        help="2h (ago), or 2026-03-01T14:30; default: 1d")  # fmt: skip
    add(
        "--top",
        type=int,
        default=10,
        metavar="N",
        help="so many senders, clients, ...; default: 10",
    )
    add("--spool", type=Path, metavar="DIR", help="the spool, unless the configuration says it")


def _add_follow(to: argparse.ArgumentParser) -> None:
    add = to.add_argument
    add("--event", default="", metavar="NAME", help="accepted, refused, attempt, report, notice,"
        " trouble; several with commas")  # fmt: skip
    add("--id", default="", metavar="ID", help="of this message only")
    add("--sender", default="", metavar="MAILBOX", help="or @DOMAIN, or <>")
    add("--recipient", default="", metavar="MAILBOX", help="or @DOMAIN")
    add("--cursor", default="", metavar="CURSOR", help="go on behind an event that had it (--json)")


def _add_question(to: argparse.ArgumentParser) -> None:
    add = to.add_argument
    add("recipients", nargs="*", metavar="RECIPIENT", help="with --eml: else those in To and Cc")
    add("--eml", type=Path, metavar="FILE", help="a message: shows what becomes of its header")
    add("--from", dest="client", metavar="ADDRESS", help="the client's IP address")
    add("--sender", metavar="MAILBOX", help="the reverse-path; <> is the null one")
    add("--helo", metavar="NAME", help="what it says in EHLO")
    add("--login", metavar="NAME", help="the client has logged in as NAME")
    add("--listener", metavar="HOST:PORT", help="the `listen` setting that took the connection")
    add("--with", dest="facts", action="append", default=[], metavar="FACT",
        help='what else is so, such as "rdns mail.example.com"')  # fmt: skip
    add("--offline", action="store_true", help="from the files, without asking the daemon")


def _add_replay(to: argparse.ArgumentParser) -> None:
    add = to.add_argument
    add("file", type=Path, metavar="NEWCONFIG", help="the configuration to try")
    add("--since", type=span, default=7 * 86400, metavar="TIME", help="such as 2h; default: 7d")
    add("--all", action="store_true", help="name every recipient that changes")
    add("--spool", type=Path, metavar="DIR", help="the spool, unless the configuration says it")


def _add_import(to: argparse.ArgumentParser) -> None:
    add = to.add_argument
    add("source", choices=["postfix"], metavar="postfix", help="whose configuration it is")
    add("folder", type=Path, metavar="DIR", help="the folder with main.cf, such as /etc/postfix")
    add("--output", type=Path, default=Path("relayd-import"), metavar="DIR",
        help="where to write the result (default: ./relayd-import)")  # fmt: skip
    add("--dry-run", action="store_true", help="write nothing, only tell")
    add("--force", action="store_true", help="overwrite files that are there and differ")
    add("--verify", action="append", default=[], metavar="ADDRESSES",
        help='compare with postmap: "all" in the tables, a file, or a@b,c@d')  # fmt: skip
