"""Harnesses: content-addressed trees of files, and the edits that turn one into another.

A harness is a folder with a manifest, ``harness.toml``, and an entry point::

    entry = "harness.py"            # defines solve(instance, ctx) and, if it likes, setup(ctx)
    requires = ["scikit-learn"]     # distributions that the sandbox binds read-only
    stateless = false               # true: one fork may serve many instances
    fixed = ["labels.json"]         # files, folders or patterns that no edit may touch

Its name is the digest of its content, so two equal harnesses are the same one. Files whose names
begin with a dot and files over 1 MB are left out of it, and what ``.siaignore`` says, in lines as
``.gitignore`` has them; ``!model.bin`` keeps a file that would be left out.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import tomllib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from sia_core.errors import HarnessError, UsageError, faults, meant
from sia_core.given_files import TooMuch, read_file, read_folder

MANIFEST = "harness.toml"
MAX_FILES = 500
MAX_BYTES = 8 * 2**20
LARGE_BYTES = 10**6
IGNORE_FILE = ".siaignore"
IGNORED = ("__pycache__", "*/__pycache__", "*.pyc", ".git", ".venv", ".DS_Store")

_MOST_COUNTED = 100
_SAFE_PATH = re.compile(r"[^\\:*?\"<>|]+")
_WINDOWS_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)


class Frozen(BaseModel):
    """The base of models that do not change and refuse fields that they do not have."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Manifest(Frozen):
    """The content of ``harness.toml``: ``entry``, ``requires``, ``stateless`` and ``fixed``, as above."""

    entry: str = "harness.py"
    requires: Annotated[tuple[Annotated[str, Field(max_length=200)], ...], Field(max_length=100)] = ()
    stateless: bool = False
    fixed: tuple[str, ...] = ()


class Replace(Frozen):
    """Replace the one occurrence of ``old`` in the text file at ``path`` by ``new``."""

    op: Literal["replace"] = "replace"
    path: str
    old: str = Field(min_length=1)
    new: str


class Write(Frozen):
    """Create the text file at ``path``, or write it anew, with ``text`` as the whole of it."""

    op: Literal["write"] = "write"
    path: str
    text: str


class Delete(Frozen):
    """Remove the file at ``path``."""

    op: Literal["delete"] = "delete"
    path: str


_OP = BeforeValidator(lambda edit: {"op": "", **edit} if isinstance(edit, dict) else edit)  # its error lists all ops
Edit = Annotated[Replace | Write | Delete, Field(discriminator="op"), _OP]


def check_path(path: str) -> str:
    """Return ``path`` if it names a file inside a tree, on any platform; else raise HarnessError."""
    if (
        not _SAFE_PATH.fullmatch(path)
        or not path.isprintable()
        or len(path.encode()) > 200
        or any(part.strip(" ") != part or part.endswith(".") or not part for part in path.split("/"))
        or any(_WINDOWS_DEVICE.fullmatch(part) for part in path.split("/"))
    ):
        raise HarnessError(f"{path!r} is not a path inside the harness: use a relative one such as 'src/model.py'")
    return path


