"""How relayctl shows things to people: aligned, in words, with nothing a terminal would obey."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from relayd.mail.ident import ident_text

MOST_TABLES = 100  # that are named
STATES = ("queued", "held")  # State.QUEUED and State.HELD, the two that wait
_QUEUE_HEAD = (
    f"{'ID':12}  {'AGE':>6}  {'SIZE':>6}  {'STATE':6}  {'TRIES':>5}  {'NEXT TRY':8}"
    f"  {'NEXT HOP':20}  SENDER -> RECIPIENT"
)


COPY = "@"
"""As whom a copy was named that a rule sent, as the spool writes a mailbox: nobody."""

_TOLD_ELSEWHERE = {
    *("version", "started", "hostname", "waiting", "shards"),
    *("destinations", "more_destinations", "refused", "sites", "suspended", "reports_kept"),
    *("lost_addresses", "in_force_since", "log_dropped"),
}


def safe(text: str) -> str:
    """The text with what is not printable escaped."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


@lru_cache(maxsize=4096)
def duration(seconds: int) -> str:
    """A time span in at most two units: `45s`, `10m`, `3h12m`, `4d2h`."""
    if seconds < 60:
        return f"{max(seconds, 0)}s"
    minutes = seconds // 60
    if minutes < 60:
        return f"{minutes}m"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h{minutes}m" if minutes else f"{hours}h"
    days, hours = divmod(hours, 24)
    return f"{days}d{hours}h" if hours else f"{days}d"


def coarse(seconds: float) -> str:
    """The same for columns: cut to what is shown, so that few different ones are made."""
    whole = int(seconds)
    return duration(whole if whole < 60 else whole - whole % 60)


@lru_cache(maxsize=4096)
def octets(count: int) -> str:
    """A size, with its unit as settings have them: `512B`, `5.2KiB`, `20MiB`."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1000 or unit == "GiB":
            break
        size /= 1024
    return f"{size:.1f}{unit}" if unit != "B" and size < 10 else f"{size:.0f}{unit}"


def moment(seconds: float) -> str:
    """A point in time, in the reader's own zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(seconds))


def queue_lines(documents: Iterable[dict[str, Any]], now: float) -> Iterator[str]:
    """The listing, page by page: each piece is many lines, ended by a newline.

    `rows` are as relayd.spool.view.Summary has them, with RecipientSummary inside; `lanes` are
    those that are down, with the time of the next try, for the rows behind.
    """
    messages = recipients = 0
    size_sum = 0
    lanes: dict[str, float] = {}
    behind: dict[str, str] = {}
    for document in documents:
        lanes = document.get("lanes", lanes)
        behind = document.get("behind", behind)
        rows = document.get("rows")
        if rows is None:
            continue
        lines = [] if messages else [_QUEUE_HEAD]
        for ident, received_at, size, sender, each in rows:
            front = f"{ident_text(ident)}  {coarse(now - received_at):>6}  {octets(size):>6}  "
            messages += 1
            size_sum += size
            recipients += len(each)
            for _, mailbox, original, _, destination, state, attempts, next_attempt, reply in each:
                due = ""
                if not state:
                    due = _due(max(next_attempt, lanes.get(destination, 0.0)), now)
                lines.append(
                    f"{front}{STATES[state]:6}  {attempts:5}  {due:8}  {destination:20}"
                    f"  <{sender}> -> <{mailbox}>{'' if original != COPY else ' (a copy)'}"
                )
                if not state and destination in behind:
                    reply = behind[destination]
                if reply:
                    lines.append(f"    {reply}")
        if not "".join(lines).isprintable():
            lines = [safe(line) for line in lines]
        lines.append("")
        yield "\n".join(lines)
    if messages:
        total = f"{many(messages, 'message')}, {many(recipients, 'recipient')}"
        yield f"{total}, {octets(size_sum)}\n"
    else:
        yield "Mail queue is empty\n"  # the words that scripts know from mailq


