"""Rules of every kind, for hypothesis."""

from __future__ import annotations

import ipaddress

from hypothesis import strategies as st

from relayd.mail.address import Mailbox
from relayd.mail.nexthop import HostPort, NextHop
from relayd.mail.pacing import MailProvider, PaceLimits, Rate, SourceAddress
from relayd.mail.reply import Reply
from relayd.rules.conditions.breaking import Breaks
from relayd.rules.conditions.client import FromClient
from relayd.rules.conditions.condition import Condition
from relayd.rules.conditions.everyone import Always
from relayd.rules.conditions.headerfield import ByField
from relayd.rules.conditions.mailbox import FromSender, ToRecipient
from relayd.rules.conditions.name import AtListener, ByHelo, ByLogin
from relayd.rules.conditions.security import ByCertificate, OverTls
from relayd.rules.conditions.signatures import DKIM_RESULTS, DMARC_WORDS, ByDkim, ByDmarc
from relayd.rules.conditions.size import BySize
from relayd.rules.language.model import (
    AdmissionRule,
    Expect,
    Expected,
    Forward,
    HeaderEdit,
    HeaderRewrite,
    HopDef,
    PaceDef,
    ProviderDef,
    Rewrite,
    Route,
    SourceDef,
    Subaddress,
    TableDef,
)
from relayd.rules.language.pattern import (
    Anything,
    Domain,
    Exact,
    FieldLike,
    InTable,
    LocalPart,
    Net,
    Null,
    Regex,
    Reversible,
    SignedBy,
    SizeBound,
    SubDomains,
    Template,
    Text,
)
from relayd.rules.srsrule import SrsDomain, SrsException, SrsOurs

NAMES = st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True).filter(
    lambda name: name not in ("direct", "any", "via", "null", "smtp", "lmtp", "when", "sender")
)
DOMAINS = st.sampled_from(
    [
        "example.com",
        "a.example",
        "x.y.Example.org",
        "[192.0.2.1]",
        "xn--mller-kva.example",
        "müller.example",
    ]
)
NAMED_DOMAINS = DOMAINS.filter(lambda domain: not domain.startswith("["))
LOCALS = st.one_of(
    st.from_regex(r"[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]{1,8}(\.[a-z#{}]{1,3})?", fullmatch=True),
    st.sampled_from(["john doe", 'say "hi"', "a,b", "back\\slash", "@", "-> x", "any", "жук"]),
)
MAILBOXES = st.builds(Mailbox, LOCALS, DOMAINS)
EXACT = st.builds(Exact, MAILBOXES)
DOMAIN = st.builds(Domain, DOMAINS)
SUB = st.builds(SubDomains, NAMED_DOMAINS)
LOCAL = st.builds(LocalPart, LOCALS)
TABLE = st.builds(InTable, NAMES)
REGEX = st.sampled_from([r"^(.+)-team@example\.com$", r"@x\.", r'^"a b"@', r"^[^@]+@(a|b)$"]).map(
    Regex
)
PATTERN = st.one_of(EXACT, DOMAIN, SUB, LOCAL, TABLE, REGEX, st.just(Anything()))
SENDER = st.one_of(PATTERN, st.just(Null()))
NETWORKS = st.one_of(
    st.sampled_from(["192.0.2.0/24", "10.0.0.0/8", "2001:db8::/32"]).map(ipaddress.ip_network),
    st.ip_addresses().map(ipaddress.ip_network),
)
CLIENT = st.one_of(st.builds(Net, NETWORKS), TABLE, st.just(Anything()))
WORDS = st.one_of(
    st.from_regex(r"[a-z0-9.:\[\]-]{1,10}", fullmatch=True),
    st.sampled_from(["two words", "Any one", 'q"uote', "co,mma", "#hash", "{", "a->b"]),
).filter(lambda word: word != "any")
NAME = st.one_of(st.builds(Text, WORDS), TABLE, st.just(Anything()))


def some(items: st.SearchStrategy) -> st.SearchStrategy:
    """One to three in a tuple."""
    return st.lists(items, min_size=1, max_size=3).map(tuple)


FINGERPRINTS = st.from_regex("[0-9a-f]{64}", fullmatch=True)
PRINTS = st.one_of(st.builds(Text, FINGERPRINTS), TABLE, st.just(Anything()))


def _alone(item: object) -> tuple[object]:
    return (item,)


