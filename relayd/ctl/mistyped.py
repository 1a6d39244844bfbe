"""What is mistyped on a command line, told before argparse would list all that there is."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from relayd.rules.language.source import did_you_mean, one_of


@dataclass
class _Place:
    """Where in a command line we are: what may come next."""

    parser: argparse.ArgumentParser
    options: dict[str, argparse.Action] = field(default_factory=dict)
    positionals: list[argparse.Action] = field(default_factory=list)

    def enter(self, parser: argparse.ArgumentParser) -> None:
        """The next words belong to this one."""
        self.parser = parser
        self.options |= _options(parser)
        self.positionals = [each for each in parser._actions if not each.option_strings]


def mistyped(top: argparse.ArgumentParser, arguments: Sequence[str]) -> str:
    """The first command, option or choice that there is not, and what may have been meant."""
    place = _Place(top)
    place.enter(top)
    words = iter(arguments)
    for word in words:
        if word == "--":
            break
        if word[:1] == "-" and len(word) > 1 and not word[1].isdigit():
            found = _option(place, word)
            if found is None:
                return _no_option(top, place, word.partition("=")[0])
            glued = "=" in word or (word[1] != "-" and len(word) > 2)
            value = word.partition("=")[2] if glued else ""
            if found.nargs is None and not glued:
                value = next(words, "")
            if value and word.startswith("--") and found.choices and value not in found.choices:
                return f'{found.option_strings[-1]} "{value}": {_expected(value, found)}'
            continue
        wrong = _word(place, word)
        if wrong:
            return wrong
    return ""


def _word(place: _Place, word: str) -> str:
    """A word that is no option: a command, or one of a few."""
    action = place.positionals[0] if place.positionals else None
    if action is None or action.nargs in ("*", "+"):
        return ""
    if action.choices is not None and word not in action.choices:
        subs = isinstance(action, argparse._SubParsersAction)
        kind = str(action.metavar).lower() if subs else action.dest
        return f'there is no {kind} "{word}": {_expected(word, action)}'
    place.positionals = place.positionals[1:]
    if isinstance(action, argparse._SubParsersAction):
        place.enter(action.choices[word])
    return ""


def _expected(word: str, action: argparse.Action) -> str:
    choices = [str(each) for each in action.choices or ()]
    return did_you_mean(word, choices) or f"expected {one_of(choices)}"


def _option(place: _Place, word: str) -> argparse.Action | None:
    """The option that a word names, whole or by its beginning."""
    name = word.partition("=")[0]
    if name in place.options:
        return place.options[name]
    if not name.startswith("--"):
        return place.options.get(name[:2])  # `-cFILE`
    return next((place.options[each] for each in place.options if each.startswith(name)), None)


def _no_option(top: argparse.ArgumentParser, place: _Place, name: str) -> str:
    close = did_you_mean(name, _options(place.parser))
    if not close and place.parser is top:
        owners = [title for title, each in _commands(top) if name in _options(each)]
        close = f"it stands behind its command: {one_of(owners)}" if owners else ""
    return f'there is no option "{name}": {close or f"see {place.parser.prog} --help"}'


def _commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def _options(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    return {name: each for each in parser._actions for name in each.option_strings}