def _due(at: float, now: float) -> str:
    return "in " + coarse(at - now) if at > now else "now"


def restart_lines(answer: dict[str, Any]) -> Iterator[str]:
    """What of a new configuration has to wait."""
    if answer.get("restart"):
        yield f"but these take effect at a restart only: {', '.join(answer['restart'])}"


def warning_lines(answer: dict[str, Any]) -> Iterator[str]:
    """What is to be said of a good configuration all the same."""
    for warning in answer.get("warnings", ()):
        yield from map(safe, f"warning: {warning}".split("\n"))


def contents_lines(answer: dict[str, Any]) -> Iterator[str]:
    """What was read, so that what is missing is seen."""
    read = answer.get("read")
    if not read:
        return
    yield (
        f"read: {many(len(read['files']), 'file')}, {many(read['rules'], 'rule')}, "
        f"{many(len(read['tables']), 'table')}, {many(read['tests'], 'test')}"
    )
    tables = [*read["tables"].items()]
    for name, entries in tables[:MOST_TABLES]:
        yield safe(f"      table {name}: {many(entries, 'entry', 'entries')}")
    if len(tables) > MOST_TABLES:
        yield f"      ... and {many(len(tables) - MOST_TABLES, 'more table')}"


def limit_lines(answer: dict[str, Any]) -> Iterator[str]:
    """Who is near each limit, or who was forgotten."""
    if "forgotten" in answer:
        named = ", ".join(answer["forgotten"])
        yield safe(f"{answer['key']}  {f'forgotten by {named}' if named else 'was not counted'}")
        return
    for limit in answer["limits"]:
        window = duration(int(limit["seconds"]))
        head = f"{limit['name']}  {limit['most']:,} {limit['counts']} in {window}"
        near = "" if limit["near"] else ": nobody is near it"
        yield safe(f"{head} per {limit['per']}{near}")
        width = max((len(each["key"]) for each in limit["near"]), default=0)
        for each in limit["near"]:
            over = "  OVER" if each["over"] else ""
            yield safe(f"  {each['key']:{width}}  {each['count']:,}{over}")
        if limit["more"]:
            yield f"  ... and {limit['more']:,} more"


_FORECASTS = ("forecasts_right", "forecasts_wrong")


def status_lines(status: dict[str, Any], now: float) -> Iterator[str]:
    """The state of the whole daemon."""
    waiting = status["waiting"]
    name = f"relayd {status.get('version', '')}".strip()
    up = f", up {duration(int(now - status['started']))}" if status.get("started") else ""
    yield safe(f"{name} at {status.get('hostname', '?')}{up}")
    for key, fact in status.items():
        if key not in _TOLD_ELSEWHERE and not isinstance(fact, (dict, list)):
            yield safe(f"{key.replace('_', ' '):13}  {fact}")
    if status.get("refused"):
        yield from _refused_lines(status["refused"], now)
    elif status.get("in_force_since"):
        yield f"{'in force':13}  since {moment(status['in_force_since'])}"
    for each in status.get("set_up", ()):
        yield safe(f"{'MEND':13}  {each['destination']}: {each['trouble']}")
    for full in status.get("full", ()):
        yield safe(f"{'FULL':13}  {full}")
    for warning in status.get("warnings", ()):
        yield safe(f"{'warning':13}  {warning}")
    for missing in status.get("not_listening", ()):
        yield safe(f"{'NOT LISTENING':13}  {missing} (tried again every few seconds)")
    for table in status.get("tables", ()):
        yield from _table_lines(table, now)
    for table in status.get("live_tables", ()):
        if table["trouble"]:
            yield safe(
                f"{'TABLE':13}  {table['name']} ({table['kind']}) not answered since "
                f"{moment(table['since'])}; what is not remembered is answered with 451:"
            )
            yield safe(f"{'':13}  {table['trouble']}")
    if status.get("log_dropped"):
        dropped = many(status["log_dropped"], "line")
        yield f"{'LOG DROPPED':13}  {dropped}: whoever reads the log does not keep up"
    for login in status.get("logins", ()):
        yield safe(_login_line(login, now))
    for hook in status.get("hooks", ()):
        yield safe(_hook_line(hook, now))
    if status.get("restart"):
        yield f"{'restart':13}  needed for {', '.join(status['restart'])}"
    yield (
        f"{'waiting':13}  {many(waiting['messages'], 'message')} ({octets(waiting['octets'])}),"
        f" {many(waiting['queued'], 'recipient')} queued, {waiting['held']} held"
    )
    if waiting["damaged"]:
        yield f"{'damaged':13}  {many(waiting['damaged'], 'message')} set aside"
    for each in status.get("certificates", ()):
        yield safe(_certificate(each, now))
    for each in status.get("limits", ()):
        keys = ", ".join(each["keys"]) + (", ..." if each["over"] > len(each["keys"]) else "")
        yield safe(
            f"{'limit':13}  {each['name']}: {each['over']:,} at {each['most']:,} {each['counts']}"
            f" in {duration(int(each['seconds']))} per {each['per']}: {keys}"
        )
    if status.get("reports_kept"):
        kept = many(status["reports_kept"], "report")
        yield f"{'kept back':13}  {kept} to strangers: see relayctl backscatter"
    for shard in status["shards"]:
        facts = "  ".join(
            f"{key.replace('_', ' ')} {fact}"
            for key, fact in shard.items()
            if key not in ("shard", "healthy", *_FORECASTS)
        )
        health = "" if shard["healthy"] else "CANNOT RECORD: nothing is accepted or delivered  "
        yield f"{'shard ' + str(shard['shard']):13}  {health}{facts}".rstrip()
    right, wrong = (sum(each.get(key, 0) for each in status["shards"]) for key in _FORECASTS)
    if right or wrong:
        yield f"{'forecast':13}  right {right:,} of {many(right + wrong, 'time')}"
    for site in status.get("sites", ()):
        if site["trouble"]:
            yield safe(f"{'BLOCKED' if site['blocked_until'] else 'slowed':13}  {_site(site, now)}")
    for each in status.get("lost_addresses", ()):
        yield safe(
            f"{'NO ADDRESS':13}  source {each['source']}: {each['address']} is no address of this"
            f" host since {moment(each['since'])}; what leaves from there waits"
        )
    for each in status.get("suspended", ()):
        yield safe(f"{'suspended':13}  {_suspension(each, now)}")
    if status["destinations"]:
        yield ""
        yield f"{'DESTINATION':32}  {'WAITING':>7}  {'OLDEST':>6}  {'NOW':>4}  STATE"
    for lane in status["destinations"]:
        age = coarse(now - lane["oldest"]) if "oldest" in lane and lane["waiting"] else ""
        yield safe(
            f"{lane['destination']:32}  {lane['waiting']:7}  {age:>6}  {lane.get('in_flight', 0):4}"
            f"  {lane['standing']}{_trouble(lane, now)}"
        )
    if status["more_destinations"]:
        yield f"... and {status['more_destinations']} more"


_SOON = 14 * 86_400.0  # seconds: a certificate that is renewed by itself is so before


def _login_line(login: dict[str, Any], now: float) -> str:
    """A login by token: it is renewed by itself, unless somebody has to do something."""
    ends = login.get("expires_at")
    left = "" if ends is None else f", its token until {moment(ends)}"
    if ends is not None and ends > now:
        left += f", for {duration(int(ends - now))}"
    renewed = login.get("renewable", True)
    well = login["state"] in ("good", "not used yet") or (login["state"] == "expired" and renewed)
    why = f": {login['trouble']}" if login.get("trouble") else ""
    word = "login" if well else "LOGIN"
    return f"{word:13}  {login['login']} as {login['user']}: {login['state']}{left}{why}"


