"""The selectors: which signals of a kind are watched, and how. One class per kind.

The fields of a class are what ``dw.gradients(...)`` takes, what a YAML file says
(``{gradients: "dense_*", every: 10}``), and what the JSON Schema of such files allows. A
new kind is a class here and a tap in `distwatch.training.taps.kinds`.
"""

from __future__ import annotations

from dataclasses import field
from typing import Any, Literal

from pydantic import StrictBool

from distwatch.errors import ConfigError
from distwatch.signals.patterns import Patterns
from distwatch.signals.references import Reference
from distwatch.signals.schedules import When
from distwatch.signals.selector import KINDS, Selector, Statistics
from distwatch.signals.validation import validated

__all__ = [
    "KINDS",
    "Activations",
    "Canary",
    "Data",
    "Desync",
    "Gradients",
    "Inputs",
    "LearningRate",
    "Logged",
    "Loss",
    "Probe",
    "Selector",
    "States",
    "Tensors",
    "Updates",
    "Weights",
    "activations",
    "canary",
    "data",
    "desync",
    "gradients",
    "inputs",
    "learning_rate",
    "logged",
    "loss",
    "probe",
    "states",
    "tensors",
    "updates",
    "weights",
]


@validated
class Activations(
    Selector,
    kind="activations",
    prefixes=("activation", "activation_input"),
    of_batches=True,
    one_of=("outputs", "inputs"),
):
    """What layers put out (``activation/PATH``) or take in (``activation_input/PATH``).

    Args:
        patterns: globs or regular expressions over layer paths, or layers of the model, one
            or a list; None for the outermost layers that own trainable weights, every Tracker
            and the model's own output.
        outputs: watch what the layers put out.
        inputs: watch what they take in.
        reference: what the values are measured against; None for the Watch's own, which is
            "previous".
        statistics: further ones, such as `histogram`, or their names.
        every: at which steps: a schedule, or a number k for every k-th step.

    Raises:
        ConfigError: an argument is wrong.
    """

    outputs: StrictBool = True
    inputs: StrictBool = False
    reference: Reference | None = None


@validated
class Gradients(
    Selector,
    kind="gradients",
    prefixes=("gradient_local", "gradient", "gradient_clipped"),
    one_of=("local", "applied"),
):
    """The gradient of each trainable variable, before and after the replicas add theirs.

    ``gradient_local/PATH`` is the gradient of each replica's own loss, as the
    optimizer is given it, with any division by the number of replicas and any loss
    scaling undone, before clipping; the replicas' mean of it is what is applied.
    ``gradient/PATH`` is what is applied, once (the first replica's row holds it); where
    the optimizer clips it is called ``gradient_clipped/PATH``.

    Args:
        patterns: over variable paths such as ``dense_1/kernel``; the name of a layer, or a
            layer of the model, for all variables of it; a list of these; None for all.
        local: watch each replica's own.
        applied: watch what is applied.
        reference, statistics, every: as in `activations`; the value itself by default.

    Raises:
        ConfigError: an argument is wrong.
    """

    local: StrictBool = True
    applied: StrictBool = True


@validated
class Weights(Selector, kind="weights", prefixes=("weight",)):
    """Each weight as the step left it, on each replica: ``weight/PATH``.

    Weights that are not trained, such as moving averages of BatchNormalization, are
    among them: those are what may differ between replicas.

    Args:
        patterns: over variable paths such as ``dense_1/kernel``; the name of a layer, or a
            layer of the model, for all variables of it; a list of these; None for all.
        reference, statistics, every: as in `activations`; the value itself by default.

    Raises:
        ConfigError: an argument is wrong.
    """


@validated
class States(Selector, kind="states", prefixes=("state",), of_batches=True):
    """What stateful RNN layers hold for the next batch, on each replica: ``state/PATH:0``.

    That is a row for each row of the batch, as the step left it. A layer of several states,
    such as an LSTM, has one signal for each.

    Args:
        patterns: over layer paths, or layers; None for all stateful RNN layers.
        reference, statistics, every: as in `activations`; the value itself by default.

    Raises:
        ConfigError: an argument is wrong.
    """