OPERANDS: dict[type[Condition], st.SearchStrategy] = {
    FromClient: some(CLIENT),
    ToRecipient: some(PATTERN),
    FromSender: some(SENDER),
    ByLogin: some(NAME),
    AtListener: some(NAME),
    ByHelo: some(NAME),
    ByCertificate: some(PRINTS),
    OverTls: st.just(()),
    Always: st.just(()),
    ByDkim: some(
        st.builds(
            SignedBy, st.sampled_from(DKIM_RESULTS),
            st.one_of(st.none(), st.builds(Domain, DOMAINS), st.builds(SubDomains, NAMED_DOMAINS)),
        )
    ),
    ByDmarc: some(st.sampled_from(DMARC_WORDS).map(Text)),
    BySize: st.builds(SizeBound, st.sampled_from("<>"), st.integers(1, 2**50 - 1)).map(_alone),
    ByField: st.builds(
        FieldLike, st.sampled_from(["Subject", "List-Id", "X-A"]),
        st.sampled_from(["spam", r"^re:", 'say "hi"', "a#b", r"\d+ pills?", "", "->"]),
    ).map(_alone),
}  # fmt: skip
CONTENT_KINDS = (ByDkim, ByDmarc, BySize, ByField)
"""What may stand behind each condition."""


def _conditions(*, negated: bool) -> st.SearchStrategy[Condition]:
    no = st.booleans() if negated else st.just(False)
    return st.one_of(*(st.builds(kind, operands, no) for kind, operands in OPERANDS.items()))


CONTENT = st.one_of(*(st.builds(kind, OPERANDS[kind], st.booleans()) for kind in CONTENT_KINDS))
LEADING = some(_conditions(negated=False))
WHEN = st.one_of(st.just(()), some(_conditions(negated=True)))
TEXT = st.text("".join(chr(n) for n in range(32, 127) if chr(n) != "\\"), min_size=1, max_size=40)
REPLIES = st.builds(
    lambda code, subject, detail, text: Reply(code, subject, detail, (text,)),
    st.sampled_from([450, 550, 554]), st.integers(0, 9), st.integers(0, 99), TEXT,
)  # fmt: skip
FIELDS = st.from_regex(r"X-[A-Za-z0-9-]{1,10}", fullmatch=True)
KEPT = st.one_of(EXACT, DOMAIN, LOCAL)


@st.composite
def changes(draw: st.DrawFn, *, null: bool) -> tuple:  # type: ignore[type-arg]
    """(patterns, replacement, at) that go together."""
    if draw(st.booleans()):
        at = draw(st.one_of(st.just(()), some(NAMED_DOMAINS)))
        return draw(some(TABLE)), None, at
    if draw(st.booleans()):
        return (
            (Regex("^(.+)-(.+)@"),),
            Template(draw(st.sampled_from([r"\1@x.example", "a@b"]))),
            (),
        )
    if draw(st.booleans()):
        return draw(some(SUB)), draw(SUB), ()
    patterns = draw(some(SENDER if null else PATTERN))
    return patterns, draw(st.one_of(KEPT, st.just(Null())) if null else KEPT), ()


def _built(kind: type, fixed: tuple, change: tuple, when: tuple) -> object:  # type: ignore[type-arg]
    return kind(*fixed, *change, when=when)