def _hook_line(hook: dict[str, Any], now: float) -> str:
    dropped = f", {hook['dropped']:,} dropped" if hook["dropped"] else ""
    line = (
        f"{'HOOK' if hook['trouble'] else 'hook':13}  {hook['name']} to {hook['receiver']}:"
        f" {hook['sent']:,} sent, {hook['waiting']:,} waiting{dropped}"
    )
    if hook["oldest"]:
        line += f", the oldest for {coarse(now - hook['oldest'])}"
    if hook["trouble"]:
        since = f" since {moment(hook['since'])}" if hook["since"] else ""
        line += f"; in vain{since}: {hook['trouble']}"
    return line


def _certificate(each: dict[str, Any], now: float) -> str:
    if each["trouble"]:
        return f"{'CERTIFICATE':13}  {each['trouble']}"
    left = each["until"] - now
    until = f"until {moment(each['until'])}"
    if left <= 0:
        return f"{'CERTIFICATE':13}  {each['file']} is over: {until}"
    word = "CERTIFICATE" if left < _SOON else "certificate"
    return f"{word:13}  {each['file']} {until}, for {duration(int(left))}"


def kept_lines(answer: dict[str, Any]) -> Iterator[str]:
    """Which reports strangers did not get."""
    yield safe(f"reports strangers {answer['budget']}")
    if "asked" in answer:
        soon = "The digest goes to the postmaster within seconds."
        yield soon if answer["asked"] else "There is nothing that the postmaster has not been told."
    if not answer["kept"]:
        yield "None was kept back."
    for kept in answer["kept"]:
        told = f"told {moment(kept['told_at'])}" if kept["told_at"] else "in the next digest"
        span = f"{moment(kept['first'])} to {moment(kept['last'])}"
        about = many(kept["recipients"], "recipient")
        yield ""
        yield f"{many(kept['reports'], 'report')} about {about} kept back, {span}; {told}"
        for title, name in (("TO", "senders"), ("MAIL CAME FROM", "clients"), ("WHY", "reasons")):
            yield ""
            yield f"{'REPORTS':>9}  {'THE LAST':12}  {title}"
            for share in kept[name]:
                said = f": {share['reply']}" if share["reply"] else ""
                row = f"{share['reports']:9,}  {share['message']:12}  {share['name']}{said}"
                yield safe(row)
            more = kept[f"all_{name}"] - len(kept[name])
            if more > 0:
                yield f"{'':9}  ... and {more:,} more"


def pace_lines(answer: dict[str, Any], now: float) -> Iterator[str]:
    """Where mail goes out at a pace."""
    if not answer["sites"]:
        yield "Nobody has asked for less, and no pace is configured for where mail has gone."
        return
    head = f"{'SITE':24}  {'A MINUTE':>9}  {'AT A TIME':>9}  {'NOW':>4}  {'TAKEN':>7}"
    yield f"{head}  {'REFUSED':>7}  STATE"
    for site in answer["sites"]:
        rate = f"{site['rate']:.4g}{'=' if site['pinned'] else ''}" if site["rate"] else "-"
        state = _site(site, now).partition(" ")[2] if site["trouble"] else ""
        yield safe(
            f"{site['site']:24}  {rate:>9}  {site['connections'] or '-':>9}"
            f"  {site['in_flight']:4}  {site['taken']:7}  {site['refused']:7}  {state}".rstrip()
        )


def blame_lines(answer: dict[str, Any]) -> Iterator[str]:
    """Logins and forwarded addresses whose mail providers refuse for what it is."""
    if not answer["origins"]:
        yield "No provider has complained of anybody's mail."
        return
    head = f"{'SHARE':>5}  {'REFUSED':>7}  {'OF':>7}  {'A MINUTE':>8}"
    yield f"{head}  ORIGIN, AND WHAT WAS SAID LAST"
    for each in answer["origins"]:
        rate = f"{each['rate']:.3g}" if each["rate"] else "-"
        front = f"{each['share']:5.0%}  {each['complaints']:7.0f}  {each['messages']:7.0f}"
        yield safe(f"{front}  {rate:>8}  {each['origin']}: {each['last']}")