@dataclass(frozen=True)
class HarnessTree:
    """An immutable tree of ``files``, by path relative to its root.

    ``left_out`` names the files of its folder that were left out without its author's word.
    """

    files: Mapping[str, bytes]
    left_out: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        for path in self.files:
            check_path(path)
        folders = {path[:i] for path in self.files for i, char in enumerate(path) if char == "/"}
        for path in folders & set(self.files):
            raise HarnessError(f"{path!r} is a file and a folder at once")
        spelt: dict[str, str] = {}
        for path in (*self.files, *folders):
            other = spelt.setdefault(unicodedata.normalize("NFC", path).casefold(), path)
            if other != path:
                raise HarnessError(f"{other!r} and {path!r} are one file on some machines; rename one of them")
        if len(self.files) > MAX_FILES:
            raise HarnessError(f"a harness holds at most {MAX_FILES} files; this one has {len(self.files)}")
        size = sum(map(len, self.files.values()))
        if size > MAX_BYTES:
            raise HarnessError(f"a harness holds at most {MAX_BYTES:,} bytes; this one has {size:,}")

    @classmethod
    def from_folder(cls, folder: Path, *names: str) -> HarnessTree:
        """Read the folder at ``names`` below ``folder``. Links are refused: a tree is the same on every machine."""
        if not (where := folder.joinpath(*names)).is_dir():
            raise HarnessError(f"{where}: no such folder; a harness is a folder with a {MANIFEST} or a harness.py")
        try:
            choice = _Choice(where)
            files = read_folder(folder, *names, skip=choice.leaves_out, most_files=MAX_FILES, most_bytes=MAX_BYTES)
            return cls(dict(files), tuple(choice.left_out))
        except TooMuch:
            raise HarnessError(
                f"{where} is too large for a harness, which holds at most {MAX_FILES} files and "
                f"{MAX_BYTES:,} bytes; name what it does not need in {IGNORE_FILE}, or keep data elsewhere"
            ) from None
        except UsageError as error:
            raise HarnessError(str(error)) from None

    @cached_property
    def listing(self) -> bytes:
        """Every path with the digest of its content, in the order of the paths."""
        return "".join(
            f"{path}\0{hashlib.sha256(self.files[path]).hexdigest()}\n" for path in sorted(self.files)
        ).encode()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the listing: the harness's name."""
        return hashlib.sha256(self.listing).hexdigest()

    @cached_property
    def manifest(self) -> Manifest:
        """The parsed manifest; a tree without one gets the defaults."""
        try:
            written = self.text(MANIFEST).lstrip("\ufeff") if MANIFEST in self.files else ""
            manifest = Manifest.model_validate(tomllib.loads(written))
        except ValidationError as error:
            raise HarnessError(f"{MANIFEST}: {faults(error, Manifest.model_fields)}") from None
        except (ValueError, RecursionError) as error:  # not TOML; or an integer, or a depth, that Python does not read
            raise HarnessError(f"{MANIFEST}: {error}") from None
        if manifest.entry not in self.files:
            out = f" (left out of it: {', '.join(self.left_out)})" if self.left_out else ""
            raise HarnessError(f"the entry point {manifest.entry!r} is not in the harness; add it, or set entry{out}")
        return manifest

    def text(self, path: str) -> str:
        """One file as text; HarnessError where it is missing or not UTF-8."""
        if path not in self.files:
            raise HarnessError(f"no file {path!r} in the harness{meant(path, self.files)}")
        try:
            return self.files[path].decode()
        except UnicodeDecodeError:
            raise HarnessError(f"{path!r} is not a text file") from None

    def write_to(self, folder: Path) -> None:
        """Write the files below ``folder``, which is made if it is missing."""
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in self.files.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


def apply_edits(tree: HarnessTree, edits: Iterable[Edit]) -> HarnessTree:
    """The tree after the edits, in order. Raises HarnessError at the first that is out of bounds.

    Files that the manifest fixes cannot be written, replaced or deleted, and no
    edit of the manifest changes what is fixed.
    """
    fixed = tree.manifest.fixed
    files = dict(tree.files)
    for edit in edits:
        path = check_path(edit.path)
        if is_fixed(path, fixed):
            raise HarnessError(f"{path!r} is fixed by this harness's manifest; leave it as it is")
        match edit:
            case Write():
                files[path] = _encoded(path, edit.text)
            case Delete():
                HarnessTree(files).text(path)
                del files[path]
            case Replace():
                text = HarnessTree(files).text(path)
                if times := _times_unless_once(text, edit.old):
                    raise HarnessError(f"{path!r}: the text to replace occurs {times}; it must occur once")
                files[path] = _encoded(path, text.replace(edit.old, edit.new))
    edited = HarnessTree(files)
    if edited.manifest.fixed != fixed:
        raise HarnessError(f"{MANIFEST}: an edit may not change what is fixed")
    return edited


def _times_unless_once(text: str, old: str) -> str:
    """How often a text occurs, overlapping ones too; empty where it is once."""
    count, place = 0, text.find(old)
    while place >= 0 and count < _MOST_COUNTED:
        count, place = count + 1, text.find(old, place + 1)
    more = " or more" if count == _MOST_COUNTED else ""
    return {0: "nowhere", 1: "", 2: "twice"}.get(count, f"{count} times{more}")


def is_fixed(path: str, fixed: Iterable[str]) -> bool:
    """Whether a path is what one of the patterns names, or lies in a folder that it names."""
    names = [path, *(path[:i] for i, char in enumerate(path) if char == "/")]
    return any(fnmatchcase(name, pattern.removesuffix("/")) for pattern in fixed for name in names)


