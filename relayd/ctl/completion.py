"""Completion of relayctl for a shell, made of its command line, which it so always fits.

    relayctl completion bash|zsh|fish

prints what the shell reads; the package has it where the shell looks.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# What a shell would take for its own is in none of them: bash expands the words that it offers.
_NAME = "[A-Za-z0-9@_.+-]+"


def _statements(verb: str) -> str:
    return f'grep -rhosE "^{verb}[[:space:]]+{_NAME}" /etc/relayd | sed "s/.*[[:space:]]//"'


_IDS = 'relayctl queue --limit 100 2>/dev/null | grep -oE "^[0-9A-Z]{12}"'
_HELD = _IDS.replace("queue", "queue --state held")
# What prints names, one a line, in every shell: by the command's first word (if it takes that one
# to tell) and what argparse calls the argument.
_NAMES = {
    ("", "destination"): _statements("next-hop"),
    ("", "id"): _IDS,
    ("", "ids"): _IDS,
    ("held", "id"): _HELD,
    ("held", "ids"): _HELD,
    ("user", "name"): f'relayctl user list 2>/dev/null | cut -d" " -f1 | grep -xE "{_NAME}"',
    ("oauth", "name"): _statements("oauth"),
    ("dkim", "name"): _statements("dkim"),
    ("table", "name"): _statements("table"),
    ("limits", "name"): _statements("limit"),
}


@dataclass(frozen=True, slots=True)
class CommandWords:
    """What may follow the words of a command, and options among it that take a file."""

    path: tuple[str, ...]  # ("user", "add")
    words: tuple[tuple[str, str], ...]  # each with a line about it
    options: tuple[tuple[str, str], ...]
    files: frozenset[str]
    values: tuple[tuple[str, str], ...] = ()  # options that take another value: what prints some
    file: bool = False  # it takes one itself
    names: str = ""  # ... or names, which this prints


def levels(top: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> Iterator[CommandWords]:
    """The command line itself, then each command, then theirs."""
    words: dict[str, str] = {}
    options: dict[str, str] = {}
    files: set[str] = set()
    values: dict[str, str] = {}
    below: list[CommandWords] = []
    file, names = False, ""
    for action in top._actions:  # argparse shows them to nobody else
        about = " ".join((action.help or "").split())
        first = path[0] if path else ""
        named = _NAMES.get((first, action.dest), _NAMES.get(("", action.dest), ""))
        if action.option_strings:
            options.update(dict.fromkeys(action.option_strings, about))
            if action.type is Path:
                files.update(action.option_strings)
            elif action.choices is not None:
                some = f"printf '%s\\n' {' '.join(map(str, action.choices))}"
                values.update(dict.fromkeys(action.option_strings, some))
            elif action.nargs != 0:
                values.update(dict.fromkeys(action.option_strings, named))
        elif isinstance(action, argparse._SubParsersAction):
            words.update({each.dest: each.help or "" for each in action._choices_actions})
            for name, each in action.choices.items():
                words.setdefault(name, "")
                below += levels(each, (*path, name))
        elif action.choices is not None:
            words.update(dict.fromkeys(map(str, action.choices), about))
        else:
            file = file or action.type is Path
            names = names or ("" if path[-1:] == ("add",) else named)
    yield CommandWords(
        path,
        tuple(words.items()),
        tuple(options.items()),
        frozenset(files),
        tuple(values.items()),
        file,
        names,
    )
    yield from below


def bash(found: list[CommandWords]) -> Iterator[str]:
    """For bash."""
    yield "_relayctl() {"
    yield "\tlocal current=${COMP_WORDS[COMP_CWORD]} at='' words='' word"
    yield "\tcase ${COMP_WORDS[COMP_CWORD - 1]} in"
    yield f"\t{' | '.join(_files(found))})"
    yield "\t\tcompopt -o filenames 2>/dev/null"
    yield '\t\tmapfile -t COMPREPLY < <(compgen -f -- "$current")'
    yield "\t\treturn"
    yield "\t\t;;"
    yield "\tesac"
    yield '\tfor word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do'
    yield '\t\tcase "$at $word" in'
    yield f'\t\t{" | ".join(_paths(found))}) at="$at $word" ;;'
    yield "\t\tesac"
    yield "\tdone"
    yield '\tcase "$at ${COMP_WORDS[COMP_CWORD - 1]}" in'
    for command, places in _values(found):
        words = f"$({command})" if command else ""
        yield f'\t{" | ".join(places)}) words="{words}" ;;'
    yield "\t*)"
    yield '\t\tcase "$at" in'
    for level in found:
        words = " ".join(name for name, _ in (*level.words, *level.options))
        more = f'" $({level.names})"' if level.names else ""
        yield f"\t\t{_quoted(level)}) words='{words}'{more} ;;"
    yield "\t\tesac"
    yield "\t\t;;"
    yield "\tesac"
    yield '\tmapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")'
    yield "}"
    yield "complete -o default -F _relayctl relayctl"


def zsh(found: list[CommandWords]) -> Iterator[str]:
    """For zsh."""
    yield "local at='' word"
    yield "local -a found"
    yield "case $words[CURRENT-1] in"
    yield f"({'|'.join(_files(found))}) _files; return ;;"
    yield "esac"
    yield "for word in ${words[2,CURRENT-1]}; do"
    yield '\tcase "$at $word" in'
    yield f'\t({"|".join(_paths(found))}) at="$at $word" ;;'
    yield "\tesac"
    yield "done"
    yield 'case "$at $words[CURRENT-1]" in'
    for command, places in _values(found):
        names = f'compadd -- ${{(f)"$({command})"}}' if command else "_message value"
        yield f"({'|'.join(places)}) {names}; return ;;"
    yield "esac"
    yield 'case "$at" in'
    for level in found:
        if level.names:
            yield f'({_quoted(level)}) compadd -- ${{(f)"$({level.names})"}} ;;'
    yield "esac"
    yield 'case "$at" in'
    for level in found:
        named = (*level.words, *level.options)
        words = " ".join(f"'{name}:{_plain(about)}'" for name, about in named)
        yield f"({_quoted(level)}) found=({words}) ;;"
    yield "esac"
    yield "_describe relayctl found || _files"


def fish(found: list[CommandWords]) -> Iterator[str]:
    """For fish."""
    yield "complete -c relayctl -f"
    for level in found:
        here = f"__fish_seen_subcommand_from {level.path[-1]}" if level.path else ""
        if len(level.path) > 1:
            here = f"__fish_seen_subcommand_from {level.path[-2]}; and {here}"
        where = f" -n '{here}'" if here else ""
        values = dict(level.values)
        if level.file:
            yield f"complete -c relayctl{where} -F"
        if level.names:
            yield f"complete -c relayctl{where} -a {_fish(level.names)}"
        for name, about in level.words:
            only = where or " -n __fish_use_subcommand"
            yield f"complete -c relayctl{only} -a '{name}' -d '{_plain(about)}'"
        for name, about in level.options:
            form = f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}"
            takes = " -r -F" if name in level.files else ""
            if name in values:
                takes = f" -x -a {_fish(values[name])}" if values[name] else " -x"
            yield f"complete -c relayctl{where} {form}{takes} -d '{_plain(about)}'"


def _files(found: list[CommandWords]) -> list[str]:
    return sorted({name for level in found for name in level.files})


def _values(found: list[CommandWords]) -> Iterator[tuple[str, list[str]]]:
    """What prints the values of options, and which options of which commands."""
    places: dict[str, list[str]] = {}
    for level in found:
        for name, command in level.values:
            places.setdefault(command, []).append(_quoted(level, name))
    yield from places.items()


def _paths(found: list[CommandWords]) -> list[str]:
    return [_quoted(level) for level in found if level.path]


def _quoted(level: CommandWords, *more: str) -> str:
    return '"' + "".join(f" {word}" for word in (*level.path, *more)) + '"'


def _fish(command: str) -> str:
    return "'(" + command.replace("'", "\\'") + ")'"


def _plain(about: str) -> str:
    """A line about a word, without what a shell would take for its own."""
    return about.translate(str.maketrans("':\\", "  /")).replace("%(default)s", "")


SHELLS = {"bash": bash, "zsh": zsh, "fish": fish}


def completion(shell: str, top: argparse.ArgumentParser) -> str:
    """The text for one shell."""
    first = "#compdef relayctl\n" if shell == "zsh" else ""
    head = f"# {shell} completion for relayctl(8), made of its own command line\n\n"
    return first + head + "\n".join(SHELLS[shell](list(levels(top)))) + "\n"