def suspension_lines(answer: dict[str, Any], now: float) -> Iterator[str]:
    """What the operator has told to wait."""
    if not answer["suspended"]:
        yield "Nothing is suspended."
    for each in answer["suspended"]:
        yield safe(_suspension(each, now))


def cluster_lines(answer: dict[str, Any]) -> Iterator[str]:
    """The nodes that share a spool, and how its database is."""
    for each in answer["warnings"]:
        yield safe(f"warning  {each}")
    for each in answer["nodes"]:
        silent = each["silent"]
        beat = "left in order" if silent is None else f"last sign of life {round(silent)} s ago"
        here = " (here)" if each["here"] else ""
        yield safe(
            f"{each['node']}{here}  {each['state']}, epoch {each['epoch']}, {beat}: "
            f"{each['queued']:,} queued, {each['held']:,} held; "
            f"relayd {each['relayd'] or 'unknown'}, rules {each['rules'] or 'unknown'}"
        )
    database = answer["database"]
    standbys = database["synchronous_standby_names"] or "no other machine"
    yield safe(
        f"PostgreSQL {database['version']}: 250 waits for "
        f"synchronous_commit={database['synchronous_commit']}, {standbys}"
    )
    for each in database["standbys"]:
        lag = "" if each["lag"] is None else f", {each['lag']:.1f} s"
        behind = "" if each["behind"] is None else f", {each['behind']:,} octets behind"
        yield safe(f"standby {each['name']}  {each['state']} ({each['sync']}){lag}{behind}")
    oldest = database["oldest_transaction"]
    if oldest is not None:
        who = oldest["of"] or f"process {oldest['pid']}"
        yield safe(
            f"oldest open transaction: {oldest['seconds']:.1f} s, {oldest['user']} ({who}), "
            f"{oldest['state']}"
        )
    for each in database["tables"]:
        yield f"table {each['table']}: {each['rows']:,} rows, {each['dead']:,} dead"
    for each in database["unknown"]:
        yield safe(f"not known: {each}")
    yield (
        f"spool version {database['spool_version']}; lease {answer['lease']:g} s; "
        f"{answer['late']:,} late deliveries"
    )


def reroute_lines(answer: dict[str, Any], *, done: bool) -> Iterator[str]:
    """What goes another way by the rules of now, and what stays as it is."""
    counts = answer["changed"]
    parts = [f"{count:,} {_REROUTED[kind]}" for kind, count in sorted(counts.items())]
    looked = f"{answer['recipients']:,} recipients looked at"
    if done or not parts:
        yield f"{', '.join(parts) or 'Nothing changes'} ({looked})"
    else:
        yield f"Would be changed: {', '.join(parts)} ({looked})"
    for kind, count in sorted(answer["left"].items()):
        yield f"{count:,} left as they are: {_LEFT[kind]}"
    if answer["under_way"]:
        yield f"{answer['under_way']:,} left as they are: under way just now; ask once more"
    for each in answer["changes"][:_NAMED]:
        yield safe(f"  {each['id']}  {each['recipient']}")
        yield safe(f"    then  {each['then']}")
        if not each["left"]:
            yield safe(
                f"    now   {each['now'] or 'nowhere: no rule leads there, or others have got it'}"
            )
        else:
            yield f"    left  {_LEFT[each['kind']]}"
    named = min(_NAMED, len(answer["changes"]))
    more = sum(counts.values()) + sum(answer["left"].values()) - named
    if more > 0:
        yield f"  ... and {more:,} more (--json names up to a thousand)"


_NAMED = 20  # recipients

