"""The verbs of the language: for each the function that reads its statement into a value."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from relayd.mail.address import Mailbox, ReversePath
from relayd.mail.envelope import DIRECT
from relayd.mail.nexthop import LMTP, SMTP, HostPort, NextHop
from relayd.mail.reply import Reply
from relayd.rules.conditions import condition, conditions, mailbox_patterns, when
from relayd.rules.lexer import Kind, Statement, Token
from relayd.rules.model import (
    REWRITTEN,
    Admission,
    Condition,
    Expect,
    Expected,
    Forward,
    HeaderEdit,
    HeaderRewrite,
    HopDef,
    Include,
    Item,
    Operand,
    Rewrite,
    Route,
    Subaddress,
    TableDef,
)
from relayd.rules.pattern import (
    Domain,
    Exact,
    InTable,
    LocalPart,
    MailboxPattern,
    Net,
    Null,
    Regex,
    Replacement,
    SubDomains,
    Template,
    Text,
)
from relayd.rules.regex import template_trouble
from relayd.rules.source import Complaint, Problem, did_you_mean, one_of
from relayd.rules.srsrule import read_srs
from relayd.rules.words import Words, domain_of, host_port, local_of, mailbox_of, table_name

T = TypeVar("T")
Reader = Callable[[Words], T]
KINDS = ("aliases", "virtual", "canonical", "transport", "sqlite")
_CODE = re.compile(r"\d+\Z")
_STATUS = re.compile(r"[245]\.\d{1,3}\.\d{1,3}\Z")
_FIELD = re.compile(r"[\x21-\x39\x3b-\x7e]+\Z")  # ftext of RFC 5322 section 2.2
_RESERVED = (DIRECT, "any", "via", "null")


def read_statement(statement: Statement, verbs: Mapping[str, Reader[T]]) -> T:
    """The statement's value; raises Complaint."""
    verb = statement.verb
    reader = verbs.get(verb.text.lower()) if verb.kind is Kind.WORD else None
    if reader is None:
        hint = did_you_mean(verb.text, verbs) or "expected a verb such as accept, forward or route"
        raise Complaint(verb.place, f'unknown verb "{verb.text}"', hint)
    words = Words(statement)
    value = reader(words)
    words.end()
    return value


def read_statements(
    all_of_them: list[Statement], verbs: Mapping[str, Reader[T]]
) -> tuple[list[T], list[Problem]]:
    """The value of each statement, and a problem for each that has none."""
    values, problems = [], []
    for statement in all_of_them:
        try:
            values.append(read_statement(statement, verbs))
        except Complaint as complaint:
            problems.append(complaint.problem)
    return values, problems


def _admission(words: Words) -> Admission:
    verb = words.verb.text.lower()
    tests = conditions(words)
    reply, reason = None, ""
    if verb == "reject":
        reply = _reply(words)
    elif verb != "accept":
        token = words.peek()
        reason = words.next("a reason").text if token and token.kind is Kind.STRING else ""
    return Admission(verb, tests, reply, reason, when=when(words), place=words.verb.place)


def _reply(words: Words) -> Reply:
    """`[CODE [STATUS]] ["TEXT"]`, with 550 5.7.1 as the default."""
    code, status, text = 550, "", "Refused by a rule of this site"
    token = words.peek()
    if token is not None and token.kind is Kind.WORD and _CODE.match(token.text):
        code = int(words.word("a reply code").text)
        if not 400 <= code <= 599 or len(token.text) != 3:
            raise words.complain(
                f"{token.text} refuses nothing", "expected a reply code from 400 to 599"
            )
        token = words.peek()
        if token is not None and token.kind is Kind.WORD and not token.is_word("when"):
            status = words.word("a status code").text
            if not _STATUS.match(status):
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
    if token is not None and token.kind is Kind.STRING:
        text = words.string("the text").text
        if not (text.isascii() and text.isprintable() and 0 < len(text) <= 400):
            raise words.complain(
                "a reply's text is printable ASCII", "expected 1 to 400 such characters"
            )
    elif token is not None and not token.is_word("when"):
        raise words.missing('the text in quotes: "..."')
    return Reply.of(code, status or f"{code // 100}.7.1", text)


