"""The package has installed what the source is, whole, and needs nothing that it does not name.

    python3 -I carried.py TREE [suggested]

What TREE has in relayd/, but for the demonstration, is installed as it is, and nothing else is; so
are the plugin and the documents. Every module can be imported, and what any of them imports, at
whatever moment, is there; with "suggested", what belongs to the packages that relayd suggests, too.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import relayd

INSTALLED = Path(relayd.__file__).parent
DOCUMENTS = Path("/usr/share/doc/relayd/docs")
OPTIONAL = {
    "dkim": "python3-dkim",
    "ldap3": "python3-ldap3",
    "psycopg": "python3-psycopg",
    "pymysql": "python3-pymysql",
}


def main() -> int:
    """Say what is wrong, one a line; the exit status is 1 if anything is."""
    tree = Path(sys.argv[1])
    missing = set() if sys.argv[2:] == ["suggested"] else set(OPTIONAL)
    wrong = [*files(tree), *suggestions(), *modules(missing)]
    print("\n".join(wrong) or f"{len(contents(INSTALLED))} files, all as in the source")
    return int(bool(wrong))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below it, by its path there; neither bytecode nor the demonstration."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not {"__pycache__", "demo", "man"} & {*path.relative_to(folder).parts}
    }


def files(tree: Path) -> Iterator[str]:
    """Those of the source that are not installed as they are, and what is installed beside."""
    pairs = [(tree / "relayd", INSTALLED), (tree / "docs", DOCUMENTS)]
    pairs += [(tree / "twisted", INSTALLED.parent / "twisted")]
    for source, installed in pairs:
        wanted, there = contents(source), contents(installed)
        yield from (f"not installed: {name}" for name in wanted.keys() - there.keys())
        yield from (f"changed: {name}" for name in wanted if there.get(name, b"") != wanted[name])
        if source.name == "relayd":
            yield from (f"not in the source: {name}" for name in there.keys() - wanted.keys())


def suggestions() -> Iterator[str]:
    """What relayd can use, and does not suggest."""
    command = ["dpkg-query", "--show", "--showformat", "${Suggests}", "relayd"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    named = {each.split()[0] for each in said.split(",")}
    yield from (f"not suggested: {package}" for package in set(OPTIONAL.values()) - named)


def modules(missing: set[str]) -> Iterator[str]:
    """Those that cannot be imported, and what a function of theirs would import in vain."""
    for path in sorted(INSTALLED.rglob("*.py")):
        relative = path.relative_to(INSTALLED.parent).with_suffix("")
        name = ".".join(relative.parts).removesuffix(".__init__")
        for wanted in sorted(imported(ast.parse(path.read_text("utf-8")))):
            top = wanted.partition(".")[0]
            if importlib.util.find_spec(top) is None and top not in missing:
                yield f"{name} imports {wanted}, which is not there"
        if relative.name != "__main__":
            try:
                importlib.import_module(name)
            except ModuleNotFoundError as error:
                if (error.name or "").partition(".")[0] not in missing:
                    yield f"{name}: {error!r}"
            except Exception as error:  # whatever keeps it from being imported
                yield f"{name}: {error!r}"


def imported(module: ast.Module) -> set[str]:
    """What is imported anywhere in it."""
    nodes = list(ast.walk(module))
    names = {each.name for node in nodes if isinstance(node, ast.Import) for each in node.names}
    return names | {
        node.module
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module and not node.level
    }


if __name__ == "__main__":
    sys.exit(main())