_REROUTED = {
    "route": "by another route",
    "mailbox": "to other mailboxes",
    "sender": "from another reverse-path",
    "held": "held",
}
_LEFT = {
    "refused": "the rules would refuse them now",
    "discarded": "the rules would discard them now",
    "loop": "they would loop now",
    "unknown": "the rules cannot decide now",
    "copy": "copies, and no rule sends any there now",
}


def _suspension(each: dict[str, Any], now: float) -> str:
    left = coarse(max(math.ceil(each["until"] - now), 0))
    reason = f": {each['reason']}" if each["reason"] else ""
    by = f" by {each['by']}" if each["by"] else ""
    until = f"for {left} more, until {moment(each['until'])}"
    return f"{each['kind']} {each['whom']} {until}{by}{reason}"


def _site(site: dict[str, Any], now: float) -> str:
    if site["blocked_until"]:
        probe = f", asks again in {coarse(site['resume_at'] - now)}" if site["resume_at"] else ""
        return f"{site['site']} takes nothing from us{probe}: {site['trouble']}"
    rate = f" to {site['rate']:.4g} a minute" if site["rate"] else ""
    many = (
        f"{',' if rate else ' to'} {site['connections']} at a time" if site["connections"] else ""
    )
    pause = f", not before {moment(site['resume_at'])}" if site["resume_at"] > now + 5 else ""
    return f"{site['site']} slowed{rate}{many}{pause}: said {site['trouble']}"


def filter_lines(answer: dict[str, Any], now: float) -> Iterator[str]:
    """Who is asked, how long they take, and how often they did not say."""
    if not answer["filters"]:
        yield "No rule asks a filter."
        return
    yield f"{'FILTER':24}  {'ANSWERS':>9}  {'MEAN':>8}  {'SLOWEST':>8}  {'TROUBLE':>7}  WHERE"
    for each in answer["filters"]:
        mean = each["seconds"] / each["asked"] if each["asked"] else 0.0
        yield safe(
            f"{each['kind'] + ' ' + each['name']:24}  {each['asked']:9,}  {mean * 1000:6.1f}ms"
            f"  {each['slowest'] * 1000:6.0f}ms  {each['trouble']:7,}  {each['where']}"
        )
        if each["trouble"]:
            ago = duration(max(int(now - each["last_trouble_at"]), 0))
            yield safe(f"    {ago} ago: {each['last_trouble']} (on failure {each['on_failure']})")


def token_lines(answer: dict[str, Any]) -> Iterator[str]:
    """What `relayctl token` answers with."""
    wide = max((len(each["name"]) for each in answer["tokens"]), default=0)
    for each in answer["tokens"]:
        whose = f"  for {each['domain']}" if each["domain"] else ""
        yield f"{each['name']:{wide}}  {each['role']:8}  since {moment(each['since'])}{whose}"
    if answer["revoked"]:
        yield f"{answer['revoked']} is revoked"
    if answer["token"]:
        yield f"keep it, it is not shown again: {answer['token']}"


def table_lines(answer: dict[str, Any], now: float) -> Iterator[str]:
    """How the directories are, or that one was believed."""
    if "accepted" in answer:
        yield safe(f"Table {answer['accepted']}: {answer['entries']:,} entries are in force.")
    elif not answer["tables"]:
        yield "No table is read from a directory."
    for table in answer.get("tables", ()):
        yield from _table_lines(table, now)


def _table_lines(table: dict[str, Any], now: float) -> Iterator[str]:
    name, since = table["name"], table["since"]
    if table["entries"] is None:
        entries = "never read: what is looked up in it is answered with 451"
    else:
        confirmed = coarse(max(now - table["confirmed"], 0.0))
        entries = f"{table['entries']:,} entries, as its source said {confirmed} ago"
    yield safe(f"{'table':13}  {name} ({table['kind']}): {entries}")
    if table["trouble"]:
        holds = "the last good entries are in force"
        if table["stale"]:
            holds = "for too long: what is looked up in it is answered with 451"
        elif table["entries"] is None:
            holds = "there are none to fall back on"
        yield safe(f"{'TABLE':13}  {name} not read since {moment(since)}; {holds}:")
        yield safe(f"{'':13}  {table['trouble']}")
    if table["asks"]:
        yield safe(
            f"{'TABLE ASKS':13}  {name} {table['asks']}: not taken up; if that is right, "
            f'"relayctl table accept {name}"'
        )
    if table["passed_over"]:
        yield safe(f"{'':13}  {many(table['passed_over'], 'entry', 'entries')} passed over:")
        for each in table["examples"]:
            yield safe(f"{'':13}  {each['key']}: {each['why']}")


def _refused_lines(refused: dict[str, Any], now: float) -> Iterator[str]:
    since = refused["since"]
    ago = duration(int(now - since))
    holds = "the old rules hold"
    if refused.get("last_good"):
        holds = f"started with the last good configuration, of {moment(refused['last_good'])}"
    yield f"{'REFUSED':13}  what is on disk, since {moment(since)} ({ago} ago); {holds}:"
    for line in refused["why"].split("\n"):
        yield safe(f"{'':13}  {line}")


def _trouble(lane: dict[str, Any], now: float) -> str:
    if lane["standing"] == "open" or not lane.get("trouble"):
        return ""
    if lane["standing"] == "slowed":
        interval = lane.get("interval", 0)
        apart = f", one in {interval:.1f}s" if interval else ""
        return f" to {lane['window']} at a time{apart}: said {lane['trouble']}"
    if lane["standing"] == "refusing":
        return f" some: {lane['trouble']}"
    probe = lane.get("probe_at", 0)
    again = f", next try in {coarse(probe - now)}" if probe > now else ""
    if lane["standing"] in ("suspended", "blocked"):
        return f"{again}: {lane['trouble']}"
    return f" after {many(lane['failures'], 'failure')}{again}: {lane['trouble']}"


def found_lines(found: dict[str, Any]) -> Iterator[str]:
    """One recipient that was looked for."""
    reply = f"  {found['reply']}" if found["reply"] else ""
    was = _was(found["recipient"], found["original"])
    yield safe(
        f"{found['id']}  {moment(found['received_at'])}  {found['state']:9}"
        f"  <{found['sender']}> -> <{found['recipient']}>{was}"
    )
    about = "  ".join(filter(None, (octets(found["size"]), found["message_id"], found["subject"])))
    yield safe(f"    {about}")
    if reply:
        yield safe(f"  {reply}")


def _was(mailbox: str, original: str) -> str:
    """As whom the client named this one."""
    if not original:
        return " (a copy)"
    return f" (given as <{original}>)" if original != mailbox else ""


def event_line(event: dict[str, Any]) -> str:
    """Something that happened."""
    kind, at = event["event"], moment(event["at"])
    if kind == "missed":
        count = f"{event['count']:,} events" if event["count"] else "some events"
        return f"{at}  {count} were not told: nobody has kept them"
    to = ", ".join(f"<{each}>" for each in event.get("recipients", ()))
    if kind == "accepted":
        more = event["count"] - len(event["recipients"])
        rest = f"<{event['sender']}> -> {to}{f' and {more:,} more' if more else ''}"
        rest += f"  {octets(event['size'])}  {event['message_id']}  {event['subject']}"
    elif kind == "attempt":
        said = event["reply"] or event["why"]
        rest = f"{to} via {event['next_hop']}  {event['state']}  {said}"
    elif kind == "refused":
        rest = f"[{event['client']}] {event['helo']}  {event['command']}  {event['reply']}"
    elif kind == "report":
        rest = f"{event['kind']}, as {event['report']} to {to}"
    else:
        rest = f"{event['what']}  {_pairs(event['facts'])}"
    return safe(f"{at}  {kind:8}  {event['id'] + '  ' if 'id' in event else ''}{rest.rstrip()}")


