"""Tag lists, `name=value; name=value`: of signatures, keys and policies (RFC 6376 section 3.2)."""

from __future__ import annotations

_SPACE = " \t\r\n"


def tag_list(text: str) -> dict[str, str]:
    """The tags in their order, white space around them gone. ValueError: it is no tag list."""
    tags: dict[str, str] = {}
    parts = text.split(";")
    if not parts[-1].strip(_SPACE):
        parts.pop()
    for part in parts:
        name, equals, value = part.partition("=")
        name = name.strip(_SPACE)
        if not equals or not name.isidentifier() or not name.isascii() or name[0] == "_":
            raise ValueError(f"{part.strip()[:40]!r} is no tag")
        if name in tags:
            raise ValueError(f"the tag {name} stands twice")
        tags[name] = value.strip(_SPACE)
    return tags


def without_space(value: str) -> str:
    """A value in which white space says nothing."""
    return "".join(value.split())
