"""DMARC beside libopendmarc, mailauth and authheaders, over generated cases.

`python -m tests.fuzz.dmarc.beside 20000` takes a minute; CI takes two thousand.

None of them knows RFC 9989 yet: they have RFC 7489 with a list of public suffixes. So each rule in
which the two differ is named (RULES), and takes itself out of a case. A difference is explained
where what we say of the case without some of them is what the other one says of it as it is.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from relayd.authentication.dmarc import dmarc_record, evaluate
from tests.scenarios.harness import MAILAUTH
from tests.unit.authentication import drive

HERE = Path(__file__).parent
SUFFIXES = ("com", "org", "uk", "co.uk")
ORGANIZATIONS = ("example.com", "example.co.uk", "other.org")
BELOW = ("", "", "news.", "a.news.", "b.a.news.", "g.f.e.d.c.b.a.news.")
POLICIES = ("none", "quarantine", "reject")
BROKEN = (
    "v=DMARC1",
    "v=DMARC1;",
    "v=DMARC1; p",
    "v=DMARC1; p=",
    "v=DMARC1; p=bounce",
    "v=DMARC1; p=bounce; rua=mailto:a@example.com",
    "v=DMARC1; rua=mailto:a@example.com",
    "v=DMARC1; sp=reject",
    "v=DMARC1; sp=reject; p=none",
    "v=DMARC1; p=reject; sp=bounce",
    "v=DMARC1; p=reject; adkim=x",
    "v=DMARC1; p=reject; aspf=",
    "v=DMARC1; p=reject; pct=1000",
    "v=DMARC1; p=reject; pct=ten",
    "v=DMARC1; p=reject; fo=x",
    "v=DMARC1; p=reject; ri=x; rf=x",
    "v=DMARC1; p=reject; x",
    "v=DMARC1; p=reject; =x",
    "v=DMARC1; p=reject; unknown=1",
    "v=DMARC1; p=reject; p=none",
    "v=DMARC1;p=reject;;",
    "v=DMARC1 ; p = quarantine ;",
    "v = DMARC1; p=reject",
    "v=DMARC1; P=REJECT",
    "v=dmarc1; p=reject",
    "V=DMARC1; p=reject",
    " v=DMARC1; p=reject",
    "v=DMARC1, p=reject",
    "v=DMARC1 p=reject",
    "v=DMARC2; p=reject",
    "v=DMARC10; p=reject",
    "p=reject; v=DMARC1",
    "v=spf1 -all",
    "",
)

Texts = tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """Records, an author, and who vouches."""

    author: str
    records: Mapping[str, Texts]
    signed: Texts
    sender: str = ""
    exists: bool = True

    @classmethod
    def of(cls, seed: int) -> Case:
        """The one of this number."""
        chance = random.Random(seed)

        def often(share: float) -> bool:
            return chance.random() < share

        organization = chance.choice(ORGANIZATIONS)
        author = chance.choice(BELOW) + organization
        names = author.split(".")
        above = [".".join(names[at:]) for at in range(len(names))]
        records: dict[str, Texts] = {}
        for name in above:
            share = 0.6 if name in (author, organization) else 0.1
            if name in SUFFIXES:
                share = 0.05
            if often(share):
                records[name] = (_record(chance, suffix=name in SUFFIXES),)
                if often(0.05):
                    records[name] += (_record(chance, suffix=False),)
        others = (author, organization, f"news.{organization}", f"x.{organization}", "third.org",
                  f"x.{author}", chance.choice(ORGANIZATIONS))  # fmt: skip
        signed = tuple(chance.choice(others) for _ in range(chance.choice((0, 0, 1, 1, 2))))
        sender = chance.choice(others) if often(0.4) else ""
        return cls(author, records, signed, sender, often(0.8))

    @property
    def organization(self) -> str:
        """By the list of public suffixes."""
        return next(each for each in ORGANIZATIONS if self.author.endswith(each))

    @property
    def line(self) -> str:
        """As the others read it."""
        return json.dumps(
            {
                "author": self.author,
                "organization": self.organization,
                "suffixes": SUFFIXES,
                "records": self.records,
                "dkim": self.signed,
                "spf": self.sender,
            }
        )

    def ours(self) -> str:
        """`pass`, what the author's domain asks for, or empty: no policy."""
        zone: dict[tuple[str, str], tuple[Any, ...] | None] = {
            (f"_dmarc.{name}", "TXT"): texts for name, texts in self.records.items()
        }
        if self.exists:
            zone[self.author, "A"] = ("192.0.2.7",)
        found = drive(evaluate(self.author, self.signed, self.sender or None), zone)
        return "" if found.result == "none" else found.disposition

    def without(self, change: Callable[[str, str], str | None]) -> Case:
        """With other records: `change` is told a domain and a text."""
        records = {
            name: tuple(new for text in texts if (new := change(name, text)) is not None)
            for name, texts in self.records.items()
        }
        return replace(self, records={name: texts for name, texts in records.items() if texts})


