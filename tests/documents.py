"""The Markdown of this project: its pages, and the blocks of code in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path
    for pattern in (
        "*.md",
        ".github/**/*.md",
        "docs/**/*.md",
        "examples/**/*.md",
        "distwatch/**/*.md",
    )
    for path in ROOT.glob(pattern)
)
FENCE = re.compile(r"^```(?P<language>\w*)(?: +title=\"(?P<title>[^\"]+)\")?$")
#: Stands right above a block that is not run, and says why.
NOT_RUN = re.compile(r"^<!-- not run: (.+) -->$")
#: Stands in a page that starts in the folder that another page has left.
CONTINUES = re.compile(r"^<!-- continues: (.+) -->$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: the line that its text begins on, its language, and what it is for."""

    line: int
    language: str
    text: str
    #: The name of a file that it is the content of.
    title: str | None = None
    #: Why it is not run.
    not_run: str | None = None


def blocks(document: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found: list[Block] = []
    lines = document.read_text().splitlines()
    opened: tuple[int, re.Match[str]] | None = None
    for number, line in enumerate(lines, start=1):
        if opened is None:
            if line.startswith("```"):
                fence = FENCE.match(line)
                assert fence, f"{document}:{number}: {line!r} is no fence that is known"
                opened = number, fence
        elif line == "```":
            start, fence = opened
            reason = NOT_RUN.match(lines[start - 2]) if start > 1 else None
            found.append(
                Block(
                    line=start + 1,
                    language=fence["language"],
                    text="\n".join(lines[start : number - 1]) + "\n",
                    title=fence["title"],
                    not_run=reason[1] if reason else None,
                )
            )
            opened = None
    assert opened is None, f"{document}: a block is not closed"
    return found


def commands(document: Path) -> list[str]:
    """The commands of a page's shell blocks, one a line, without comments."""
    typed = "".join(block.text for block in blocks(document) if block.language == "sh")
    without = (line.split(" #")[0].strip() for line in typed.replace("\\\n", " ").splitlines())
    return [line for line in without if line and not line.startswith("#")]


def continued(document: Path) -> Path | None:
    """The page whose folder this one starts in."""
    found = CONTINUES.search(document.read_text())
    return (document.parent / found[1]).resolve() if found else None


def program(document: Path) -> str:
    """A page as one program, with each Python block on its own lines of the page.

    So a traceback names the line of the page. Shell blocks are run where they stand, blocks
    with a title are written to files, and YAML has to be a configuration that can be read.
    """
    lines = [""] * (document.read_text().count("\n") + 1)
    lines[0] = "import document_reader as _reader"
    for block in blocks(document):
        if block.not_run:
            continue
        call = None
        if block.title:
            call = f"_reader.write({block.title!r}, {block.text!r})"
        elif block.language == "sh":
            call = f"_reader.shell({block.text!r})"
        if block.language == "yaml":
            call = f"{call}; " if call else ""
            call += f"_reader.check_configuration({block.text!r})"
        if call:
            lines[block.line - 1] = call
        elif block.language == "python":
            for i, line in enumerate(block.text.splitlines(), start=block.line - 1):
                lines[i] = line
    return "\n".join(lines) + "\n"


def headings(document: Path) -> set[str]:
    """The anchors of a page's headings."""
    text = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)
    return {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }
