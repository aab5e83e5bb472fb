"""What --help shows: the configuration, each key with the comment that conf/ has for it.

Hydra prints the keys alone; the comments, which say what they mean, lie in files that an installed package hides well.
"""

from __future__ import annotations

import contextlib
import io
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from sam_age.config import CONF_DIR

Key = tuple[str, ...]

WIDTH, COLUMN = 120, 22  # of a line, and where comments begin if there is room
_ENTRY = re.compile(r"^( *)([\w.-]+):(?: +(.*?))??(?: +# ?(.*))?$")
_DEFAULT = re.compile(r"^ *- (?:override )?([\w/@.]+)(?:: *([\w/]+))?(?: +# ?(.*))?$")
_GOES_ON = re.compile(r"^( *)# ?(.*)$")


def show_help(run: Callable[[], None], config_name: str) -> None:
    """Run a Hydra app that was asked for --help, and print what it says with the comments."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            run()
    finally:
        text = said.getvalue()
        if HydraConfig.initialized():
            text = explained(text, comments(config_name, dict(HydraConfig.get().runtime.choices)))
        print(text, end="")


def comments(config_name: str, choices: dict[str, str | None]) -> dict[Key, str]:
    """The comments of a configuration's keys; choices: the option of each group."""
    found: dict[Key, str] = {}
    for group, option in choices.items():
        if option is not None and not group.startswith("hydra"):
            folder, _, place = group.partition("@")
            _read(CONF_DIR / folder / f"{option}.yaml", tuple(re.split(r"[./]", place or folder)), found)
    _read(CONF_DIR / f"{config_name}.yaml", (), found)
    return found


def _read(path: Path, prefix: Key, found: dict[Key, str]) -> None:
    """Comments of one file; those that are there already stand, as nearer to the choice."""
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    if lines and lines[0].startswith("# @package _global_"):
        prefix = ()
    above: list[tuple[int, str]] = []
    own: dict[Key, str] = {}
    bases: list[str] = []
    last: Key | None = None
    for line in lines:
        more = _GOES_ON.match(line)
        if more and last in own and len(more[1]) > above[-1][0]:  # at the key's own column it is about what follows
            own[last] += f" {more[2].strip()}"
        elif above and above[0][1] == "defaults" and (default := _DEFAULT.match(line)):
            last = (*prefix, *default[1].partition("@")[0].split("/"))
            if default[2] is None:
                bases.append(default[1])
            elif default[3]:
                own[last] = default[3]
        elif entry := _ENTRY.match(line):
            indent = len(entry[1])
            above = [*((deep, key) for deep, key in above if deep < indent), (indent, entry[2])]
            last = (*prefix, *(key for _, key in above))
            if entry[4]:
                own[last] = entry[4]
        else:
            last = None
    for key, comment in own.items():
        found.setdefault(key, comment)
    for base in bases:
        _read(path.with_name(f"{base}.yaml"), prefix, found)


def explained(text: str, known: dict[Key, str]) -> str:
    """Help with comments behind the keys, and short lists on one line."""
    return "\n".join(_lines(_collapsed(text.rstrip().splitlines()), known)) + "\n"


def _lines(lines: list[str], known: dict[Key, str]) -> Iterator[str]:
    above: list[tuple[int, str]] = []
    roots = {key[0] for key in known}
    for line in lines:
        entry = _ENTRY.match(line)
        if entry is None or (not entry[1] and entry[2] not in roots and not above):  # the text before
            yield line
            continue
        indent = len(entry[1])
        above = [*((deep, key) for deep, key in above if deep < indent), (indent, entry[2])]
        comment = known.get(tuple(key for _, key in above))
        if comment is None:
            yield line
            continue
        start = max(COLUMN, len(line) + 1)
        first, *rest = textwrap.wrap(comment, max(40, WIDTH - start - 2)) or [""]
        yield f"{line:{start}}# {first}"
        yield from (f"{'':{start}}# {part}" for part in rest)


def _collapsed(lines: list[str]) -> list[str]:
    """Lists of plain values as [a, b]."""
    short: list[str] = []
    at = 0
    while at < len(lines):
        line, items = lines[at], []
        at += 1
        if re.match(r"^ *[\w.-]+:$", line):
            indent = len(line) - len(line.lstrip())
            while (
                at + len(items) < len(lines)
                and (item := re.match(rf"^ {{{indent}}}- ([^:\s]+)$", lines[at + len(items)]))
            ):  # fmt: skip
                items.append(item[1])
        whole = f"{line} [{', '.join(items)}]"
        if items and len(whole) <= WIDTH // 2:
            short.append(whole)
            at += len(items)
        else:
            short.append(line)
    return short
