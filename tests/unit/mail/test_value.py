"""A value is what `dataclasses.dataclass` makes of it; only its methods are written later."""

from __future__ import annotations

import dataclasses
import unittest

from relayd.mail.value import dataclass


@dataclass(frozen=True, slots=True)
class Plain:
    name: str
    words: tuple[str, ...] = ()
    seen: int = dataclasses.field(default=0, compare=False)
    own: list[int] = dataclasses.field(default_factory=list, repr=False, hash=False)


@dataclass(frozen=True, slots=True)
class Longer(Plain):
    more: bool = False

    def __str__(self) -> str:
        return f"longer {self.name}"


@dataclass(slots=True)
class Changing:
    count: int
    double: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.double = 2 * self.count


@dataclass(frozen=True)
class Itself:
    count: int

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Itself) and self.count % 10 == other.count % 10

    def __hash__(self) -> int:
        return self.count % 10


class Values(unittest.TestCase):
    def test_a_value_is_made_compared_hashed_and_shown_as_by_the_library(self) -> None:
        one, same = Plain("a", ("b",), 1), Plain(name="a", words=("b",))
        self.assertEqual(one, same)
        self.assertEqual(hash(one), hash(same))
        self.assertNotEqual(one, Plain("a"))
        self.assertNotEqual(one, ("a", ("b",)))
        self.assertIsNot(one.own, same.own)
        self.assertEqual(repr(one), "Plain(name='a', words=('b',), seen=1)")
        self.assertEqual(dataclasses.replace(one, name="c"), Plain("c", ("b",)))
        with self.assertRaisesRegex(TypeError, r"Plain\.__init__\(\).*'name'"):
            Plain()  # type: ignore[call-arg]

    def test_who_inherits_has_methods_of_its_own(self) -> None:
        longer = Longer("a", more=True)
        self.assertNotEqual(longer, Plain("a"))
        self.assertNotEqual(Plain("a"), longer)
        self.assertEqual({longer: 1}[Longer("a", (), 7, [], more=True)], 1)
        self.assertEqual((str(longer), Longer.__match_args__[-1]), ("longer a", "more"))

    def test_what_changes_has_no_hash(self) -> None:
        self.assertEqual(Changing(2).double, 4)
        self.assertEqual(Changing(2), Changing(2))
        with self.assertRaises(TypeError):
            hash(Changing(2))

    def test_what_a_class_says_itself_stays(self) -> None:
        self.assertEqual(Itself(1), Itself(11))
        self.assertEqual(len({Itself(1), Itself(11)}), 1)

    def test_nothing_is_written_before_it_is_called_and_then_once(self) -> None:
        @dataclass(frozen=True)
        class Fresh:
            """Of nobody yet."""

            number: int

        unwritten = Fresh.__eq__
        self.assertEqual(Fresh(1), Fresh(1))
        written = (Fresh.__init__, Fresh.__eq__, Fresh.__hash__)
        self.assertIsNot(Fresh.__eq__, unwritten)
        self.assertEqual({Fresh(1), Fresh(2)}, {Fresh(2), Fresh(1)})
        self.assertEqual(written, (Fresh.__init__, Fresh.__eq__, Fresh.__hash__))