def _record(chance: random.Random, *, suffix: bool) -> str:
    if chance.random() < 0.15:
        return chance.choice(BROKEN)
    tags = [f"p={chance.choice(POLICIES)}"]
    tags += [
        f"{name}={chance.choice(values)}"
        for name, values, share in (
            ("sp", POLICIES, 0.3),
            ("np", POLICIES, 0.15),
            ("adkim", ("r", "s"), 0.3),
            ("aspf", ("r", "s"), 0.3),
            ("psd", ("y", "n", "u"), 0.8 if suffix else 0.06),
            ("t", ("y", "n"), 0.1),
            ("pct", ("0", "50", "100"), 0.1),
            ("rua", ("mailto:a@example.com",), 0.3),
            ("fo", ("1", "0:d:s"), 0.1),
        )
        if chance.random() < share
    ]
    return "; ".join(["v=DMARC1", *tags])


# the rules


def _no_tag(*names: str) -> Callable[[Case], Case]:
    def taken(_: str, text: str) -> str:
        kept = [
            tag for tag in text.split(";") if tag.partition("=")[0].strip().lower() not in names
        ]
        return ";".join(kept)

    return lambda case: case.without(taken)


def _psl(case: Case) -> Case:
    """Only the author and its organization are asked, and the list says what that is."""
    author, organization = case.author, case.organization
    case = case.without(lambda name, text: text if name in (author, organization) else None)
    if author == organization:
        return _marked(case, organization)
    case = _no_tag("psd")(case)
    if _reads(case, organization):
        return _marked(case, organization)
    if _reads(case, author):
        records = {**case.records, organization: ("v=DMARC1; p=none; psd=n",)}
        return replace(case, records=records)
    return case


def _reads(case: Case, name: str) -> bool:
    texts = [text for text in case.records.get(name, ()) if text.lstrip().startswith("v=DMARC1")]
    return len(texts) == 1 and dmarc_record(name, texts[0]) is not None


def _marked(case: Case, organization: str) -> Case:
    case = _no_tag("psd")(case)
    return case.without(
        lambda name, text: (
            f"{text.rstrip('; ')}; psd=n"
            if name == organization and dmarc_record(name, text) is not None
            else text
        )
    )


def _tags(text: str) -> list[tuple[str, str]]:
    pairs = (tag.partition("=") for tag in text.split(";")[1:] if tag.strip())
    return [(name.strip().lower(), value.strip().lower()) for name, _, value in pairs]


def _dropped(broken: Callable[[str], bool]) -> Callable[[Case], Case]:
    """Such a record counts for nothing; the author's own also ends the search."""

    def taken(case: Case) -> Case:
        own = [text for text in case.records.get(case.author, ()) if text.startswith("v=DMARC1")]
        if len(own) > 1:
            own = [text for text in own if not _blanks(text)]
        if len(own) == 1 and broken(own[0]):
            return replace(case, records={})
        return case.without(lambda _, text: None if broken(text) else text)

    return taken


def _value_wrong(text: str) -> bool:
    return any(
        name in _VALUES and not _VALUES[name].fullmatch(value) for name, value in _tags(text)
    ) or any("=" not in tag for tag in text.split(";")[1:] if tag.strip())


_WORD = re.compile("none|quarantine|reject")
_VALUES = {
    "p": _WORD,
    "sp": _WORD,
    "adkim": re.compile("[rs]"),
    "aspf": re.compile("[rs]"),
    "pct": re.compile("[0-9]{1,2}|100"),
    "fo": re.compile("[01ds](:[01ds])*"),
    "ri": re.compile("[0-9]+"),
    "rf": re.compile("afrf|iodef"),
}


def _blanks(text: str) -> bool:
    return re.match("v=DMARC1[ \t]*(;|$)", text) is None


def _no_policy(text: str) -> bool:
    return _WORD.fullmatch(dict(_tags(text)).get("p", "")) is None


def _last_counts(_: str, text: str) -> str:
    kept = dict(_tags(text))
    return "; ".join([text.split(";")[0], *(f"{name}={value}" for name, value in kept.items())])


def _version(_: str, text: str) -> str:
    found = re.match(r"v=DMARC1[^; ]*[ ,]*(?:(?=p)|$)|v=DMARC1[^;]*", text.strip(), re.IGNORECASE)
    return text if found is None else f"v=DMARC1; {text.strip()[found.end() :].lstrip(';')}"


def _sp_for_p(case: Case) -> Case:
    def changed(name: str, text: str) -> str:
        sp = dict(_tags(text)).get("sp")
        own = name == case.author and sp is not None
        return re.sub(r"\bp=\w*", f"p={sp}", text, count=1) if own else text

    return case.without(changed)


