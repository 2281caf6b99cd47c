"""The files of a saved model: whole, regular, and those that `model.json` names, before one is read."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import from_json

from mmrec.console import escape_text, single_line
from mmrec.encoder.weights import file_digest
from mmrec.errors import ModelError
from mmrec.recommender.persistence import FORMAT, FileEntry

_HEAD = rb'\{"sha256": "([0-9a-f]{64})",'
_MAX_MANIFEST = 1 << 26  # bytes
_SAVE_AGAIN = "copy it here again, or fit and save it again"


def read_manifest_bytes(folder: Path, *, allow_links: bool = False) -> bytes:
    """The manifest in `model.json`, as JSON; a ModelError if missing, of another format, or damaged."""
    path = folder / "model.json"
    if not os.path.lexists(path):
        message = "no model.json here; name a folder that `mmrec fit --out` wrote"
        raise ModelError(f"{folder}: {message}")
    with translate_damage(path):
        if check_regular(path, allow_links=allow_links) > _MAX_MANIFEST:
            raise ValueError(f"it has more than {_MAX_MANIFEST:,} bytes")
        content = path.read_bytes()
        head = re.match(_HEAD, content)
        if head is None:
            values = from_json(content)
            found = values.get("format") if isinstance(values, dict) else None
            if isinstance(found, int) and found != FORMAT:
                message = f"format {found}, this mmrec reads {FORMAT}; fit again"
                raise ModelError(f"{folder}: {message}")
            raise ValueError("it does not begin with its SHA-256")
        rest = content[head.end() :]
        if sha256(rest).hexdigest().encode() != head[1]:
            raise ValueError("its SHA-256 is another")
        return b"{" + rest


def check_files(
    folder: Path, name: str, entries: Mapping[str, FileEntry], *, allow_links: bool = False
) -> Path:
    """The subfolder `name` of a model, after a check of all its files; a ModelError names a bad one."""
    files = folder / name
    with translate_damage(files):
        if not stat.S_ISDIR(os.lstat(files).st_mode):
            raise ValueError("no folder")
    memory = _memory_size()
    for file, entry in entries.items():
        with translate_damage(files / file):
            size = check_regular(files / file, allow_links=allow_links)
            if size != entry.size:
                raise ValueError(f"it has {size:,} bytes instead of {entry.size:,}")
            if size > memory:
                raise ValueError(f"its {size:,} bytes are more than the memory of this machine")
            if file_digest(files / file) != entry.sha256:
                raise ValueError("its SHA-256 is another")
    return files


def check_regular(path: Path, *, allow_links: bool = False) -> int:
    """The size of a regular file; a ValueError for a link, unless allowed, a pipe or a device."""
    status = os.stat(path) if allow_links else os.lstat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("a link" if stat.S_ISLNK(status.st_mode) else "no regular file")
    return status.st_size


def _memory_size() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows
        return 1 << 40


@contextmanager
def translate_damage(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong in reading a file or folder into a ModelError of one sentence."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # readers of several formats raise all kinds of errors
        reason = str(error) or type(error).__name__
        if isinstance(error, ValidationError):
            issue = error.errors(include_url=False, include_context=False, include_input=False)[0]
            reason = f"{'.'.join(map(str, issue['loc']))}: {issue['msg']}"
        if isinstance(error, OSError):
            reason = error.strerror or reason
        message = f"the saved model is damaged ({escape_text(single_line(reason), 300)})"
        raise ModelError(f"{path}: {message}; {_SAVE_AGAIN}") from error
