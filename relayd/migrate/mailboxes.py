"""Addresses as Postfix finds them in the values of its maps (RFC 5322, with blanks for commas)."""

from __future__ import annotations

from collections.abc import Iterator


class ListError(ValueError):
    """The text is no list of addresses that can be told for sure."""


def addresses(text: str) -> list[str]:
    """Each address: `Ann Lee <ann@d.test>` is one, `ann, bob` and `ann bob` are two.

    Display names and comments are left out. Raises ListError.
    """
    found: list[str] = []
    for words, inside in _groups(text):
        if not inside:
            found += words
            continue
        if len(inside) > 1 or any("@" in word and word[0] != '"' for word in words):
            raise ListError(f'"{text}" can be read in more than one way')
        found += inside
    for word in found:
        if not word or word[0] in "|/:" or word.startswith("@") or ";" in word:
            raise ListError(f'"{word}" is no address')
    return found


def items(text: str) -> list[str]:
    """What stands between the commas, quotes and comments kept together."""
    made, item, quoted, depth, before = [], "", False, 0, ""
    for letter in text:
        if letter == '"' and before != "\\" and not depth:
            quoted = not quoted
        elif not quoted:
            depth = max(depth + {"(": 1, ")": -1}.get(letter, 0), 0)
        if letter == "," and not quoted and not depth:
            made.append(item)
            item = ""
        else:
            item += letter
        before = letter if before != "\\" else ""
    return [each.strip() for each in [*made, item] if each.strip()]


def _groups(text: str) -> Iterator[tuple[list[str], list[str]]]:
    """Between commas: the words, and what stands in angle brackets."""
    for item in items(text):
        words: list[str] = []
        inside: list[str] = []
        word, at = "", 0
        while at <= len(item):
            letter = item[at : at + 1]
            if letter == '"' or letter == "[":
                end = _end(item, at, {'"': '"', "[": "]"}[letter])
                word += item[at:end]
                at = end
                continue
            if letter in ("", "(", "<") or letter.isspace():
                words += [word] if word else []
                word = ""
            if letter == "(":
                at = _comment(item, at)
                continue
            if letter == "<":
                end = _end(item, at, ">")
                inside.append(item[at + 1 : end - 1].strip())
                at = end
                continue
            if letter and letter in ">)];:" and word + letter != ":":
                raise ListError(f'"{item}" can be read in more than one way')
            word += letter if letter and not letter.isspace() else ""
            at += 1
        yield words, inside


def _end(text: str, at: int, closing: str) -> int:
    """Behind the mark that closes what begins at `at`."""
    n = at + 1
    while n < len(text):
        if text[n] == "\\":
            n += 1
        elif text[n] == closing:
            return n + 1
        elif closing == ">" and text[n] == '"':
            n = _end(text, n, '"') - 1
        n += 1
    raise ListError(f'"{text}" has no {closing} where one belongs')


def _comment(text: str, at: int) -> int:
    depth, n = 0, at
    while n < len(text):
        if text[n] == "\\":
            n += 1
        depth += {"(": 1, ")": -1}.get(text[n : n + 1], 0)
        n += 1
        if not depth:
            return n
    raise ListError(f'"{text}" has a comment without an end')
