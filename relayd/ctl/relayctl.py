"""relayctl: sees and steers a running relayd from the shell."""

from __future__ import annotations

import argparse
import gc
import io
import json
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from relayd.ctl import commandline, pager, spoolcommand, terminal, tlsreport
from relayd.ctl.client import Daemon, DaemonError, NotRunningError, told
from relayd.ctl.commandline import Run
from relayd.ctl.mistyped import mistyped
from relayd.ctl.socketpath import DEFAULT_CONFIG, FailureError, socket_of
from relayd.ops import explain as explaining
from relayd.ops import text
from relayd.ops.publicpath import public_path

if TYPE_CHECKING:
    from relayd.config import Settings
    from relayd.ctl.headersection import Letter

OK, FAILED, USAGE = 0, 1, 2
PAGED = frozenset(
    {
        *("status", "queue", "find", "show", "why", "explain", "replay", "digest", "audit"),
        *("held", "limits", "filters", "pace", "blame", "suspended", "backscatter"),
    }
)  # what may be long, ends by itself and asks nothing


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    if arguments is None:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `relayctl queue | head` ends quietly
        arguments = sys.argv[1:]
    if arguments[:1] == ["help"]:  # as git, systemctl and apt have it
        arguments = [*arguments[1:], "--help"]
    top = parser()
    wrong = mistyped(top, arguments)
    if wrong:
        print(f"relayctl: {terminal.harmless(wrong)}", file=sys.stderr)
        return 2
    options = top.parse_args(arguments)
    try:
        status: int = OK
        with pager.paged(wanted=options.command in PAGED and not options.no_pager):
            status = options.run(options)
            sys.stdout.flush()
        return status
    except (FailureError, DaemonError) as error:
        return _failed(options, str(error))
    except OSError as error:
        if error.filename is not None:
            return _failed(options, told(error))
        print(f"relayctl: {error}", file=sys.stderr)  # standard output's
        sys.stdout = io.StringIO()  # what is still held would fail once more at the end
        return FAILED
    except KeyboardInterrupt:
        return 130


def _failed(options: argparse.Namespace, why: str) -> int:
    if options.json:
        print(json.dumps({"error": why}), flush=True)
    else:
        print(f"relayctl: {terminal.harmless(why)}", file=sys.stderr)
    return USAGE if options.command in ("explain", "replay") else FAILED


# finding relayd


def daemon(options: argparse.Namespace) -> Daemon:
    """The daemon that the options mean; raises FailureError."""
    return Daemon(options.socket or socket_of(options.config or DEFAULT_CONFIG))


def queue_of(options: argparse.Namespace) -> Daemon:
    """The daemon, or what it has for everybody; raises FailureError."""
    path = options.socket or socket_of(options.config or DEFAULT_CONFIG)
    everybody = public_path(path)
    refused = not os.access(path, os.W_OK) and os.access(everybody, os.W_OK)
    return Daemon(everybody if refused else path)


# the commands


def status(options: argparse.Namespace) -> int:
    """How the daemon is."""
    answer = daemon(options).answer("status")
    lines = text.status_lines(answer, time.time())
    _show(options, answer, terminal.coloured(lines) if terminal.colours(options.color) else lines)
    healthy = all(shard["healthy"] for shard in answer["shards"])
    as_it_should = not (answer.get("refused") or {}).get("last_good")
    return OK if healthy and as_it_should else FAILED


