"""When and how a training was begun, and of which code: its command line and git commit.

No process is started for it: the commit is read from the few small files in which git keeps it.
Whether files were changed since is therefore not known: for that git compares each of them.

Rejected: ``git status`` (a process, of seconds in a large repository, that may run hooks);
comparing the times of files with git's index (a file that was only copied would seem changed).
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from distwatch.records import Provenance

#: The environment variable by which neither is recorded.
VARIABLE = "DISTWATCH_PROVENANCE"
_OFF = ("0", "off", "no", "false")

#: What is written in place of a secret.
HIDDEN = "***"

#: Words of an option's name that say that its value is a secret, also in the plural.
_SECRET_WORDS = {
    "apikey", "auth", "authorization", "bearer", "cookie", "credential", "key", "pass",
    "passphrase", "passwd", "password", "pw", "pwd", "secret", "sig", "signature", "token",
}  # fmt: skip
#: What a longer word may end with, such as "dbpassword".
_SECRET_ENDS = ("apikey", "accesskey", "passwd", "password", "secret", "secretkey", "token")
#: Those that also have other meanings, so that plain values of theirs are none.
_AMBIGUOUS = {"auth", "key", "pass", "sig", "signature", "token"}
_PLAIN = re.compile(r"[+-]?\d{1,6}(\.\d*)?(e-?\d+)?|true|false|none|null|on|off|yes|no", re.I)
#: An option and its value in one argument.
_PAIR = re.compile(r"(?P<name>-{0,2}[A-Za-z_+][\w.\-]*)(?P<sign>[=:])(?P<value>.+)", re.DOTALL)
#: A name and its value within a longer text, such as an address, JSON or a header.
_INSIDE = re.compile(
    r"""(?P<name>[\w.\-]+)(?P<sign>["']?\s*[=:]\s*["']?)"""
    r"""(?P<value>(?:Bearer |Basic )?[^&;,\s"'{}=?]+)"""
)
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
#: The user and the password in an address.
_USER = re.compile(r"(?<=://)[^\s]+(?=@)")
#: What services begin their keys with, and anything long of mixed letters and digits.
_KEY = re.compile(
    r"\b(?:(?:hf|gh[a-z]|github_pat|glpat|sk|pk|rk|xox[a-z])[_-]\w[\w-]{8,}|AKIA\w{12,}|eyJ[\w.-]{16,})"
    r"|\b(?=\w*[a-z])(?=\w*[A-Z])(?=\w*\d)[A-Za-z0-9]{32,}\b"
)

#: Characters of a command line that are recorded.
_LONGEST = 4096

#: Bytes of a file of git that are read; packed-refs has a line for each branch and tag.
_MOST_BYTES = 16 * 2**20
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def provenance() -> Provenance:
    """That of this process, as it is now.

    It raises nothing: what cannot be read is None.
    """
    began = time.time()
    if not wanted(os.environ):
        return Provenance(began)
    command = commit = None
    with contextlib.suppress(Exception):
        command = None if "ipykernel" in sys.modules else command_of(sys.argv)
    with contextlib.suppress(Exception):
        commit = commit_of(folder_of(sys.argv))
    return Provenance(began, command, commit)


def wanted(environment: Mapping[str, str]) -> bool:
    """Whether the command line and the commit may be recorded."""
    return environment.get(VARIABLE, "").strip().lower() not in _OFF


def command_of(arguments: Sequence[str]) -> str | None:
    """A command line as a shell takes it, with `HIDDEN` in place of what looks like a secret.

    Args:
        arguments: those of the process, its script first, as in ``sys.argv``.
    """
    # Names of files are bytes, which need not be text.
    plain = (os.fsencode(each).decode(errors="replace") for each in arguments)
    return shlex.join(without_secrets(_beginning(plain))) or None


def _beginning(arguments: Iterable[str]) -> Iterator[str]:
    """As many whole arguments as are recorded."""
    total = 0
    for each in arguments:
        total += len(each)
        if total > _LONGEST:
            yield "..."
            return
        yield each


def without_secrets(arguments: Iterable[str]) -> Iterator[str]:
    """Arguments, with `HIDDEN` in place of what looks like a secret.

    That is the value of an option one of whose words says so (``--api-key``, ``db.password``,
    but not ``--tokenizer`` or ``--max_tokens``), the user in an address, and what looks like a
    key.
    """
    follows = ""
    for each in arguments:
        # Of two options in a row the first has no value of its own.
        if follows and not each.startswith("-"):
            # One that takes several has all of them hidden.
            yield HIDDEN if _is_secret(follows, each) else each
            continue
        option = each.startswith("-") and "=" not in each
        follows = each if option and _is_secret(each, HIDDEN) else ""
        yield _without_secret(each)


def _without_secret(argument: str) -> str:
    argument = _USER.sub(HIDDEN, argument)
    pair = _PAIR.fullmatch(argument)
    if pair:
        secret = _is_secret(pair["name"], pair["value"])
        value = HIDDEN if secret else _without_secret(pair["value"])
        return f"{pair['name']}{pair['sign']}{value}"
    inside = _INSIDE.sub(_hidden, argument)
    return _KEY.sub(HIDDEN, inside)


def _hidden(found: re.Match[str]) -> str:
    """A name and its value, which is hidden if the name says so."""
    if not _is_secret(found["name"], found["value"]):
        return found[0]
    return f"{found['name']}{found['sign']}{HIDDEN}"


def _is_secret(name: str, value: str) -> bool:
    words = [word.lower() for word in _WORDS.findall(name)]
    # "no" takes a secret away: --no-auth has no value.
    if words[:1] == ["no"]:
        return False
    for word in words:
        one = word.removesuffix("s") if word.removesuffix("s") in _SECRET_WORDS else word
        if one in _AMBIGUOUS and _PLAIN.fullmatch(value):
            continue
        if one in _SECRET_WORDS or one.endswith(_SECRET_ENDS):
            return True
    return False


def folder_of(arguments: Sequence[str]) -> Path:
    """Where the code of a training is: its script's folder, or the current one.

    What is installed with Python, such as a launcher, is not the code of a training.
    """
    script = Path(arguments[0]).absolute() if arguments and arguments[0] else Path("-")
    installed = script.is_relative_to(sys.prefix) or script.is_relative_to(sys.base_prefix)
    return script.parent if script.is_file() and not installed else Path.cwd()


def commit_of(folder: Path) -> str | None:
    """The commit that is checked out in the git repository that a folder is in.

    Read are HEAD, the branch's own file or ``packed-refs``, also of a worktree or submodule.

    Returns:
        Its hash; None without a repository or a commit.

    Raises:
        OSError: a file cannot be read.
    """
    git = _git_folder(folder)
    head = _read(git / "HEAD") if git else None
    if git is None or head is None:
        return None
    branch = head.removeprefix("ref:").strip()
    if branch == head:
        return _as_commit(head)
    if not branch.startswith("refs/") or ".." in branch.split("/"):
        return None
    common = git / (_read(git / "commondir") or "")
    own = _read(git / branch) or _read(common / branch)
    return _as_commit(own) if own else _packed(common, branch)


def _git_folder(folder: Path) -> Path | None:
    """The folder in which git keeps what it knows of a folder's files."""
    for each in (folder, *folder.parents):
        place = each / ".git"
        if place.is_dir():
            return place
        # A worktree or submodule has a file that says where it is.
        if (said := _read(place)) is not None and said.startswith("gitdir:"):
            return each / said.removeprefix("gitdir:").strip()
    return None


def _packed(common: Path, branch: str) -> str | None:
    for line in (_read(common / "packed-refs") or "").splitlines():
        commit, _, name = line.partition(" ")
        if name == branch:
            return _as_commit(commit)
    return None


def _as_commit(text: str) -> str | None:
    return text if _COMMIT.fullmatch(text) else None


def _read(path: Path) -> str | None:
    """The text of a file, without blanks at its ends; None if there is none."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return file.read(_MOST_BYTES).decode(errors="replace").strip()