def _nobody_aligned(case: Case) -> Case:
    texts = (text for texts in case.records.values() for text in texts)
    wrong = any(
        not _VALUES[name].fullmatch(value)
        for text in texts
        for name, value in _tags(text)
        if name in ("adkim", "aspf")
    )
    return replace(case, signed=(), sender="") if wrong else case


RULES: dict[str, Callable[[Case], Case]] = {
    "RFC 9989 section 4.7: t=y makes the policy one milder": _no_tag("t"),
    "RFC 9989 section 4.7: np is for names that do not exist": _no_tag("np"),
    "RFC 9989 section 4.7: without p, or with a wrong one beside rua, the policy is none": _dropped(
        _no_policy
    ),
    "RFC 9989 section 4.7: a tag that is wrong is as if it were not there": _dropped(_value_wrong),
    "RFC 9989 section 4.7, RFC 6376 section 3.2: blanks around what stands in a tag": _dropped(
        _blanks
    ),
    "RFC 9989 section 4.7: a wrong p and no rua is no policy": lambda case: case.without(
        lambda _, text: re.sub(r"\bp=(bounce|$)", "p=none", text)
    ),
    "RFC 9989 section 4.7: the first tag is v, and exactly DMARC1": lambda case: case.without(
        _version
    ),
    "RFC 6376 section 3.2: no tag twice; the first counts": lambda case: case.without(_last_counts),
    "RFC 9989 section 4.10: a walk up the tree, and no list of public suffixes": _psl,
}
"""What takes a rule of RFC 9989 out of a case."""


class Oracle:
    """Somebody else, in a process of its own."""

    def __init__(
        self, name: str, command: Sequence[str], own: Mapping[str, Callable[[Case], Case]]
    ) -> None:
        self.name = name
        self._command = command
        self._rules = {**own, **RULES}

    def answers(self, cases: Sequence[Case]) -> list[str]:
        """What it says of each."""
        text = "".join(f"{case.line}\n" for case in cases)
        environment = {**os.environ, "NODE_PATH": f"{MAILAUTH}/node_modules"}
        done = subprocess.run(
            self._command, input=text, capture_output=True, text=True, env=environment, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{self.name}: {done.stderr[-2000:]}")
        return [json.loads(line) for line in done.stdout.splitlines()]

    def explanation(self, case: Case, theirs: str) -> tuple[str, ...] | None:
        """The least set of rules without which we say what it says; None: there is none."""
        if theirs == "?":
            broken = (text for texts in case.records.values() for text in texts)
            return (
                (BREAKS,)
                if any(_value_wrong(each) or _no_policy(each) for each in broken)
                else None
            )
        for count in range(len(self._rules) + 1):
            for names in itertools.combinations(self._rules, count):
                changed = case
                for name in names:
                    changed = self._rules[name](changed)
                if changed.ours() == theirs:
                    return names
        return None


BREAKS = "its own: it breaks on a tag that is wrong"
ORACLES = (
    Oracle(
        "libopendmarc",
        ("/usr/bin/python3", str(HERE / "opendmarc.py")),
        {"its own: adkim=s and aspf=s are as r": _no_tag("adkim", "aspf")},
    ),
    Oracle(
        "authheaders",
        ("/usr/bin/python3", str(HERE / "headers.py")),
        {
            "its own: sp is for the author's own name, too": _sp_for_p,
            "its own: a wrong adkim or aspf aligns nothing": _nobody_aligned,
            "its own: np by a record of the author's own": lambda case: replace(case, exists=False),
        },
    ),
    Oracle(
        "mailauth",
        ("node", str(HERE / "mailauth.js")),
        {"its own: adkim=s and aspf=s are as r": _no_tag("adkim", "aspf")},
    ),
)


def differences(count: int, seed: int, explained: Counter[str] | None = None) -> Iterator[str]:
    """Those that no rule explains; `explained` counts the others."""
    cases = [Case.of(seed * 1_000_003 + number) for number in range(count)]
    for oracle in ORACLES:
        said = oracle.answers(cases)
        for case, theirs in zip(cases, said, strict=True):
            why = oracle.explanation(case, theirs)
            if why is None:
                yield f"{oracle.name}: {theirs!r}, we say {case.ours()!r}: {case}"
            elif explained is not None:
                explained[f"{oracle.name}: {' + '.join(why) or 'the same'}"] += 1


if __name__ == "__main__":
    told: Counter[str] = Counter()
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    found = list(differences(number, int(sys.argv[2]) if len(sys.argv) > 2 else 1, told))
    for words, times in told.most_common():
        print(f"{times:7,}  {words}")
    print("\n".join(found[:20]) or "no difference is unexplained")
    sys.exit(bool(found))
