"""Completion of relayctl for a shell, made of its command line, which it so always fits.

    python3 -m relayd.ctl.completion bash|zsh|fish

prints what the shell reads; the package has it where the shell looks.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from relayd.ctl.relayctl import parser


@dataclass(frozen=True, slots=True)
class CommandWords:
    """What may follow the words of a command, and options among it that take a file."""

    path: tuple[str, ...]  # ("user", "add")
    words: tuple[tuple[str, str], ...]  # each with a line about it
    options: tuple[tuple[str, str], ...]
    files: frozenset[str]
    file: bool = False  # it takes one itself


def levels(top: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> Iterator[CommandWords]:
    """The command line itself, then each command, then theirs."""
    words: dict[str, str] = {}
    options: dict[str, str] = {}
    files: set[str] = set()
    below: list[CommandWords] = []
    file = False
    for action in top._actions:  # argparse shows them to nobody else
        about = " ".join((action.help or "").split())
        if action.option_strings:
            options.update(dict.fromkeys(action.option_strings, about))
            if action.type is Path:
                files.update(action.option_strings)
        elif isinstance(action, argparse._SubParsersAction):
            words.update({each.dest: each.help or "" for each in action._choices_actions})
            for name, each in action.choices.items():
                words.setdefault(name, "")
                below += levels(each, (*path, name))
        elif action.choices is not None:
            words.update(dict.fromkeys(map(str, action.choices), about))
        else:
            file = file or action.type is Path
    yield CommandWords(path, tuple(words.items()), tuple(options.items()), frozenset(files), file)
    yield from below


def bash(found: list[CommandWords]) -> Iterator[str]:
    """For bash."""
    yield "_relayctl() {"
    yield "\tlocal current=${COMP_WORDS[COMP_CWORD]} at='' words='' word"
    yield "\tcase ${COMP_WORDS[COMP_CWORD - 1]} in"
    yield f"\t{' | '.join(_files(found))})"
    yield '\t\tmapfile -t COMPREPLY < <(compgen -f -- "$current")'
    yield "\t\treturn"
    yield "\t\t;;"
    yield "\tesac"
    yield '\tfor word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do'
    yield '\t\tcase "$at $word" in'
    yield f'\t\t{" | ".join(_paths(found))}) at="$at $word" ;;'
    yield "\t\tesac"
    yield "\tdone"
    yield '\tcase "$at" in'
    for level in found:
        names = " ".join(name for name, _ in (*level.words, *level.options))
        yield f"\t{_quoted(level)}) words='{names}' ;;"
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
        if level.file:
            yield f"complete -c relayctl{where} -F"
        for name, about in level.words:
            only = where or " -n __fish_use_subcommand"
            yield f"complete -c relayctl{only} -a '{name}' -d '{_plain(about)}'"
        for name, about in level.options:
            form = f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}"
            file = " -r -F" if name in level.files else ""
            yield f"complete -c relayctl{where} {form}{file} -d '{_plain(about)}'"


def _files(found: list[CommandWords]) -> list[str]:
    return sorted({name for level in found for name in level.files})


def _paths(found: list[CommandWords]) -> list[str]:
    return [_quoted(level) for level in found if level.path]


def _quoted(level: CommandWords) -> str:
    return '"' + "".join(f" {word}" for word in level.path) + '"'


def _plain(about: str) -> str:
    """A line about a word, without what a shell would take for its own."""
    return about.translate(str.maketrans("':\\", "  /")).replace("%(default)s", "")


SHELLS = {"bash": bash, "zsh": zsh, "fish": fish}


def completion(shell: str) -> str:
    """The text for one shell."""
    first = "#compdef relayctl\n" if shell == "zsh" else ""
    head = f"# {shell} completion for relayctl(8), made of its own command line\n\n"
    return first + head + "\n".join(SHELLS[shell](list(levels(parser())))) + "\n"


if __name__ == "__main__":
    sys.stdout.write(completion(sys.argv[1]))