def top(options: argparse.Namespace) -> int:
    """How it goes, live."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise FailureError("top needs a terminal; in a pipe there are status --json and follow")
    from relayd.ctl import top as live

    live.run(daemon(options), seconds=max(options.interval, 1), color=options.color)
    return OK


def completion(options: argparse.Namespace) -> int:
    """What a shell reads to complete the command line."""
    from relayd.ctl.completion import completion as made

    sys.stdout.write(made(options.shell, parser()))
    return OK


def queue(options: argparse.Namespace) -> int:
    """What is waiting; who may not ask relayd itself hears what is for everybody."""
    gc.disable()  # rows hold no cycles, and looking for some takes longer than all the rest
    documents = queue_of(options).ask("queue", limit=options.limit, **_filter(options))
    if options.csv:
        from relayd.ctl import records
        from relayd.ops.queuerows import queue_messages

        records.write_head(records.QUEUED)
        for messages in queue_messages(documents):
            records.write_rows(records.queued_recipients(messages), records.QUEUED)
        return OK
    if options.json:
        for piece in _json_rows(documents):
            sys.stdout.write(piece)
        return OK
    for piece in text.queue_lines(documents, time.time()):
        sys.stdout.write(piece)
    return OK


def _json_rows(documents: Iterator[dict[str, Any]]) -> Iterator[str]:
    from relayd.ops.queuerows import queue_messages

    encode = json.JSONEncoder(check_circular=False).encode
    for messages in queue_messages(documents):
        yield "".join([encode(each) + "\n" for each in messages])


def find(options: argparse.Namespace) -> int:
    """Mail that is waiting or finished."""
    names = ("sender", "recipient", "message_id", "envid", "client", "login", "subject", "state")
    wanted = {name: getattr(options, name) for name in (*names, "since", "until", "limit")}
    count = 0
    if options.csv:
        from relayd.ctl import records

        records.write_head(records.FOUND)
        for document in daemon(options).ask("find", **wanted):
            count += len(document["found"])
            records.write_rows(document["found"], records.FOUND)
        return OK if count else FAILED
    for document in daemon(options).ask("find", **wanted):
        for found in document["found"]:
            count += 1
            if options.json:
                print(json.dumps(found))
            else:
                for line in text.found_lines(found):
                    print(line)
        sys.stdout.flush()
    if not count and not options.json:
        print("Nothing is found.")
    return OK if count else FAILED


def follow(options: argparse.Namespace) -> int:
    """What happens, until somebody has enough of it."""
    names = ("event", "id", "sender", "recipient", "cursor")
    wanted = {name: getattr(options, name) for name in names}
    for event in daemon(options).ask("follow", **wanted):
        if options.json:
            print(json.dumps(event), flush=True)
        elif event["event"] != "alive":
            print(text.event_line(event), flush=True)
    return OK


def _idents(options: argparse.Namespace, names: Sequence[str]) -> Iterator[str]:
    """The messages that are named, be it by a Message-ID: all that have it, the newest first."""
    for name in names:
        if "@" not in name:
            yield name
            continue
        idents = dict.fromkeys(
            found["id"]
            for document in daemon(options).ask("find", message_id=name)
            for found in document["found"]
        )
        if not idents:
            raise FailureError(f"no message has the Message-ID {text.safe(name)}")
        yield from idents


def show(options: argparse.Namespace) -> int:
    """All about messages, waiting or finished."""
    for number, ident in enumerate(_idents(options, options.ids)):
        answer = daemon(options).answer("show", id=ident)
        if number and not options.json:
            print()
        _show(options, answer, text.show_lines(answer, time.time()))
    return OK


def why(options: argparse.Namespace) -> int:
    """The rules that decided about a message when it came, and what became of it so far."""
    for number, ident in enumerate(_idents(options, [options.id])):
        answer = daemon(options).answer("why", id=ident)
        if number and not options.json:
            print()
        _show(options, answer, _why_lines(answer))
    return OK


def _why_lines(answer: dict[str, Any]) -> Iterator[str]:
    now = time.time()
    yield text.safe(
        f"{answer['id']} from <{answer['sender']}>, received {text.moment(answer['received_at'])},"
        f" {_decided(answer)}"
    )
    if answer.get("facts") or answer.get("trail"):
        yield ""
    for fact in answer.get("facts", ()):
        yield text.safe(f"fact  {fact}   (as stored)")
    yield from explaining.trail_rows(answer.get("trail", []))
    for recipient in answer["recipients"]:
        yield ""
        yield from text.recipient_lines(recipient, now)


def _decided(answer: dict[str, Any]) -> str:
    if answer.get("rules"):
        return f"decided by rule set {answer['rules']}:"
    return "made by relayd itself" if not answer["client"].get("address") else "rules unknown:"


def digest(options: argparse.Namespace) -> int:
    """What happened in some time."""
    from relayd.ctl import summary

    try:
        return summary.run(options, options.config or DEFAULT_CONFIG)
    except summary.SummaryError as error:
        raise FailureError(str(error)) from None


def filters(options: argparse.Namespace) -> int:
    """Who is asked about mail, and how that goes."""
    answer = daemon(options).answer("filters")
    _show(options, answer, text.filter_lines(answer, time.time()))
    return OK


def audit(options: argparse.Namespace) -> int:
    """Whether every recipient ever accepted has ended in one way, or is waiting."""
    audited = 0
    problems: list[list[Any]] = []
    with pager.StillWorking("audit") as progress:
        for document in daemon(options).ask("audit"):
            audited += document["audited"]
            progress.count = audited
            problems += document["discrepancies"]
    if not options.json:
        for ident, number, problem in problems:
            print(text.safe(f"{ident}  recipient {number}: {problem}"))
    of_nodes: dict[str, Any] = {}
    if options.cluster:
        of_nodes["late"] = daemon(options).answer("cluster")["late"]
        if not options.json:
            print(f"{of_nodes['late']:,} deliveries of what another node had taken over by then")
    if options.json:
        print(json.dumps({"audited": audited, "discrepancies": problems, **of_nodes}))
    elif problems:
        print(f"{len(problems):,} of {audited:,} recipients are not accounted for")
    else:
        print(f"clean: all recipients in the ledger ({audited:,}) are accounted for")
    return FAILED if problems else OK


def cluster(options: argparse.Namespace) -> int:
    """The nodes that share a spool, and how its database is."""
    answer = daemon(options).answer("cluster")
    _show(options, answer, text.cluster_lines(answer))
    return OK


def content(options: argparse.Namespace) -> int:
    """The octets of a waiting message; at a terminal none that steer it."""
    chunks = daemon(options).content(options.id)
    if sys.stdout.isatty():
        for line in terminal.mail(chunks):
            print(line)
        return OK
    for chunk in chunks:
        sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()
    return OK


def change(options: argparse.Namespace) -> int:
    """Retry, hold, release, remove."""
    chosen = _filter(options)
    if not options.ids and not any(chosen.values()) and not options.all:
        raise FailureError("nothing named: give message IDs, a filter, or --all")
    answer = daemon(options).answer(
        options.command, ids=options.ids, all=options.all, note=options.note, **chosen
    )
    count = answer["recipients"]
    done = {"retry": "due now", "hold": "held", "release": "released", "remove": "removed"}
    noun = "recipient" if count == 1 else "recipients"
    _show(options, answer, [f"{count:,} {noun} {done[options.command]}"])
    if count or options.all:
        return OK
    raise FailureError("no waiting recipient fits")


def explain(options: argparse.Namespace) -> int:
    """What the rules would do, from the code that delivers."""
    worst = explaining.ACCEPTED
    letter = _letter(options)
    if letter is not None and not options.recipients:
        options.recipients = letter.recipients
    if not options.recipients:
        raise FailureError("no recipient named: give one, such as info@example.com, or --eml FILE")
    for number, recipient in enumerate(options.recipients):
        question = {
            "recipient": recipient,
            "from": options.client,
            "sender": options.sender,
            "header": letter.text if letter else "",
            "size": letter.size if letter else 0,
            "helo": options.helo,
            "login": options.login,
            "listener": options.listener,
            "with": options.facts,
        }
        if options.offline:
            try:
                answer = explaining.decide(_settings(options).ruleset, question)
            except explaining.QuestionError as error:
                raise FailureError(str(error)) from None
        else:
            try:
                answer = daemon(options).answer("explain", **question)
            except NotRunningError as error:
                raise FailureError(f"{error}; --offline asks the files") from None
        if number and not options.json:
            print()
        _show(options, answer, explaining.lines(answer))
        worst = max(worst, explaining.exit_status(answer))
    return worst


def _letter(options: argparse.Namespace) -> Letter | None:
    """The message that --eml names; the sender is taken from it unless one is given."""
    if options.eml is None:
        return None
    from relayd.ctl.headersection import LetterError, read

    try:
        letter = read(options.eml)
    except LetterError as error:
        raise FailureError(str(error)) from None
    if options.sender is None:
        options.sender = letter.sender
    return letter


def replay(options: argparse.Namespace) -> int:
    """What other rules would make of what relayd has seen."""
    from relayd.ctl import rehearsal

    try:
        with pager.StillWorking("replay"):
            return rehearsal.run(options, DEFAULT_CONFIG)
    except rehearsal.RehearsalError as error:
        raise FailureError(str(error)) from None


def _settings(options: argparse.Namespace) -> Settings:
    from relayd.config import ConfigErrors, load

    try:
        return load(options.config or DEFAULT_CONFIG)
    except ConfigErrors as errors:
        raise FailureError(f"the configuration has errors\n{errors}") from None


def check(options: argparse.Namespace) -> int:
    """Whether the configuration on disk is good."""
    if options.live:
        from relayd.ctl import livecheck

        return livecheck.run(options, options.file or options.config or DEFAULT_CONFIG)
    path = options.file or options.config
    if path is None:
        try:
            answer = daemon(options).answer("check")
            return _complaint(options, answer, "the configuration is good")
        except NotRunningError:
            path = DEFAULT_CONFIG
    from relayd.config import ConfigErrors, contents, load
    from relayd.spool.disk.rights import rights_of

    try:
        settings = load(path)
        if path is DEFAULT_CONFIG and os.geteuid() == 0 and settings.spool.is_dir():
            # what only root can read is no use to him whom relayd runs as
            with rights_of(settings.spool.stat(), groups=True):
                load(path)
    except ConfigErrors as errors:
        return _complaint(options, {"complaint": str(errors)}, "")
    answer = {
        "complaint": "",
        "warnings": [str(each) for each in settings.warnings],
        "read": contents(settings),
    }
    return _complaint(options, answer, f"{path} is good")


def reload(options: argparse.Namespace) -> int:
    """Put the configuration on disk in force."""
    answer = daemon(options).answer("reload")
    if options.quiet:
        return FAILED if answer["complaint"] else OK
    good = ["the new configuration is in force", *text.restart_lines(answer)]
    return _complaint(options, answer, "\n".join(good))


def user(options: argparse.Namespace) -> int:
    """Keep a users file."""
    from relayd.ctl import users

    try:
        return users.run(options, options.config or DEFAULT_CONFIG)
    except users.UsersFailure as error:
        raise FailureError(str(error)) from None


def spool(options: argparse.Namespace) -> int:
    """Work on a spool's files."""
    try:
        with pager.StillWorking(f"spool {options.action}"):
            return spoolcommand.run(options, options.config or DEFAULT_CONFIG)
    except spoolcommand.SpoolFailure as error:
        raise FailureError(str(error)) from None


