"""The verbs of the four stages: how `accept` to `route` are read into rules."""

from __future__ import annotations

import re

from relayd.mail.address import Mailbox
from relayd.mail.envelope import DIRECT
from relayd.mail.reply import Reply
from relayd.rules.conditions.condition import Condition
from relayd.rules.conditions.mailbox import ToRecipient
from relayd.rules.conditions.registry import conditions, when
from relayd.rules.language.lexer import TokenKind
from relayd.rules.language.model import (
    AdmissionRule,
    Copy,
    Forward,
    HeaderEdit,
    HeaderRewrite,
    Rewrite,
    Route,
)
from relayd.rules.language.pattern import (
    Domain,
    Exact,
    InTable,
    LocalPart,
    MailboxPattern,
    Null,
    Regex,
    Replacement,
    Reversible,
    SubDomains,
    Template,
)
from relayd.rules.language.patternreader import mailbox_patterns
from relayd.rules.language.regex import template_trouble
from relayd.rules.language.source import Complaint
from relayd.rules.language.words import Words, domain_of, local_of, mailbox_of, table_name

_REFUSALS = {"reject": (550, 400, 599), "defer": (451, 400, 499)}  # code by itself, least, most
_REASONED = ("hold", "discard")
_CODE = re.compile(r"\d+\Z")
MOST_PATIENCE = 120  # seconds: with what came before, a client has waited for eight minutes by then
STATUS = re.compile(r"[245]\.\d{1,3}\.\d{1,3}\Z")
# how others' aliases say that mail goes nowhere, and the verb for it
_NO_TARGETS = {
    **dict.fromkeys((":fail:", ":unknown:", ":defer:"), "reject"),
    **dict.fromkeys((":blackhole:", "/dev/null"), "discard"),
}


def read_admission(words: Words) -> AdmissionRule:
    """`accept`, `reject`, `defer`, `hold` or `discard`.

    What it says to the client, or to the log, stands in front of `when` or behind it.
    """
    verb = words.verb.text.lower()
    only_when = words.comes("when") and (words.at_word("when") or _said(words))
    tests = () if only_when else conditions(words)
    refuses = verb in _REFUSALS
    before = words.place
    reply = _reply(words, verb) if refuses else None
    reason = _reason(words, verb)
    silent = words.place == before
    needed = when(words)
    if silent:
        reply = _reply(words, verb) if refuses else None
        reason = _reason(words, verb)
    return AdmissionRule(verb, tests, reply, reason, when=needed, place=words.verb.place)


def _said(words: Words) -> bool:
    """Whether a reply or a reason is next."""
    token = words.peek()
    return token is not None and (
        token.kind is TokenKind.STRING
        or (token.kind is TokenKind.WORD and bool(_CODE.match(token.text)))
    )


def _reason(words: Words, verb: str) -> str:
    token = words.peek()
    if verb not in _REASONED or token is None or token.kind is not TokenKind.STRING:
        return ""
    return words.next("a reason").text


def _reply(words: Words, verb: str) -> Reply:
    """`[CODE [STATUS]] ["TEXT"]`, with 550 5.7.1 or 451 4.7.1 as the default."""
    code, least, most = _REFUSALS[verb]
    status, text = "", "Refused by a rule of this site"
    token = words.peek()
    if token is not None and token.kind is TokenKind.WORD and _CODE.match(token.text):
        code = int(words.word("a reply code").text)
        if not least <= code <= most or len(token.text) != 3:
            does = "puts nothing off" if verb == "defer" else "refuses nothing"
            raise words.complain(
                f"{token.text} {does}", f"expected a reply code from {least} to {most}"
            )
        token = words.peek()
        if token is not None and token.kind is TokenKind.WORD and not token.is_word("when"):
            status = words.word("a status code").text
            if not STATUS.match(status):
                raise words.complain(
                    f'"{status}" is no status code',
                    'expected e.g. 5.7.1, then the text in quotes: "..."',
                )
            if status[0] != str(code)[0]:
                raise words.complain(
                    f"status {status} does not go with code {code}",
                    f"expected {str(code)[0]}{status[1:]}",
                )
    token = words.peek()
    if token is not None and token.kind is TokenKind.STRING:
        text = words.string("the text").text
        if not (text.isascii() and text.isprintable() and 0 < len(text) <= 400):
            raise words.complain(
                "a reply's text is printable ASCII", "expected 1 to 400 such characters"
            )
    elif token is not None and not token.is_word("when"):
        if STATUS.match(token.text):
            raise words.missing(f'a reply code before it: "{token.text[0]}50 {token.text}"')
        raise words.missing('the text in quotes: "..."')
    return Reply.of(code, status or f"{code // 100}.7.1", text)