ADMISSIONS = st.one_of(
    st.builds(AdmissionRule, st.just("accept"), LEADING, when=WHEN),
    st.builds(AdmissionRule, st.just("reject"), LEADING, REPLIES, when=WHEN),
    st.builds(
        AdmissionRule, st.sampled_from(["hold", "discard"]), LEADING, st.none(),
        st.one_of(st.just(""), TEXT), when=WHEN,
    ),
)  # fmt: skip
REWRITES = st.one_of(
    st.builds(_built, st.just(Rewrite), st.just(("sender",)), changes(null=True), WHEN),
    st.builds(_built, st.just(Rewrite), st.just(("recipient",)), changes(null=False), WHEN),
    st.builds(
        _built, st.just(HeaderRewrite), some(FIELDS).map(lambda f: (f,)), changes(null=False), WHEN
    ),
    st.builds(
        HeaderRewrite,
        st.sampled_from([("From",), ("from",)]),
        some(PATTERN),
        st.just(Reversible()),
        when=st.one_of(WHEN, st.builds(lambda no: (Breaks((), no),), st.booleans())),
    ),
)
HEADERS = st.one_of(
    st.builds(HeaderEdit, st.just("remove"), FIELDS, when=WHEN),
    st.builds(HeaderEdit, st.sampled_from(["add", "replace"]), FIELDS, TEXT, when=WHEN),
)
FORWARDS = st.one_of(
    st.builds(Forward, some(PATTERN), some(KEPT), when=WHEN),
    st.builds(
        Forward, some(TABLE), st.just(()), st.one_of(st.just(()), some(NAMED_DOMAINS)), when=WHEN
    ),
)
ROUTES = st.one_of(
    st.builds(Route, LEADING, st.one_of(st.just(()), some(NAMES)), when=WHEN),
    st.builds(Route, st.just(()), st.just(()), NAMES, when=WHEN),
    st.builds(Route, LEADING, some(NAMES), direct_first=st.just(True), source=NAMES, when=WHEN),
    st.builds(Route, LEADING, st.just(()), source=NAMES, when=WHEN),
)
HOSTS = st.builds(
    HostPort, st.sampled_from(["a.example", "192.0.2.1", "2001:db8::1"]), st.integers(1, 65535)
)
HOPS = st.one_of(
    st.builds(NextHop, NAMES, st.just("smtp"), some(HOSTS), mx=st.booleans()),
    st.builds(NextHop, NAMES, st.just("lmtp"), some(HOSTS)),
    st.builds(NextHop, NAMES, st.just("lmtp"), unix=st.just("/run/x/lmtp")),
).map(HopDef)
TABLES = st.one_of(
    st.builds(TableDef, NAMES, st.just("list"), st.lists(WORDS, max_size=3).map(tuple)),
    st.builds(
        TableDef, NAMES, st.sampled_from(["list", "virtual", "canonical", "transport"]),
        file=st.sampled_from(["ours", "a b", "/etc/x"]),
    ),
    st.builds(TableDef, NAMES, st.just("aliases"), file=st.just("a"), includes=st.sampled_from(["", "l/x"])),
    st.builds(TableDef, NAMES, st.just("sqlite"), file=st.just("a"), query=st.just("SELECT 1, 2")),
)  # fmt: skip
PATHS = st.one_of(st.just(""), st.none(), MAILBOXES)
GOALS = st.builds(
    Expected, MAILBOXES,
    st.one_of(st.just(""), st.just("direct"), some(NAMES).map(lambda names: ",".join(names))),
)  # fmt: skip
_FACTS = {
    "client": st.one_of(st.just(""), st.ip_addresses().map(str)),
    "sender": PATHS,
    "login": st.one_of(st.just(""), WORDS),
    "listener": st.one_of(st.just(""), st.just("127.0.0.1:25")),
    "helo": st.one_of(st.just(""), st.just("mx.example")),
}
EXPECTS = st.one_of(
    st.builds(Expect, MAILBOXES, **_FACTS, verdict=st.just("reject"), code=st.just(550),
              status=st.sampled_from(["", "5.7.1"])),
    st.builds(Expect, MAILBOXES, **_FACTS, verdict=st.sampled_from(["discard", "accept", "hold"])),
    st.builds(Expect, MAILBOXES, **_FACTS, verdict=st.sampled_from(["accept", "hold"]),
              destinations=some(GOALS), new_sender=st.one_of(PATHS, st.just("srs"))),
)  # fmt: skip
SRS = st.one_of(
    st.builds(
        SrsDomain,
        st.sampled_from(["srs.example.com", "xn--mller-kva.example"]),
        st.sampled_from(["srs.keys", "a b", "/etc/relayd/srs.keys", "file"]),
        st.integers(4, 27),
    ),
    st.builds(SrsOurs, some(st.one_of(EXACT, DOMAIN, SUB, LOCAL, TABLE, REGEX))),
    st.builds(SrsException, LEADING, when=WHEN),
)
BELOW = st.sampled_from(["mx.example.com", ".google.com", ".mx.microsoft", "xn--mller-kva.example"])
RATES = st.builds(Rate, st.integers(1, 10**6), st.sampled_from(["1m", "30s", "2h", "1d", "5"]))
LIMITS = st.one_of(
    st.fixed_dictionaries({"connections": st.integers(1, 99)}, optional={"rate": RATES}),
    st.fixed_dictionaries({"messages": st.integers(1, 99)}, optional={"rate": RATES}),
    st.fixed_dictionaries({"rate": RATES}),
)
PACING = st.one_of(
    st.builds(MailProvider, NAMES, some(BELOW)).map(ProviderDef),
    st.builds(
        lambda whom, limits: PaceDef(PaceLimits(*whom, **limits)),
        st.one_of(
            st.tuples(st.sampled_from(["provider", "via"]), NAMES),
            st.tuples(st.just("to"), BELOW),
        ),
        LIMITS,
    ),
    st.builds(
        SourceAddress,
        NAMES,
        st.sampled_from([("192.0.2.1",), ("2001:db8::1",), ("192.0.2.1", "2001:db8::1")]),
        st.sampled_from(["bulk.example.com", "mx.example"]),
    ).map(SourceDef),
)
ITEMS = st.one_of(
    ADMISSIONS, REWRITES, HEADERS, FORWARDS, ROUTES, HOPS, TABLES, EXPECTS, SRS, PACING,
    st.sampled_from("+-=_").map(Subaddress),
)  # fmt: skip
