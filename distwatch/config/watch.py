"""The arguments of a Watch, validated."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple, Union

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    PlainValidator,
    StrictBool,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from distwatch.actions import CHECKPOINT, REFERENCE, STOP, RuleChoice, rule_choices
from distwatch.errors import ConfigError, nearest
from distwatch.event_files.options import EventOptions, event_options
from distwatch.records import PHASES, TRAIN, TRAIN_ON_BATCH
from distwatch.signals.patterns import Pattern
from distwatch.signals.references import Reference
from distwatch.signals.schedules import WrittenSchedule, every
from distwatch.signals.selectors import KINDS, Selector
from distwatch.signals.signal_lists import join_patterns, list_signals, read_selector
from distwatch.signals.validation import describe_all
from distwatch.store.addresses import Address, scheme_of
from distwatch.store.new_runs import USUAL, FolderOfRuns, place_of


class LogRequest(NamedTuple):
    """Signals, by a pattern, and the statistic of each that is asked for."""

    pattern: str
    statistic: str


def log_requests(given: Any) -> tuple[LogRequest, ...]:
    """Read ``["activation/dense:l2", ...]``; None asks for nothing.

    Raises:
        ConfigError: one is not of this form.
    """
    listed = [given] if isinstance(given, str) else given or ()
    if not isinstance(listed, (list, tuple)):
        raise ConfigError(f"log_to_keras={given!r}: {_EXAMPLE}")
    return tuple(each if isinstance(each, LogRequest) else _request(each) for each in listed)


_EXAMPLE = "give a list such as ['activation/dense:l2', 'update/*:ratio']."


def _request(given: Any) -> LogRequest:
    pattern, _, statistic = given.rpartition(":") if isinstance(given, str) else ("", "", "")
    if not pattern or not statistic:
        raise ConfigError(
            f"log_to_keras={given!r}: name a signal, or a pattern, and a statistic; {_EXAMPLE}"
        )
    return LogRequest(pattern, statistic)


_FORM = {"type": "string", "pattern": r"^[\s\S]+:[^:]+$"}

#: Signals and a statistic each, for Keras's logs.
LogRequests = Annotated[
    tuple[LogRequest, ...],
    PlainValidator(log_requests),
    WithJsonSchema({"anyOf": [{"type": "null"}, _FORM, {"type": "array", "items": _FORM}]}),
]


class _WrittenAs:
    """What a file writes for a field, as a type, for the JSON Schema."""

    def __init__(self, written: Any) -> None:
        self._written = written

    def __get_pydantic_json_schema__(self, _: Any, handler: Any) -> Any:
        return handler(TypeAdapter(self._written).core_schema)


_WrittenSignal = Union[(Annotated[str, "a glob"], *KINDS.values())]  # type: ignore[valid-type]

_Signals = Annotated[
    list[Annotated[Pattern | Selector, PlainValidator(read_selector)]],
    BeforeValidator(list_signals),
    AfterValidator(join_patterns),
]

_BYTES_FORM = {
    "anyOf": [
        {"type": "null"},
        {"type": "integer", "exclusiveMinimum": 0},
        {"type": "string", "pattern": r"^\s*[0-9]*\.?[0-9]+\s*([kKmMgGtTpPeE][iI]?)?[bB]?\s*$"},
    ]
}

#: Bytes of a replica's batch that are kept unless another number is given.
_KEPT = {True: 64 * 2**20, False: None}


def _kept_bytes(given: Any) -> Any:
    return _KEPT[given] if isinstance(given, bool) else given


_PHASES_FORM = {
    "type": "array",
    "items": {"enum": list(PHASES)},
    "minItems": 1,
    "uniqueItems": True,
}


_WrittenRule = RuleChoice | Annotated[str, Field(pattern=REFERENCE)]


class WatchConfig(BaseModel):
    """The arguments of a Watch, validated. Field by field as in `Watch`."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    store: Annotated[
        Address | FolderOfRuns,
        PlainValidator(place_of),
        WithJsonSchema({"type": "string"}),
    ] = Field(
        default_factory=lambda: place_of(USUAL),
        description="Where the run is written: a folder that does not exist yet, or a URL; "
        "with a slash at its end, a folder in which each training writes a new run.",
    )
    signals: Annotated[
        tuple[Selector, ...] | None,
        PlainValidator(TypeAdapter(_Signals | None).validate_python),
        _WrittenAs(
            Annotated[list[_WrittenSignal], Field(min_length=1)] | _WrittenSignal | None
        ),
    ] = Field(
        default=None,
        description="What is watched: null for the outermost layers that own trainable "
        "weights, every Tracker, the model's output, the loss, the data, and, where several "
        "replicas train, desync; patterns over layer paths; or selectors.",
    )
    reference: Reference = Field(
        default="previous",
        description="What activations are measured against, unless their selector says.",
    )
    schedule: WrittenSchedule = Field(
        default_factory=lambda: every(1),
        description="At which steps to look, unless a selector says.",
    )
    window: int = Field(
        default=256,
        strict=True,
        ge=1,
        description="Steps that stay on the devices between two drains, and make a chunk.",
    )
    drain_every: float | None = Field(
        default=10.0,
        strict=True,
        gt=0,
        allow_inf_nan=False,
        description="Seconds after which rows are written, also if their window is not full; "
        "null for never.",
    )
    overwrite: StrictBool = Field(
        default=False, description="Delete a run that is at store already."
    )
    resume: StrictBool = Field(
        default=False,
        description="Continue a run that is at store already, from the restored step.",
    )
    strict: StrictBool = Field(
        default=False, description="Let an error in the watching end the training."
    )
    on_full: Literal["drop", "wait"] = Field(
        default="drop",
        description="Where the disk is slower than training: drop whole blocks, or wait.",
    )
    durability: Literal["process", "power"] = Field(
        default="process",
        description="What committed rows must survive: the end of the process, or a power cut.",
    )
    max_bytes: Annotated[ByteSize | None, Field(gt=0), WithJsonSchema(_BYTES_FORM)] = Field(
        default=None, description="How large the run may get, such as 2GB."
    )
    at_max_bytes: Literal["thin", "stop"] = Field(
        default="thin",
        description="thin keeps every second, fourth, ... step of the old part; stop ends.",
    )
    max_overhead: float | None = Field(
        default=None,
        strict=True,
        gt=0,
        le=1,
        description="The part of the time of a step that looking may cost, such as 0.05.",
    )
    keep_batch: Annotated[
        ByteSize | None,
        Field(gt=0),
        BeforeValidator(_kept_bytes),
        WithJsonSchema({"anyOf": [{"type": "boolean"}, *_BYTES_FORM["anyOf"]]}),
    ] = Field(
        default=None,
        description="Whether the first batch with NaN or Inf is kept, on each replica; or up "
        "to which size, such as 256MB.",
    )
    phases: Annotated[tuple[str, ...], WithJsonSchema(_PHASES_FORM)] = Field(
        default=(TRAIN,), description="What is recorded, each phase apart."
    )
    tensorboard: Annotated[
        EventOptions | None,
        PlainValidator(lambda given: None if given is None else event_options(given)),
        _WrittenAs(Annotated[str, Field(min_length=1)] | EventOptions | None),
    ] = Field(
        default=None,
        description="A folder for TensorBoard's event files, written while training runs.",
    )
    log_to_keras: LogRequests = Field(
        default=(),
        description="Signals and a statistic each, for Keras's logs at the end of an epoch.",
    )
    rules: Annotated[
        tuple[RuleChoice, ...],
        PlainValidator(rule_choices),
        _WrittenAs(_WrittenRule | list[_WrittenRule] | None),
    ] = Field(
        default=(),
        description="What is done when a rule first finds something while training runs: "
        "stop, checkpoint, call, log_json; and rules of your own.",
    )

    @property
    def address(self) -> Address:
        """Where the run is; in a folder of runs, where its name is not made yet, the folder."""
        return self.store.folder if isinstance(self.store, FolderOfRuns) else self.store

    @field_validator("phases")
    @classmethod
    def _check_phases(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for phase in value:
            if phase not in PHASES:
                raise ConfigError(
                    f"unknown phase {phase!r}; nearest: {nearest(phase, list(PHASES), most=1)}."
                )
        if not value or len(set(value)) < len(value):
            raise ConfigError(f"phases={list(value)}: name at least one, and each once.")
        return value

    @model_validator(mode="after")
    def _check_combinations(self) -> WatchConfig:
        if self.log_to_keras and TRAIN not in self.phases:
            raise ConfigError(
                f"log_to_keras with phases={list(self.phases)}: only values of the phase "
                '"train" are logged, so record that, too.'
            )
        asked = {action.what for choice in self.rules for action in choice.do}
        if asked & {STOP, CHECKPOINT} and not {TRAIN, TRAIN_ON_BATCH} & {*self.phases}:
            raise ConfigError(
                f"rules with phases={list(self.phases)}: stop and checkpoint are for a "
                'training; record the phase "train", too.'
            )
        if self.overwrite and self.resume:
            raise ConfigError("overwrite and resume: a run is either deleted or continued.")
        if isinstance(self.store, FolderOfRuns) and (self.overwrite or self.resume):
            raise ConfigError(_NEEDS_A_RUN["resume" if self.resume else "overwrite"])
        if self.durability == "power" and scheme_of(self.address) == "memory":
            raise ConfigError(f"{self.store}: nothing in memory survives a power cut.")
        return self


#: Option -> why it does not go with a folder of runs.
_NEEDS_A_RUN = {
    "resume": "resume=True needs the path of the run that it continues, such as "
    "store='runs/2026-11-25-1412-digits.zarr': 'distwatch ls runs/' lists what is there.",
    "overwrite": "overwrite=True needs the path of the run that it replaces, such as "
    "store='run.zarr': in a folder of runs each training writes a new one, and none is in the "
    "way.",
}


def watch_config(**arguments: Any) -> WatchConfig:
    """Validate the arguments of a Watch.

    Raises:
        ConfigError: one of them is wrong or unknown; the message says how to fix it.
    """
    try:
        return WatchConfig(**arguments)
    except ValidationError as error:
        raise ConfigError(describe_all(error, WatchConfig)) from error