def read_rewrite(words: Words) -> Rewrite | HeaderRewrite:
    """`rewrite sender`, `rewrite recipient` or `rewrite header`."""
    known = ("sender", "recipient", "header")
    what = words.choice(known, "sender, recipient or header (fields: header From, To ...)")
    fields: tuple[str, ...] = ()
    if what == "header":
        fields = words.commas(lambda: _field(words))
    start = words.place
    patterns = mailbox_patterns(words)
    if what != "sender" and any(isinstance(pattern, Null) for pattern in patterns):
        raise words.complain("only a sender can be null", "expected a mailbox pattern", start)
    at = _at(words, patterns)
    replacement: Replacement | Reversible | None = None
    if not at and words.skip_mark("->"):
        if what == "header" and words.at_word("srs"):
            replacement = _reversible(words, fields)
        else:
            replacement = _replacement(words, patterns)
        if isinstance(replacement, Null) and what != "sender":
            raise words.complain("only a sender can be null", "expected a mailbox pattern")
    elif not _tables(patterns):
        raise words.missing('"->" and what it becomes')
    place = words.verb.place
    if what == "header":
        return HeaderRewrite(fields, patterns, replacement, at, when=when(words), place=place)
    assert not isinstance(replacement, Reversible)
    return Rewrite(what, patterns, replacement, at, when=when(words), place=place)


def _reversible(words: Words, fields: tuple[str, ...]) -> Reversible:
    words.skip_word("srs")
    if [name.lower() for name in fields] != ["from"]:
        raise words.complain(
            '"srs" makes an address of the author', 'expected "rewrite header From"'
        )
    return Reversible()


def _tables(patterns: tuple[MailboxPattern, ...]) -> bool:
    return all(isinstance(pattern, InTable) for pattern in patterns)


def _at(words: Words, patterns: tuple[MailboxPattern, ...]) -> tuple[str, ...]:
    """`at @domain, ...` behind a table: the domains of its entries without one."""
    if not words.at_word("at"):
        return ()
    if not _tables(patterns):
        raise words.missing('"->" ("at" goes with a table)')
    words.skip_word("at")
    at = words.commas(lambda: _at_domain(words))
    token = words.peek()
    if token is not None and token.is_mark("->"):
        raise words.missing('nothing more (with "at" the table says where to)')
    return at


def _replacement(words: Words, patterns: tuple[MailboxPattern, ...]) -> Replacement:
    token = words.next("a mailbox, @domain or local@")
    text, place = token.text, token.place
    regexes = [pattern for pattern in patterns if isinstance(pattern, Regex)]
    if token.kind is TokenKind.STRING or (regexes and "\\" in text and text[0] != '"'):
        if len(regexes) != len(patterns):
            raise words.complain(
                "a quoted text replaces a regex only", "expected a mailbox, @domain or local@"
            )
        for regex in regexes:
            trouble = template_trouble(regex.text, text)
            if trouble:
                raise words.complain(
                    f"this does not fit the regex: {trouble}", "expected \\1 for its first group"
                )
        return Template(text)
    if token.is_word("null") or text == "<>":
        return Null()
    if text.startswith("@."):
        if not all(isinstance(pattern, SubDomains) for pattern in patterns):
            raise words.complain(
                f'"{text}" keeps a sub-domain, but none is matched',
                f'did you mean "@{text[2:]}"?',
            )
        return SubDomains(domain_of(text[2:], place))
    if text.startswith("@"):
        return Domain(domain_of(text[1:], place))
    if text.endswith("@"):
        return LocalPart(local_of(text[:-1], place))
    return Exact(mailbox_of(token))


def _field(words: Words) -> str:
    name = words.field_name()
    if name.lower() == "received":
        raise words.complain("Received fields are how mail loops are found", "leave them alone")
    return name


def read_header(words: Words) -> HeaderEdit:
    """`header add`, `header remove` or `header replace`."""
    action = words.choice(("add", "remove", "replace"), "add, remove or replace")
    token = words.peek()
    if token is not None and token.kind is TokenKind.STRING and ":" in token.text:
        name, _, value = token.text.partition(":")
        raise words.missing(f'the name apart: {name} "{value.strip()}"')
    name = _field(words)
    value = "" if action == "remove" else words.next("the field's text in quotes").text
    return HeaderEdit(action, name, value, when=when(words), place=words.verb.place)


def read_forward(words: Words) -> Forward:
    """`forward`."""
    start = words.place
    if words.at_word("to"):
        raise words.missing('the mailbox itself, without "to"')
    patterns = mailbox_patterns(words)
    if any(isinstance(pattern, Null) for pattern in patterns):
        raise words.complain("a recipient is never null", "expected a mailbox pattern", start)
    at = _at(words, patterns)
    if not words.skip_mark("->"):
        if not _tables(patterns):
            raise words.missing('"->" and where to')
        return Forward(patterns, (), at, when=when(words), place=words.verb.place)
    targets = words.commas(lambda: _target(words, patterns))
    return Forward(patterns, targets, when=when(words), place=words.verb.place)


