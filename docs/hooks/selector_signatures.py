"""Show the selectors with the arguments that they take: a griffe extension for the reference.

In the source ``gradients = Gradients`` is an attribute. What its fields are, and which of them
are taken by name only, is decided when the class is made. So `distwatch.signals` is asked,
which needs neither TensorFlow nor xarray.
"""

import inspect
from typing import Any

import griffe

import distwatch.signals

#: Where the selectors are defined.
MODULE = "distwatch.signals.selectors"


def parameters_of(selector: Any) -> griffe.Parameters:
    """What a selector takes, as Python itself says."""
    return griffe.Parameters(
        *(
            griffe.Parameter(
                each.name,
                kind=griffe.ParameterKind(each.kind.description),
                default=None if each.default is each.empty else repr(each.default),
            )
            for each in inspect.signature(selector).parameters.values()
        )
    )


class SelectorSignatures(griffe.Extension):
    """Turn each selector into a function of its arguments."""

    def on_module(self, *, mod: griffe.Module, **_: Any) -> None:
        """Called by griffe for each module, when all of it was read."""
        if mod.path != MODULE:
            return
        for name in distwatch.signals.KINDS | {"probe": None}:
            written = mod.members[name]
            made = mod.members[str(written.value)]
            function = griffe.Function(
                name,
                parameters=parameters_of(getattr(distwatch.signals, name)),
                lineno=written.lineno,
                endlineno=written.endlineno,
                docstring=made.docstring,
            )
            mod.set_member(name, function)
