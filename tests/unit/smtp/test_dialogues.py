"""Every dialogue has the same answers, however its octets are cut and however slow the verdicts."""

from __future__ import annotations

import unittest
from collections.abc import Callable
from pathlib import Path

from tests.dialogues.player import Dialogue, dialogues, play
from tests.unit.smtp.house import House


class SlowHouse(House):
    """Its verdicts come only when the client stops to listen, one at a time."""

    def __init__(self, settings: dict[str, str]) -> None:
        super().__init__(settings, slow=True)

    def receive(self) -> bytes:
        while self.decide():
            pass
        return super().receive()


class TestDialogues(unittest.TestCase):
    """One test per file and way of playing it, made below."""


def _test(path: Path, make: Callable[[dict[str, str]], House], cut: int) -> Callable[..., None]:
    def test(self: unittest.TestCase) -> None:
        dialogue = Dialogue.read(path)
        play(dialogue, make(dialogue.settings), cut=cut)

    return test


for _path in dialogues():
    _name = _path.stem.replace("-", "_")
    for _way, _make, _cut in (
        ("whole", House, 0),
        ("by_octet", House, 1),
        ("by_seven", House, 7),
        ("slow", SlowHouse, 0),
        ("slow_by_octet", SlowHouse, 1),
    ):
        setattr(TestDialogues, f"test_{_name}_{_way}", _test(_path, _make, _cut))


class TestPlayer(unittest.TestCase):
    """The player notices what is wrong: else the dialogues would show nothing."""

    def _fails(self, *lines: str) -> str:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "wrong.smtp")
            path.write_text("\n".join(lines))
            dialogue = Dialogue.read(path)
        with self.assertRaises(AssertionError) as caught:
            play(dialogue, House(dialogue.settings))
        return str(caught.exception)

    def test_wrong_reply(self) -> None:
        said = self._fails("S: 220 *", "C: NOOP", "S: 251 *")
        self.assertEqual(said, "wrong.smtp:3: the server said '250 2.0.0 Ok', not '251 *'")

    def test_reply_too_many(self) -> None:
        self.assertIn("also said", self._fails("S: 220 *", "C: NOOP", "C: NOOP", "S: 250 *"))

    def test_reply_missing(self) -> None:
        self.assertIn("said nothing", self._fails("S: 220 *", "C> NOOP", "S: 250 *"))

    def test_other_content(self) -> None:
        said = self._fails("S: 220 *", "M: something")
        self.assertEqual(said, "wrong: accepted [], not [b'something']")

    def test_not_closed(self) -> None:
        self.assertIn("still there", self._fails("S: 220 *", "S: (closed)"))
