"""Show the examples of docstrings as code: a griffe extension for the API reference.

Docstrings write a short example as ``>>>`` lines and a longer one as an indented block after
``::``. Markdown takes the first for quotations and shows the colons of the second.
"""

import re
from typing import Any

import griffe

#: Lines of an example, one after another, with one indentation.
PROMPTS = re.compile(r"(?:^ *(?:>>>|\.\.\.)(?: .*)?\n?)+", re.MULTILINE)
SKIPPED = re.compile(r" *# doctest: \+SKIP *$", re.MULTILINE)


def as_code(found: re.Match[str]) -> str:
    """A fenced block of what was written after the prompts."""
    lines = SKIPPED.sub("", found[0]).rstrip("\n").splitlines()
    indent = lines[0][: len(lines[0]) - len(lines[0].lstrip())]
    code = [indent + line.lstrip()[4:] for line in lines]
    return "\n".join([f"{indent}```python", *code, f"{indent}```", ""])


class DocstringExamples(griffe.Extension):
    """Rewrite the examples of every docstring that is read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called by griffe for each module, class, function and attribute."""
        if obj.docstring is None:
            return
        text = PROMPTS.sub(as_code, obj.docstring.value)
        # A block alone on its line has no colon; one after a sentence keeps one.
        text = re.sub(r"^ *::\n", "", text, flags=re.MULTILINE)
        obj.docstring.value = re.sub(r"::$", ":", text, flags=re.MULTILINE)