def tls_report(options: argparse.Namespace) -> int:
    """What domains are told."""
    try:
        return tlsreport.run(options, options.config or DEFAULT_CONFIG)
    except tlsreport.TlsReportFailure as error:
        raise FailureError(str(error)) from None


def oauth(options: argparse.Namespace) -> int:
    """Enrol logins by token."""
    from relayd.ctl import oauth as enrolling

    return enrolling.run(options, daemon(options))


def dkim(options: argparse.Namespace) -> int:
    """Keys that sign, and their records."""
    from relayd.ctl import dkim as keys

    try:
        return keys.run(options, options.config or DEFAULT_CONFIG, lambda: daemon(options))
    except keys.DkimFailure as error:
        raise FailureError(str(error)) from None


def held(options: argparse.Namespace) -> int:
    """What is kept back."""
    from relayd.ctl import held as quarantine

    if options.action == "show":
        return why(options)
    return quarantine.run(options, daemon(options))


def limits(options: argparse.Namespace) -> int:
    """Who is near a limit, or to be counted anew."""
    answer = daemon(options).answer("limits", name=options.name, forget=options.forget)
    _show(options, answer, text.limit_lines(answer))
    return FAILED if options.forget and not answer["forgotten"] else OK


def token(options: argparse.Namespace) -> int:
    """Keep the tokens of the HTTP API."""
    answer = daemon(options).answer(
        "token",
        action=options.action,
        name=options.name,
        role=options.role,
        domain=options.domain,
    )
    _show(options, answer, text.token_lines(answer))
    return OK