def _rewrite(words: Words) -> Rewrite | HeaderRewrite:
    what = words.choice(("sender", "recipient", "header"), "sender, recipient or header")
    fields: tuple[str, ...] = ()
    if what == "header":
        fields = words.commas(lambda: _field(words))
    start = words.place
    patterns = mailbox_patterns(words)
    if what != "sender" and any(isinstance(pattern, Null) for pattern in patterns):
        raise words.complain("only a sender can be null", "expected a mailbox pattern", start)
    at = _at(words, patterns)
    replacement = None
    if not at and words.skip_mark("->"):
        replacement = _replacement(words, patterns)
        if isinstance(replacement, Null) and what != "sender":
            raise words.complain("only a sender can be null", "expected a mailbox pattern")
    elif not _tables(patterns):
        raise words.missing('"->" and what it becomes')
    place = words.verb.place
    if what == "header":
        return HeaderRewrite(fields, patterns, replacement, at, when=when(words), place=place)
    return Rewrite(what, patterns, replacement, at, when=when(words), place=place)


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
    if token.kind is Kind.STRING or (regexes and "\\" in text and text[0] != '"'):
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
    token = words.word("a header field's name")
    name = token.text
    if not _FIELD.match(name):
        hint = "expected e.g. X-Gateway"
        if _FIELD.match(name.rstrip(":")):
            hint = f'did you mean "{name.rstrip(":")}"?'
        raise words.complain(f'"{name}" is no header field\'s name', hint)
    if name.lower() == "received":
        raise words.complain("Received fields are how mail loops are found", "leave them alone")
    return name


def _header(words: Words) -> HeaderEdit:
    action = words.choice(("add", "remove", "replace"), "add, remove or replace")
    name = _field(words)
    value = "" if action == "remove" else words.next("the field's text in quotes").text
    return HeaderEdit(action, name, value, when=when(words), place=words.verb.place)


def _forward(words: Words) -> Forward:
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
    target = _replacement(words, patterns)
    if isinstance(target, Null):
        raise words.complain("mail cannot be forwarded to null", 'did you mean "discard"?')
    return target


def _route(words: Words) -> Route:
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
        hops = words.commas(lambda: words.name("the name of a next hop"))
        if DIRECT in hops:
            raise words.complain('"direct" does not mix with next hops', "expected names only")
    elif not words.skip_word(DIRECT) and table is None:
        name = token_.text if (token_ := words.peek()) is not None else "NEXT-HOP"
        raise words.missing(f'"via {name}" or "direct"')
    if table is not None and (hops or words.last is not (token.place if token else None)):
        raise words.complain(
            "a transport table says itself where to", f'did you mean "route to <{table}> ..."?'
        )
    return Route(tests, hops, table or "", when=when(words), place=words.verb.place)


def _table(words: Words) -> TableDef:
    name, place = words.name("the table's name"), words.last
    kind = "list"
    if not words.at_word("file") and not (words.peek() or words.verb).is_mark("{"):
        kind = words.choice((*KINDS, "file"), 'a kind, "file PATH" or "{"')
    if words.skip_mark("{"):
        if kind != "list":
            raise words.complain(f"a table of kind {kind} lives in a file", "expected file PATH")
        tokens: list[Token] = []
        while not words.skip_mark("}"):
            tokens.append(words.next('an entry or "}"'))
            words.skip_mark(",")
        return TableDef(
            name,
            kind,
            tuple(token.text for token in tokens),
            place=place,
            entry_places=tuple(token.place for token in tokens),
        )
    if not words.skip_word("file"):
        raise words.missing('"file PATH"' + ("" if kind != "list" else ' or "{"'))
    path, path_place = words.next("the file's path").text, words.last
    includes = query = ""
    if kind == "aliases" and words.skip_word("include"):
        includes = words.next("the folder below which :include: is allowed").text
    if kind == "sqlite":
        if not words.skip_word("query"):
            raise words.missing('query "SELECT ... WHERE ... = ?"')
        query = words.string("the query in quotes").text
    return TableDef(name, kind, (), path, includes, query, place=place, entry_places=(path_place,))


def _next_hop(words: Words) -> HopDef:
    name, place = words.name("the next hop's name"), words.last
    if name.lower() in (SMTP, LMTP):
        raise words.complain("a next hop has a name first", f'expected "next-hop NAME {name} ..."')
    if name.lower() in _RESERVED:
        raise words.complain(f'"{name}" has a meaning of its own', "expected another name")
    protocol = words.choice((SMTP, LMTP), "smtp or lmtp")
    unix = ""
    hosts: tuple[HostPort, ...] = ()
    token = words.peek()
    if token is not None and token.text.startswith("unix:"):
        unix = words.next("a socket").text.removeprefix("unix:")
        if protocol != LMTP:
            raise words.complain("a unix socket goes with lmtp", "expected host:port")
        if not unix.startswith("/"):
            raise words.complain(f'"{unix}" is no absolute path', 'expected "unix:/path"')
    else:
        hosts = words.commas(lambda: _host(words, protocol))
    mx = protocol == SMTP and words.skip_word("mx")
    return HopDef(NextHop(name, protocol, hosts, unix, mx), place=place)


