"""The tests of words.py: what filters promised, and what is not so, is seen."""

from __future__ import annotations

import unittest

from tests.faults.filters import FOOTER, fate
from tests.faults.journal import Entry
from tests.faults.letters import digest_of
from tests.faults.words import BURST, ENOUGH, SETTLED, judge, marked

PLAIN, SPAM, REPLACED, QUARANTINED, FORGED, DOUBTFUL = (
    digit + "0" * 31 for digit in ("a", "3", "5", "6", "8", "4")
)
BODY = b"hello\r\n"


def arrived(name: str = PLAIN, *, at: float = 10.0, **changed: str | None) -> Entry:
    """As it should be, but for what is changed."""
    left = BODY + FOOTER if fate(name) == "replaced" else BODY
    marks: dict[str, str | None] = {
        "X-Edits": f"{name} {digest_of(BODY)}",
        "X-Change": f"new {name}",
        "X-Keeper": f"{name} {digest_of(left)}",
        "X-Scan": name,
        "X-Spam": "yes" if fate(name) in ("doubtful", "spam") else None,
        "X-Policy": name,
        "footer": "yes" if fate(name) == "replaced" else None,
        **{key.replace("_", "-"): value for key, value in changed.items()},
    }
    return {
        "kind": "arrived",
        "at": at,
        "name": name,
        "marks": {key: value for key, value in marks.items() if value is not None},
        "came": digest_of(BODY),
        "left": digest_of(left),
    }


def sent(name: str, at: float, code: int, *accepted: str) -> list[Entry]:
    """A letter and its answer."""
    return [
        {"kind": "sent", "name": name, "at": at, "accepted": [*accepted]},
        {"kind": "answered", "name": name, "at": at + 0.1, "code": code},
    ]


RELEASED: Entry = {"kind": "released", "at": 20.0}


class WordsKept(unittest.TestCase):
    def told(self, *entries: Entry) -> str:
        return "\n".join(judge([*entries, RELEASED]).complaints)

    def test_all_is_well(self) -> None:
        for name in (PLAIN, REPLACED, DOUBTFUL):
            self.assertEqual(self.told(arrived(name)), "")
        for name in (SPAM, QUARANTINED):
            self.assertEqual(self.told(arrived(name, at=21.0)), "")

    def test_what_a_filter_refuses_or_holds_and_is_there_all_the_same(self) -> None:
        self.assertIn("delivered", self.told(arrived(FORGED)))
        self.assertIn("quarantined, and delivered", self.told(arrived(QUARANTINED)))
        self.assertIn("not held for its score", self.told(arrived(SPAM)))
        self.assertIn("taken", self.told(*sent(FORGED, 1, 250, "a@corp.test")))

    def test_edits_that_are_missing_or_came_by_halves(self) -> None:
        for changed in (
            {"X_Edits": None},
            {"X_Edits": f"{PLAIN} {digest_of(b'less')}"},
            {"X_Change": "old"},
            {"X_Stale": "x"},
            {"footer": "yes"},
            {"X_Keeper": f"{PLAIN} {digest_of(b'less')}"},
            {"X_Scan": SPAM},
        ):
            with self.subTest(changed):
                self.assertNotEqual(self.told(arrived(**changed)), "")
        self.assertIn("its body is not the milter's", self.told(arrived(REPLACED, footer=None)))

    def test_failure_words(self) -> None:
        # hold: not before it is released; accept: then no score decides
        self.assertIn("not held", self.told(arrived(X_Keeper=None)))
        self.assertEqual(self.told(arrived(X_Keeper=None, at=21.0)), "")
        self.assertEqual(self.told(arrived(SPAM, X_Scan=None, X_Spam=None)), "")
        self.assertIn("X-Spam", self.told(arrived(DOUBTFUL, X_Scan=None)))
        # reject: nothing is taken that the scanner has not found clean
        letter = sent(PLAIN, 1, 250, "a@corp.test")
        self.assertIn("clean", self.told(*letter))
        self.assertEqual(self.told(*letter, {"kind": "clean", "name": PLAIN}), "")

    def test_what_is_heard_while_a_filter_is_in_trouble(self) -> None:
        def trouble(filter_: str, code: int) -> str:
            letters = [
                entry
                for number in range(ENOUGH)
                for entry in sent(f"a{number:031x}", 5 + SETTLED, code, "a@corp.test")
            ]
            clean = [{"kind": "clean", "name": f"a{number:031x}"} for number in range(ENOUGH)]
            begun = {"kind": "filter", "name": filter_, "mood": "hangs", "at": 5.0}
            ended = {"kind": "filter", "name": filter_, "mood": "", "at": 9.0}
            return self.told(*letters, *clean, begun, ended)

        self.assertEqual(trouble("scan", 250), "")
        self.assertIn("none heard 250", trouble("scan", 451))
        self.assertIn("none heard 550", trouble("virus", 451))
        self.assertIn("taken, though edits hangs", trouble("edits", 250))

    def test_a_client_who_sends_more_than_his_limit(self) -> None:
        def many(every: float) -> str:
            letters = []
            for number in range(BURST + 1):
                name = f"a{number:031x}"
                letters += sent(name, number * every, 250, "a@d0.corp.test")
                letters.append({"kind": "clean", "name": name})
            return self.told(*letters)

        self.assertIn("recipients of one client", many(0.1))
        self.assertEqual(many(1.0), "")

    def test_a_letter_is_read_as_it_came(self) -> None:
        inner = f"X-Letter: {PLAIN}\r\nSubject: x\r\n".encode()
        left = b"X-Edits: e\r\n" + inner + b"X-Spam: yes\r\n\r\n" + BODY + FOOTER
        found = marked(left)
        assert found is not None
        self.assertEqual(found["digest"], digest_of(inner + b"\r\n" + BODY))
        self.assertEqual(found["marks"], {"X-Edits": "e", "X-Spam": "yes", "footer": "yes"})
        self.assertIsNone(marked(b"Subject: a report\r\n\r\nx\r\n"))