def table(options: argparse.Namespace) -> int:
    """Tables that are read from directories."""
    answer = daemon(options).answer("table", accept=options.name)
    _show(options, answer, text.table_lines(answer, time.time()))
    return OK


def backscatter(options: argparse.Namespace) -> int:
    """Which reports were kept from strangers."""
    answer = daemon(options).answer("backscatter", send=options.send)
    _show(options, answer, text.kept_lines(answer))
    return FAILED if options.send and not answer["asked"] else OK


def bring_over(options: argparse.Namespace) -> int:
    """Make a configuration out of another mail server's."""
    from relayd.verification import command as migrating

    try:
        with pager.StillWorking("import"):
            return migrating.run(options)
    except migrating.ImportFailure as error:
        raise FailureError(str(error)) from None


def _complaint(options: argparse.Namespace, answer: dict[str, Any], good: str) -> int:
    complaint = answer["complaint"]
    if options.json:
        print(json.dumps(answer))
    elif complaint:
        print(complaint, file=sys.stderr)
    else:
        for line in text.warning_lines(answer):
            print(line, file=sys.stderr)
        print(good)
        for line in text.contents_lines(answer):
            print(line)
    return FAILED if complaint else OK


def _show(options: argparse.Namespace, answer: dict[str, Any], lines: Iterable[str]) -> None:
    if options.json:
        print(json.dumps(answer, indent=2))
        return
    for line in lines:
        print(line)


