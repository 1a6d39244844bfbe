"""Judges what filters promised and what their failure words did, by what the journals say.

The oracle counts mail; this looks at what is in it. It knows the filters of tests.faults.filters
and the words behind them in tests.faults.checks, and nothing of relayd's own code.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tests.faults.filters import FOOTER, fate
from tests.faults.journal import Entry
from tests.faults.letters import NAMED, digest_of

NEVER = ("refused", "put off", "infected", "forged")  # fates that no failure word lets in
BURST, WINDOW = 40, 10.0  # recipients of one client, in so many seconds
SLACK = 1.0  # seconds from a recipient's 250 to the journal's "sent", and back
SETTLED = 0.5  # seconds after a mood began in which the one before may still be seen
WORDS = {"edits": 451, "keeper": 250, "scan": 250, "virus": 550, "stamp": 250}
"""What its failure word makes of a plain letter, while a filter alone is in trouble."""
ENOUGH = 10  # letters
_LIMITED = "@d0.corp.test"
_PROBED = "@probed.corp.test"
_MARKS = (b"x-edits", b"x-keeper", b"x-scan", b"x-spam", b"x-policy", b"x-change", b"x-stale")


def marked(content: bytes) -> Entry | None:
    """A letter as it arrived: what filters have put into it, and the digest of it without that."""
    found = NAMED.search(content)
    if found is None:
        return None
    head, _, body = content.partition(b"\r\n\r\n")
    marks: dict[str, str] = {}
    below = []
    mine = False  # from the line on that names it
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() in _MARKS:
            marks[name.decode()] = value.decode("latin-1").strip()
        elif mine or name == b"X-Letter":
            mine = True
            below.append(line)
    shown = digest_of(body)
    if body.endswith(FOOTER):
        body = body.removesuffix(FOOTER)
        marks["footer"] = "yes"
    digest = digest_of(b"\r\n".join(below) + b"\r\n\r\n" + body)
    return {
        "name": found.group(1).decode(),
        "digest": digest,
        "marks": marks,
        "came": digest_of(body),  # the body that the client sent
        "left": shown,  # ... and the one that went on
    }


@dataclass
class Words:
    """What was kept, and what was not."""

    complaints: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, complaint: str) -> None:
        """One more; only the first of many is shown."""
        self.complaints.append(complaint)


@dataclass
class _Sent:
    at: float
    accepted: list[str]
    answered: float = 0.0
    code: int = 0


def judge(entries: Iterable[Entry]) -> Words:
    """Everything, from the journals of the stage and of the filters."""
    words = Words()
    sent: dict[str, _Sent] = {}
    arrived: list[Entry] = []
    clean: set[str] = set()
    broken: list[Entry] = []
    released = float("inf")
    for entry in entries:
        kind = entry["kind"]
        if kind == "sent":
            sent[entry["name"]] = _Sent(entry["at"], entry["accepted"])
        elif kind == "answered":
            sent[entry["name"]].answered = entry["at"]
            sent[entry["name"]].code = entry["code"]
        elif kind == "arrived":
            arrived.append(entry)
        elif kind == "clean":
            clean.add(entry["name"])
        elif kind == "filter":
            broken.append(entry)
        elif kind == "released":
            released = entry["at"]
    for entry in arrived:
        for complaint in _unkept(entry, held=entry["at"] < released):
            words.add(f"{fate(entry['name'])} letter {entry['name']}: {complaint}")
        words.counts["arrived"] += 1
        words.counts["without a score"] += "X-Scan" not in entry["marks"]
        words.counts["held for its filter's word"] += "X-Keeper" not in entry["marks"]
        words.counts["unstamped"] += "X-Policy" not in entry["marks"]
    for name, letter in sent.items():
        if letter.code == 250 and fate(name) in NEVER:
            words.add(f"{fate(name)} letter {name}: taken")
        if letter.code == 250 and name not in clean:
            words.add(f"letter {name}: taken, and nobody has found it clean")
        if any(each.startswith("no-") and each.endswith(_PROBED) for each in letter.accepted):
            words.add(f"letter {name}: a mailbox that the next hop does not know was accepted")
    words.complaints += _phases(sent, broken, words.counts)
    words.complaints += _words(words.counts)
    words.complaints += _limit(sent.values(), words.counts)
    return words


def _unkept(entry: Entry, *, held: bool) -> Iterator[str]:
    """What is wrong with a message; `held`: nobody had let go yet what was held."""
    name, marks = entry["name"], entry["marks"]
    became = fate(name)
    if became in NEVER:
        yield "delivered"
    # the milter with the word "defer": all its edits, or the message is not taken
    if marks.get("X-Edits") != f"{name} {entry['came']}":
        yield f"the milter's field is {marks.get('X-Edits')!r}"
    if marks.get("X-Change") != f"new {name}" or "X-Stale" in marks:
        yield "edited by halves"
    if ("footer" in marks) is not (became == "replaced"):
        yield "its body is not the milter's"
    if became == "quarantined" and held:
        yield "quarantined, and delivered"
    # the one with the word "hold": its field, which tells of the edited body, or it is held
    if marks.get("X-Keeper", f"{name} {entry['left']}") != f"{name} {entry['left']}":
        yield f"the second milter's field is {marks['X-Keeper']!r}"
    if "X-Keeper" not in marks and held:
        yield "not held, though its filter was in trouble"
    # the scorer, with the word "accept": its score decides, or there is none
    if marks.get("X-Scan", name) != name or marks.get("X-Policy", name) != name:
        yield "marks of another letter"
    if ("X-Spam" in marks) is not (became in ("doubtful", "spam") and "X-Scan" in marks):
        yield f"a score that was {'X-Scan' in marks and 'given'}, X-Spam {'X-Spam' in marks}"
    if became == "spam" and "X-Scan" in marks and held:
        yield "not held for its score"


def _phases(sent: dict[str, _Sent], moods: list[Entry], counts: Counter[str]) -> Iterator[str]:
    """What clients heard while one filter was in trouble: its failure word."""
    for name, changes in itertools.groupby(
        sorted(moods, key=lambda each: (each["name"], each["at"])), key=lambda each: each["name"]
    ):
        begun = None
        for change in changes:
            if begun is not None:
                span = begun["at"] + SETTLED, change["at"]
                yield from _phase(name, begun["mood"], span, sent, counts)
            begun = change if change["mood"] else None


def _phase(
    name: str, mood: str, span: tuple[float, float], sent: dict[str, _Sent], counts: Counter[str]
) -> Iterator[str]:
    if mood in ("is slow", "leaves after a message"):
        return  # no trouble, or trouble for some
    for ident, letter in sent.items():
        if letter.code == 0 or letter.at < span[0] or letter.answered > span[1]:
            continue
        if fate(ident) == "plain":
            counts[f"{name} in trouble: {letter.code}"] += 1
        if name in ("edits", "virus") and letter.code == 250:
            yield f"letter {ident}: taken, though {name} {mood}"


def _words(counts: Counter[str]) -> Iterator[str]:
    """Whether each failure word was heard at all, where there was time for it."""
    for name, code in WORDS.items():
        heard = [counts[each] for each in counts if each.startswith(f"{name} in trouble: ")]
        if sum(heard) >= ENOUGH and not counts[f"{name} in trouble: {code}"]:
            yield f"{sum(heard)} letters while {name} was in trouble, and none heard {code}"


def _limit(letters: Iterable[_Sent], counts: Counter[str]) -> Iterator[str]:
    """One client's recipients in any WINDOW."""
    at: list[float] = []
    for letter in letters:
        if letter.code == 250 and letter.accepted[0].endswith(_LIMITED):
            at += [letter.at] * sum(each.endswith(_LIMITED) for each in letter.accepted)
    at.sort()
    counts["taken from the client with a limit"] = len(at)
    for number, last in enumerate(at[BURST:]):
        if last - at[number] < WINDOW - SLACK:
            yield f"more than {BURST} recipients of one client in {last - at[number]:.1f} s"
            return


def by_kind(complaints: Iterable[str]) -> list[str]:
    """Many complaints, few lines."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for each in complaints:
        kinds[each.rpartition(": ")[2]].append(each)
    return [f"{len(found)} times: {found[0]}" for found in kinds.values()]