class _Choice:
    """Which files of a folder belong to its harness, by the rules of this module and by its ``.siaignore``."""

    def __init__(self, folder: Path) -> None:
        self.left_out: list[str] = []
        self._folder = folder
        self._rules = [rule for line in _ignore_lines(folder) if (rule := _Rule.of(line))]

    def leaves_out(self, path: str) -> bool:
        """Whether a file or a folder is left out, which is noted where its author may not expect it."""
        if any(fnmatchcase(path, pattern) for pattern in IGNORED):
            return True
        place = self._folder / path
        is_folder = place.is_dir() and not place.is_symlink()
        verdicts = [rule.leaves_out for rule in self._rules if rule.matches(path, is_folder)]
        if verdicts:  # the last rule decides, as in .gitignore
            return verdicts[-1]
        try:
            size = 0 if is_folder else place.lstat().st_size
        except OSError:
            return False  # whoever reads it says what is wrong with it
        hidden, large = path.rpartition("/")[2].startswith("."), size > LARGE_BYTES
        if hidden or large:
            if path != IGNORE_FILE:
                name = path if path.isprintable() else ascii(path)
                self.left_out.append(f"{name}/" if is_folder else f"{name} ({size / 1e6:.1f} MB)" if large else name)
            return True
        return False


@dataclass(frozen=True)
class _Rule:
    """One line of ``.siaignore``, which matches as in git: ``!docs/`` keeps the folder, and no ``.env`` in it.

    The library pathspec takes such a line to be about all that is in the folder.
    """

    parts: tuple[str, ...]
    leaves_out: bool
    folders_only: bool

    @classmethod
    def of(cls, line: str) -> _Rule | None:
        """The rule of a line; None for a blank one and for a comment."""
        text = line.strip()
        if not text or text.startswith("#"):
            return None
        keeps, text = text.startswith("!"), text.removeprefix("!")
        pattern = text.rstrip("/")
        parts = tuple(pattern.lstrip("/").split("/"))
        anchored = "/" in pattern  # else the name matches in any folder
        return cls(parts if anchored else ("**", *parts), not keeps, text.endswith("/"))

    def matches(self, path: str, is_folder: bool) -> bool:
        """Whether the rule is about a path, which is relative to the harness's folder."""
        return (is_folder or not self.folders_only) and _fits(path.split("/"), self.parts)


def _fits(names: Sequence[str], parts: Sequence[str]) -> bool:
    """Whether the names of a path are those of a pattern, in which ``**`` stands for any number of them."""
    places = {0}  # how many names the parts so far may stand for
    for part in parts:
        if part == "**":
            places = set(range(min(places, default=len(names) + 1), len(names) + 1))
        else:
            places = {place + 1 for place in places if place < len(names) and fnmatchcase(names[place], part)}
    return len(names) in places


def _ignore_lines(folder: Path) -> list[str]:
    try:
        return read_file(folder, IGNORE_FILE, most_bytes=MAX_BYTES).decode("utf-8-sig").splitlines()
    except FileNotFoundError:
        return []
    except UnicodeDecodeError as error:
        raise HarnessError(f"{folder / IGNORE_FILE}: not UTF-8 at byte {error.start}") from None


def _encoded(path: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise HarnessError(f"{path!r}: the new text is not Unicode at character {error.start}") from None


def applies(tree: HarnessTree, edits: Iterable[Edit]) -> bool:
    """Whether the edits are within bounds for this tree and change it."""
    try:
        return apply_edits(tree, edits).digest != tree.digest
    except HarnessError:
        return False


def unified_diff(old: HarnessTree, new: HarnessTree) -> str:
    """The change from one tree to another as a unified diff, for people to read."""
    return "".join(_diff_lines(old, new))


def _diff_lines(old: HarnessTree, new: HarnessTree) -> Iterator[str]:
    for path in sorted({*old.files, *new.files}):
        before, after = old.files.get(path), new.files.get(path)
        if before == after:
            continue
        try:
            a, b = (_lines((side or b"").decode()) for side in (before, after))
            if len(a) * len(b) > 10**8:
                raise ValueError("who wrote these may have seen to it that it takes hours to compare them")
        except ValueError:  # no text is one, too
            yield f"Binary files a/{path} and b/{path} differ\n"
            continue
        if not a and not b:  # an empty file came or went, which only git's header can say
            yield f"diff --git a/{path} b/{path}\n{'new' if before is None else 'deleted'} file mode 100644\n"
        tab = "\t" if " " in path else ""  # else `patch` takes the name to end at the space
        names = ["/dev/null" if side is None else f"{at}/{path}{tab}" for at, side in (("a", before), ("b", after))]
        for line in difflib.unified_diff(a, b, names[0], names[1]):
            yield line if line.endswith("\n") else line + "\n\\ No newline at end of file\n"


def _lines(text: str) -> list[str]:
    # Not str.splitlines: to `patch` a form feed or U+2028 ends no line.
    return re.findall(r"[^\n]*\n|[^\n]+", text)