_HELD = re.compile(r"450 4\.7\.0 Held by (.*)", re.DOTALL)


def show_lines(story: dict[str, Any], now: float) -> Iterator[str]:
    """One message, with each recipient's fate."""
    client = story["client"]
    yield f"{'message':12}  {story['id']}"
    yield safe(f"{'from':12}  <{story['sender']}>")
    yield (
        f"{'received':12}  {moment(story['received_at'])}"
        f" ({duration(int(now - story['received_at']))} ago)"
    )
    yield safe(f"{'client':12}  {_client(client)}")
    yield f"{'size':12}  {octets(story['size'])}"
    parameters = {**story["parameters"]}
    for name, found in (
        ("Message-ID", story.get("message_id")),
        ("Subject", story.get("subject")),
        ("ENVID", parameters.pop("envid", "")),
        ("login", client.get("login")),
    ):
        if found:
            yield safe(f"{name:12}  {found}")
    if parameters:
        yield safe(f"{'parameters':12}  {_pairs(parameters)}")
    if story.get("rules"):
        yield safe(f"{'rules':12}  {story['rules']}")
    for recipient in story["recipients"]:
        yield ""
        yield from recipient_lines(recipient, now)
        yield from _forecast_lines(story.get("trail", ()), recipient["mailbox"])


def _forecast_lines(trail: Iterable[dict[str, str]], mailbox: str) -> Iterator[str]:
    for step in trail:
        if step["stage"] == "forecast" and step["note"].startswith(f"{mailbox}: "):
            reason = step["note"].removeprefix(f"{mailbox}: ")
            yield safe(f"    forecast of DMARC: {step['rule']}: {reason}")


def recipient_lines(recipient: dict[str, Any], now: float) -> Iterator[str]:
    """What became of one recipient so far."""
    mailbox, original = recipient["mailbox"], recipient["original"]
    was = _was(mailbox, original)
    yield safe(f"<{mailbox}>{was} via {recipient['next_hop']}")
    state, attempts = recipient["state"], recipient["attempts"]
    after = f" after {many(attempts, 'attempt')}" if attempts else ""
    if state == "queued":
        due = _due(recipient.get("next_attempt", 0), now)
        yield f"    queued{after}, next try {due}"
        if recipient.get("behind"):
            yield safe(f"    its next hop is down: {recipient['behind']}")
    else:
        ended = recipient.get("ended_at", 0)
        when = f", {moment(ended)}" if ended else ""
        note = f": {recipient['note']}" if recipient.get("note") else ""
        yield safe(f"    {state}{after}{when}{note}")
    if state == "held" and (by := _HELD.match(recipient["reply"])):
        yield safe(f"    held by {by[1]}")
    elif recipient["reply"]:
        # without a name nobody spoke at that address: the words are our own
        who, address = recipient["remote_mta"] or "relayd", recipient["remote_address"]
        where = f" [{address}]" if address and who != "relayd" else ""
        yield safe(f"    {who}{where} said: {recipient['reply']}")
    if recipient["why"]:
        yield safe(f"    because: {recipient['why']}")


def _client(client: dict[str, Any]) -> str:
    if not client.get("address"):
        return "relayd itself"
    parts = [f"{client.get('helo') or '?'} [{client['address']}]"]
    for name, word in (("protocol", "by"), ("listener", "at"), ("login", "as"), ("tls", "with")):
        if client.get(name):
            parts.append(f"{word} {client[name]}")
    return " ".join(parts)


def _pairs(facts: dict[str, Any]) -> str:
    return " ".join(f"{name}={fact}" for name, fact in facts.items())


def many(count: int, noun: str, several: str = "") -> str:
    """So many of them, in words: one is one."""
    return f"{count} {noun}" if count == 1 else f"{count:,} {several or noun + 's'}"