@validated
class Updates(Selector, kind="updates", prefixes=("update",)):
    """What the optimizer did to each trainable variable in a step: ``update/PATH``.

    That is the weight after the step minus the weight before it. The statistic
    ``ratio`` is the update-to-weight ratio, the norm of the update over that of the
    weight before it; healthy trainings keep it near 1e-3.

    Args:
        patterns: over variable paths such as ``dense_1/kernel``; the name of a layer, or a
            layer of the model, for all variables of it; a list of these; None for all.
        reference, statistics, every: as in `activations`; the value itself by default.

    Raises:
        ConfigError: an argument is wrong.
    """


@validated
class Desync(Selector, kind="desync", prefixes=("desync",)):
    """Whether the replicas' copies of each variable are equal, bit for bit: ``desync/PATH``.

    On each replica a checksum of the weights, of all that the optimizers keep (momentums,
    counts, moving averages of weights) and of the seeds, as the step left them. It is part of
    what is watched by default where several replicas train. What each replica has of its own
    by design, such as the moving statistics of BatchNormalization, is left out, and listed in
    ``run.unwatched``. `distwatch.Run.copies` has the checksums.

    Args:
        patterns: over variable paths such as ``dense_1/kernel`` or
            ``adam/dense_1_kernel_momentum``; the name of a layer, or a layer of the model, for
            all variables of it; a list of these; None for all.
        every: at which steps: a schedule, or a number k for every k-th step.

    Raises:
        ConfigError: an argument is wrong.
    """

    reference: Reference | None = field(default="none", init=False)
    statistics: Statistics = field(default=(), init=False)
    every: When = 100


@validated
class Canary(Selector, kind="canary", prefixes=("canary",), in_files=False):
    """Whether every replica computes the same of one batch: ``canary/output``, ``canary/PATH``.

    A device that computes wrongly gives a wrong gradient, which is added up into the weights of
    all replicas alike, so that they stay equal. A canary has every replica run the model,
    forward and backward in training mode, on the same batch from the same weights and seeds,
    between two steps, and compares checksums of the outputs and of the gradients (of the mean
    square of the outputs) by each weight. It writes nothing: no weight, seed, statistic or
    metric. Each replica computes it twice. On CPUs, and under
    ``tf.config.experimental.enable_op_determinism()``, a replica that alone gets other bits the
    second time is named, too. Where several do, and on other devices, their sums and largest
    values may differ by ten times as much as those of one from itself, and a few roundings.

    Args:
        batch: what the model takes: an array, or a structure of arrays. A few examples do.
        every: at which steps: a schedule, or a number k for every k-th step.

    Raises:
        ConfigError: an argument is wrong.
    """

    patterns: Patterns = field(default=None, init=False)
    reference: Reference | None = field(default="none", init=False)
    statistics: Statistics = field(default=(), init=False)
    batch: Any = field(kw_only=False)
    every: When = 1000

    # Batches are arrays, which have no single truth value.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __post_init__(self) -> None:
        if self.batch is None:
            raise ConfigError("give a batch of what the model takes.")
        super().__post_init__()


@validated
class Inputs(Selector, kind="inputs", prefixes=("input",), of_batches=True):
    """Each replica's input batch: ``input``, or ``input:KEY`` where there are several.

    The statistic ``checksum`` is equal where replicas were given the same batch.

    Args:
        reference, statistics, every: as in `activations`; the value itself by default.

    Raises:
        ConfigError: an argument is wrong.
    """

    patterns: Patterns = field(default=None, init=False)


@validated
class Data(Selector, kind="data", prefixes=("data",), of_batches=True):
    """What the model is given, is to say, and says: values on each replica.

    ``data/input`` is the batch, ``data/target`` what the loss compares with, and
    ``data/prediction`` the model's output; ``data/input:KEY`` and so on where there are
    several. Their range and spread tell inputs that are not normalised, targets that the
    last activation cannot reach, and an output that is always the same. A Watch has this by
    default.

    Args:
        reference, statistics, every: as in `activations`; the value itself by default, at
            every 10th step.

    Raises:
        ConfigError: an argument is wrong.
    """

    patterns: Patterns = field(default=None, init=False)
    every: When = 10