def _at_domain(words: Words) -> str:
    token = words.word("@domain")
    if not token.text.startswith("@"):
        raise words.complain(f'"{token.text}" is no @domain', f'did you mean "@{token.text}"?')
    return words.domain(token.text[1:])


def _target(words: Words, patterns: tuple[MailboxPattern, ...]) -> Replacement:
    if words.at_word("any", "direct"):
        raise words.missing("a mailbox, @domain or local@")
    token = words.peek()
    verb = _NO_TARGETS.get(token.text.lower()) if token is not None else None
    if token is not None and verb is not None:
        hint = f'did you mean "{verb} to {patterns[0]}", in place of this?'
        raise Complaint(token.place, f'"{token.text}" is no target', hint)
    target = _replacement(words, patterns)
    if isinstance(target, Null):
        raise words.complain("mail cannot be forwarded to null", 'did you mean "discard"?')
    return target


def read_route(words: Words) -> Route:
    """`route`."""
    token = words.peek()
    table = table_name(token) if token is not None else None
    tests: tuple[Condition, ...] = ()
    if table is not None:
        words.next("a table")
    else:
        tests = conditions(words)
    hops: tuple[str, ...] = ()
    if words.skip_word("via"):
        if words.at_word(DIRECT):
            raise words.missing('the name of a next hop ("direct" stands alone, without "via")')
        hops = _hops(words)
    elif words.at_word(DIRECT) and table is None:
        return _direct(words, tests)
    elif not words.skip_word(DIRECT) and table is None:
        name = token_.text if (token_ := words.peek()) is not None else "NEXT-HOP"
        raise words.missing(f'"via {name}" or "direct"')
    if table is not None and (hops or words.last is not (token.place if token else None)):
        raise words.complain(
            "a transport table says itself where to", f'did you mean "route to <{table}> ..."?'
        )
    patience = _patience(words)
    needed = when(words)
    return Route(tests, hops, table or "", patience=patience, when=needed, place=words.verb.place)


def _patience(words: Words) -> str:
    """`[cut-through TIME]`: how long the client waits for the first attempt."""
    token = words.peek()
    if not words.skip_word("cut-through"):
        if token is not None and token.text.lower().startswith("cut"):
            raise words.missing('"cut-through" and a time')
        return ""
    token = words.peek()
    seconds = words.duration()
    assert token is not None
    if not 1.0 <= seconds <= MOST_PATIENCE:
        most = f"{MOST_PATIENCE // 60}m"
        raise words.complain(
            f"{token.text} is out of range", f"expected 1s to {most}: clients give up"
        )
    return token.text


def read_copy(words: Words) -> Copy:
    """`copy CONDITIONS [to MAILBOX] [via NEXT-HOP, ...] [when ...]`.

    The last `to` with one whole mailbox, unless it is the first phrase, is where the copy goes.
    """
    tests = conditions(words)
    target: Mailbox | None = None
    for at in range(len(tests) - 1, 0, -1):
        named = tests[at].operands if isinstance(tests[at], ToRecipient) else ()
        if len(named) == 1 and isinstance(named[0], Exact):
            target, tests = named[0].mailbox, (*tests[:at], *tests[at + 1 :])
            break
    hops: tuple[str, ...] = ()
    if words.at_word(DIRECT):
        raise words.missing('"via NEXT-HOP", or where the copy goes: "to MAILBOX"')
    if words.skip_word("via"):
        if words.at_word(DIRECT):
            raise words.missing('the name of a next hop (without "via" its own route is taken)')
        hops = _hops(words)
    if target is None and not hops:
        raise words.missing('where the copy goes: "to MAILBOX", or "via NEXT-HOP"')
    return Copy(tests, target, hops, when=when(words), place=words.verb.place)


def _hops(words: Words) -> tuple[str, ...]:
    hops = words.commas(lambda: words.name("the name of a next hop"))
    if DIRECT in hops:
        raise words.complain(
            '"direct" does not stand among next hops', 'expected names only, or "direct, via ..."'
        )
    return hops


def _direct(words: Words, tests: tuple[Condition, ...]) -> Route:
    """`direct [from SOURCE][, via NEXT-HOP, ...] [cut-through TIME]`."""
    words.skip_word(DIRECT)
    source = words.name("the name of a source") if words.skip_word("from") else ""
    hops: tuple[str, ...] = ()
    if words.skip_mark(","):
        if not words.skip_word("via"):
            raise words.missing('"via" and the next hop for when the direct way is closed')
        hops = _hops(words)
    patience = _patience(words)
    needed = when(words)
    return Route(
        tests,
        hops,
        direct_first=bool(hops),
        source=source,
        patience=patience,
        when=needed,
        place=words.verb.place,
    )