def _host(words: Words, protocol: str) -> HostPort:
    token = words.next("host:port" if protocol == SMTP else "unix:/path or host:port")
    return host_port(token.text, token.place, 25 if protocol == SMTP else 0)


def _subaddress(words: Words) -> Subaddress:
    text = words.next("the separator, e.g. +").text
    if any(letter.isalnum() or letter in '@."\\ ,' for letter in text) or not text.isascii():
        raise words.complain(f'"{text}" cannot separate a tag', "expected e.g. + or -")
    return Subaddress(text, place=words.verb.place)


def _include(words: Words) -> Include:
    return Include(words.next("a file or a pattern such as rules.d/*.rules").text, words.last)


def _expect(words: Words) -> Expect:
    facts: dict[str, str] = {}
    sender: ReversePath | str = ""
    recipient: Mailbox | None = None
    names = ("from", "sender", "login", "listener", "helo", "to")
    while not words.skip_mark("->"):
        if not words.at_word(*names):
            raise words.missing(one_of([*names, '"->"']))
        name = words.word("a fact").text.lower()
        if name in facts or (name == "to" and recipient) or (name == "sender" and sender != ""):
            raise words.complain(f'"{name}" was said already', "expected it once")
        if name == "to":
            recipient = words.mailbox()
        elif name == "sender":
            sender = _path(words)
        else:
            test = condition(words, name)
            facts[name] = _one_value(words, test.operands)
    if recipient is None:
        raise words.complain("the test has no recipient", 'expected "to MAILBOX" before "->"')
    verdict, code, status, goals = _expected(words)
    new_sender: ReversePath | str = ""
    if words.skip_word("sender"):
        new_sender = REWRITTEN if words.skip_word(REWRITTEN) else _path(words)
    return Expect(
        recipient,
        facts.get("from", ""),
        sender,
        facts.get("login", ""),
        facts.get("listener", ""),
        facts.get("helo", ""),
        verdict,
        code,
        status,
        goals,
        new_sender,
        place=words.verb.place,
    )


def _one_value(words: Words, operands: tuple[Operand, ...]) -> str:
    """What a test says of a client, a name: one, and no table."""
    if len(operands) == 1:
        operand = operands[0]
        if isinstance(operand, Text):
            return operand.text
        if isinstance(operand, Net) and operand.network.num_addresses == 1:
            return str(operand)
    raise words.complain("a test is about one client", "expected a single value")


def _path(words: Words) -> ReversePath:
    if words.skip_word("null"):
        return None
    return words.mailbox("a mailbox or null")


def _expected(words: Words) -> tuple[str, int, str, tuple[Expected, ...]]:
    if words.skip_word("reject"):
        code, status = 0, ""
        token = words.peek()
        if token is not None:
            code = int(token.text) if re.fullmatch(r"[45]\d\d", token.text) else 0
            if not code:
                raise words.missing("a reply code from 400 to 599")
            words.next("a code")
            status = words.next("a status code").text if words.peek() is not None else ""
            if status and not _STATUS.match(status):
                raise words.complain(f'"{status}" is no status code', "expected e.g. 5.7.1")
        return "reject", code, status, ()
    if words.skip_word("discard"):
        return "discard", 0, "", ()
    verdict = "accept"
    if words.at_word("hold", "accept"):
        verdict = words.word("a verdict").text.lower()
        if words.peek() is None or words.at_word("sender"):
            return verdict, 0, "", ()
    return verdict, 0, "", _goals(words)


def _goals(words: Words) -> tuple[Expected, ...]:
    goals: list[Expected] = []
    expected = "a mailbox with its next hop, reject, hold or discard"
    while True:
        mailbox = words.mailbox(expected)
        hops: list[str] = []
        expected = "a mailbox, or the name of a next hop"
        words.skip_word("via")
        more = False
        while (token := words.peek()) is not None and token.kind is Kind.WORD:
            if "@" in token.text or token.is_word("sender"):
                break
            hops.append(words.next(expected).text)
            more = words.skip_mark(",")
            if not more:
                break
        goals.append(Expected(mailbox, ",".join(hops)))
        if not more and not words.skip_mark(","):
            return tuple(goals)


VERBS: dict[str, Reader[Item]] = {
    "accept": _admission,
    "reject": _admission,
    "hold": _admission,
    "discard": _admission,
    "rewrite": _rewrite,
    "header": _header,
    "forward": _forward,
    "route": _route,
    "table": _table,
    "next-hop": _next_hop,
    "subaddress": _subaddress,
    "include": _include,
    "expect": _expect,
    "srs": read_srs,
}