def _filter(options: argparse.Namespace) -> dict[str, object]:
    return {
        "sender": options.sender,
        "recipient": options.recipient,
        "destination": options.destination,
        "state": options.state,
        "older_than": options.older_than,
    }


def pace(options: argparse.Namespace) -> int:
    """How fast mail goes where."""
    answer = daemon(options).answer("pace")
    lines = text.pace_lines(answer, time.time())
    _show(options, answer, terminal.cut(lines, terminal.width()))
    return OK


def blame(options: argparse.Namespace) -> int:
    """Whose mail is complained about."""
    answer = daemon(options).answer("blame")
    _show(options, answer, text.blame_lines(answer))
    return OK


def suspend(options: argparse.Namespace) -> int:
    """Tell some of the mail to wait."""
    answer = daemon(options).answer(
        "suspend", seconds=options.seconds, reason=options.reason, **_whom(options)
    )
    _show(options, answer, text.suspension_lines(answer, time.time()))
    return OK


def resume(options: argparse.Namespace) -> int:
    """Let it go on."""
    answer = daemon(options).answer("resume", all=options.all, **_whom(options))
    ended = answer["resumed"]
    _show(options, answer, [text.safe(f"{each['kind']} {each['whom']} goes on") for each in ended])
    if options.all and not ended and not options.json:
        print("Nothing is suspended.")
    if ended or options.all:
        return OK
    named = " ".join(f"{kind} {whom}" for kind, whom in _whom(options).items() if whom)
    raise FailureError(text.safe(f"{named} is not suspended; relayctl suspended lists what is"))


def suspended(options: argparse.Namespace) -> int:
    """What waits by an operator's word."""
    answer = daemon(options).answer("suspended")
    _show(options, answer, text.suspension_lines(answer, time.time()))
    return OK


def reroute(options: argparse.Namespace) -> int:
    """What waits goes the way that the rules of now say."""
    with pager.StillWorking("reroute"):
        answer = daemon(options).answer(
            "reroute",
            ids=options.ids,
            dry_run=options.dry_run,
            route_only=options.route_only,
            **_filter(options),
        )
    _show(options, answer, text.reroute_lines(answer, done=not options.dry_run))
    return OK


def _whom(options: argparse.Namespace) -> dict[str, object]:
    return {
        "destination": options.destination,
        "provider": options.provider,
        "sender": options.sender,
        "login": options.login,
    }


def restart(options: argparse.Namespace) -> int:
    """Replace the workers."""
    daemon(options).answer("restart")
    _show(options, {"restarted": True}, ["Restarted."])
    return OK


_RUN: dict[str, Run] = {
    "status": status,
    "top": top,
    "completion": completion,
    "queue": queue,
    "find": find,
    "follow": follow,
    "digest": digest,
    "show": show,
    "why": why,
    "content": content,
    "explain": explain,
    "replay": replay,
    "filters": filters,
    "audit": audit,
    "cluster": cluster,
    "check": check,
    "reload": reload,
    "user": user,
    "token": token,
    "oauth": oauth,
    "dkim": dkim,
    "held": held,
    "limits": limits,
    "table": table,
    "backscatter": backscatter,
    "import": bring_over,
    "spool": spool,
    "tls-report": tls_report,
    "restart": restart,
    "pace": pace,
    "blame": blame,
    "suspend": suspend,
    "resume": resume,
    "suspended": suspended,
    "reroute": reroute,
    **dict.fromkeys(("retry", "hold", "release", "remove"), change),
}


def parser() -> argparse.ArgumentParser:
    """All that may be said on the command line."""
    return commandline.parser(_RUN)


if __name__ == "__main__":
    sys.exit(main())