@validated
class Loss(Selector, kind="loss", prefixes=("loss",)):
    """The loss of each replica's own batch, before any reduction: ``loss``.

    A division by the number of replicas is undone where there was one. A replica without rows
    has no loss.

    Args:
        reference, statistics, every: as in `activations`; the value itself by default.

    Raises:
        ConfigError: an argument is wrong.
    """

    patterns: Patterns = field(default=None, init=False)


@validated
class LearningRate(Selector, kind="learning_rate", prefixes=("learning_rate",)):
    """The learning rate of each step, as the optimizer is applied: ``learning_rate``.

    So a schedule, or a callback that lowers it, is seen at the step where it changes. Where
    optimizers are applied several times in a step, the second is ``learning_rate#1``.

    Args:
        reference, statistics, every: as in `activations`; the value itself by default.

    Raises:
        ConfigError: an argument is wrong.
    """

    patterns: Patterns = field(default=None, init=False)


@validated
class Logged(Selector, kind="logged", prefixes=("log",)):
    """The numbers that a step of one's own names by ``watch.log``: ``log/NAME``.

    A Watch has them anyway; this says how, for instance at which steps.

    Args:
        patterns: over the names that ``watch.log`` is given; None for all.
        reference, statistics, every: as in `activations`; the value itself by default.

    Raises:
        ConfigError: an argument is wrong.
    """


@validated
class Probe(Selector, kind="probe", prefixes=("probe",), of_batches=True, in_files=False):
    """The model's outputs on one fixed batch, as each step left the weights.

    A change can only come from the weights, since the batch is always the same. The
    model runs in inference mode, apart from the training, and leaves no trace in it:
    ``probe/output``, or ``probe/PATH`` for chosen layers.

    Args:
        x: what the model takes, of any batch size; the same on every replica.
        layers: over layer paths, or layers; the model's own output by default.
        reference, statistics, every: as in `activations`; the value itself by default.
            With reference "previous" the probe also runs on the step before a look.

    Raises:
        ConfigError: an argument is wrong.
    """

    patterns: Patterns = field(default=None, init=False)
    x: Any = field(kw_only=False)
    layers: Patterns = "output"
    every: When = 50

    # Batches are arrays, which have no single truth value.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __post_init__(self) -> None:
        if self.x is None:
            raise ConfigError("give a batch x of what the model takes.")
        object.__setattr__(self, "patterns", self.layers)
        super().__post_init__()


@validated
class Tensors(Selector, kind="tensors", prefixes=("tensor",), of_batches=True):
    """The raw deltas of layers' outputs, element by element: ``tensor/PATH``.

    This is large: say how rarely.

    Args:
        patterns: over layer paths, or layers; None as in `activations`.
        every: at which steps: a schedule, or a number k for every k-th step.
        reduce: None keeps each replica's; "mean" or "sum" reduces over replicas, row by
            row over those replicas that have the row, and keeps the result alone. It is
            refused on several workers, each of which knows its own replicas only.
        dtype: what is stored, "float32" or "float16" (which ends at 65504).
        reference: as in `activations`; "previous" by default.

    Raises:
        ConfigError: an argument is wrong.
    """

    statistics: Statistics = field(default=(), init=False)
    every: When = field(kw_only=True)
    reduce: Literal["mean", "sum"] | None = None
    dtype: Literal["float32", "float16"] = "float32"
    reference: Reference | None = "previous"


activations = Activations
canary = Canary
data = Data
desync = Desync
gradients = Gradients
weights = Weights
updates = Updates
inputs = Inputs
learning_rate = LearningRate
logged = Logged
loss = Loss
probe = Probe
states = States
tensors = Tensors
