"""The arguments of a Watch, validated."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from distwatch.config import forms
from distwatch.config.log_requests import LogRequest, log_requests
from distwatch.errors import ConfigError, nearest
from distwatch.event_files.options import EventOptions, event_options
from distwatch.records import PHASES, TRAIN
from distwatch.signals import Selector, check_reference, check_selectors
from distwatch.signals.schedules import Schedule, every, from_mapping
from distwatch.store.addresses import Address, address_of, scheme_of


class WatchConfig(BaseModel):
    """The arguments of a Watch, validated. Field by field as in `Watch`."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    store: Annotated[Path | str, WithJsonSchema({"type": "string"})] = Field(
        description="Where the run is written: a folder that does not exist yet, or a URL."
    )
    signals: Annotated[tuple[Selector, ...] | None, WithJsonSchema(forms.SIGNALS)] = Field(
        default=None,
        description="What is watched: null for the outermost layers that own weights, every "
        "Tracker and the model's output; patterns over layer paths; or selectors.",
    )
    reference: Annotated[str, WithJsonSchema(forms.REFERENCE)] = Field(
        default="previous",
        description="What activations are measured against, unless their selector says.",
    )
    schedule: Annotated[Schedule, WithJsonSchema(forms.SCHEDULE)] = Field(
        default_factory=lambda: every(1),
        description="At which steps to look, unless a selector says.",
    )
    window: Annotated[
        int, Field(strict=True), WithJsonSchema({"type": "integer", "minimum": 1})
    ] = Field(
        default=256,
        description="Steps that stay on the devices between two drains, and make a chunk.",
    )
    overwrite: bool = Field(
        default=False, strict=True, description="Delete a run that is at store already."
    )
    resume: bool = Field(
        default=False,
        strict=True,
        description="Continue a run that is at store already, from the restored step.",
    )
    strict: bool = Field(
        default=False,
        strict=True,
        description="Let an error in the watching end the training.",
    )
    on_full: Literal["drop", "wait"] = Field(
        default="drop",
        description="Where the disk is slower than training: drop whole blocks, or wait.",
    )
    durability: Literal["process", "power"] = Field(
        default="process", description="What committed rows survive the end of."
    )
    max_bytes: Annotated[ByteSize | None, Field(gt=0), WithJsonSchema(forms.BYTES)] = Field(
        default=None, description="How large the run may get, such as 2GB."
    )
    at_max_bytes: Literal["thin", "stop"] = Field(
        default="thin",
        description="thin keeps every second, fourth, ... step of the old part; stop ends.",
    )
    phases: Annotated[
        tuple[str, ...],
        WithJsonSchema(
            {
                "type": "array",
                "items": {"enum": list(PHASES)},
                "minItems": 1,
                "uniqueItems": True,
            }
        ),
    ] = Field(default=(TRAIN,), description="What is recorded, each phase apart.")
    tensorboard: Annotated[EventOptions | None, WithJsonSchema(forms.TENSORBOARD)] = Field(
        default=None,
        description="A folder for TensorBoard's event files, written while training runs.",
    )
    log_to_keras: Annotated[tuple[LogRequest, ...], WithJsonSchema(forms.LOGS)] = Field(
        default=(),
        description="Signals and a statistic each, for Keras's logs at the end of an epoch.",
    )

    @field_validator("store", mode="before")
    @classmethod
    def _check_store(cls, value: Any) -> Address:
        return address_of(value)

    @field_validator("signals", mode="before")
    @classmethod
    def _check_signals(cls, value: Any) -> tuple[Selector, ...] | None:
        return check_selectors(value)

    @field_validator("reference")
    @classmethod
    def _check_reference(cls, value: str) -> str:
        return check_reference(value)

    @field_validator("schedule", mode="before")
    @classmethod
    def _read_schedule(cls, value: Any) -> Schedule:
        if value is None:
            return every(1)
        return value if isinstance(value, Schedule) else from_mapping(value)

    @field_validator("phases")
    @classmethod
    def _check_phases(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for phase in value:
            if phase not in PHASES:
                close = nearest(phase, list(PHASES), most=1)
                raise ConfigError(f"unknown phase {phase!r}; nearest: {close}.")
        if not value or len(set(value)) < len(value):
            raise ConfigError(f"phases={list(value)}: name at least one, and each once.")
        return value

    @field_validator("tensorboard", mode="before")
    @classmethod
    def _read_tensorboard(cls, value: Any) -> EventOptions | None:
        return None if value is None else event_options(value)

    @field_validator("log_to_keras", mode="before")
    @classmethod
    def _read_log_to_keras(cls, value: Any) -> tuple[LogRequest, ...]:
        return log_requests(() if value is None else value)

    @model_validator(mode="after")
    def _check_logs(self) -> WatchConfig:
        if self.log_to_keras and TRAIN not in self.phases:
            raise ConfigError(
                f"log_to_keras with phases={list(self.phases)}: what is logged is of the "
                'phase "train", so record that, too.'
            )
        return self

    @model_validator(mode="after")
    def _check_what_becomes_of_a_run(self) -> WatchConfig:
        if self.overwrite and self.resume:
            raise ConfigError("overwrite and resume: a run is either deleted or continued.")
        if self.durability == "power" and scheme_of(self.store) == "memory":
            raise ConfigError(f"{self.store}: nothing in memory survives a cut of power.")
        return self

    @field_validator("window")
    @classmethod
    def _check_window(cls, value: int) -> int:
        if value < 1:
            raise ConfigError(f"window={value}: keep at least 1 step between two drains.")
        return value


def watch_config(**arguments: Any) -> WatchConfig:
    """Validate the arguments of a Watch.

    Raises:
        ConfigError: one of them is wrong or unknown; the message says how to mend it.
    """
    try:
        return WatchConfig(**arguments)
    except ValidationError as error:
        raise ConfigError("; ".join(map(in_words, error.errors()))) from error


def in_words(detail: Any) -> str:
    """Say one of pydantic's findings in our words."""
    key = ".".join(map(str, detail["loc"]))
    if detail["type"] == "extra_forbidden":
        known = list(WatchConfig.model_fields)
        return f"unknown key {key!r}; nearest: {nearest(key, known, most=1)}"
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"])
    return f"{key}={detail['input']!r}: {detail['msg'].lower()}"
