"""Configuration files: YAML in, a validated `WatchConfig` out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from distwatch.addresses import Address, address_of, scheme_of
from distwatch.epoch_logs import LogRequest, log_requests
from distwatch.errors import ConfigError, nearest
from distwatch.event_files.options import EventOptions, event_options
from distwatch.records import PHASES, TRAIN
from distwatch.schedules import Schedule, every, from_mapping
from distwatch.signals import Selector, check_reference, check_selectors


class WatchConfig(BaseModel):
    """The arguments of a Watch, validated. Field by field as in `Watch`."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    store: Path | str
    signals: tuple[Selector, ...] | None = None
    reference: str = "previous"
    schedule: Schedule = Field(default_factory=lambda: every(1))
    window: int = Field(default=256, strict=True)
    overwrite: bool = Field(default=False, strict=True)
    resume: bool = Field(default=False, strict=True)
    strict: bool = Field(default=False, strict=True)
    on_full: Literal["drop", "wait"] = "drop"
    durability: Literal["process", "power"] = "process"
    max_bytes: ByteSize | None = Field(default=None, gt=0)
    at_max_bytes: Literal["thin", "stop"] = "thin"
    phases: tuple[str, ...] = (TRAIN,)
    tensorboard: EventOptions | None = None
    log_to_keras: tuple[LogRequest, ...] = ()

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
        raise ConfigError(_in_words(error)) from error


def read_config(path: str | Path) -> WatchConfig:
    """Read a YAML file as the arguments of a Watch.

    Raises:
        ConfigError: the file cannot be read, is no mapping, or a key is wrong.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected keys such as 'store: run.zarr', found none.")
    try:
        return watch_config(**{str(key): value for key, value in content.items()})
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _in_words(error: ValidationError) -> str:
    return "; ".join(_one_in_words(detail) for detail in error.errors())


def _one_in_words(detail: Any) -> str:
    key = ".".join(map(str, detail["loc"]))
    if detail["type"] == "extra_forbidden":
        known = list(WatchConfig.model_fields)
        return f"unknown key {key!r}; nearest: {nearest(key, known, most=1)}"
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"])
    return f"{key}={detail['input']!r}: {detail['msg'].lower()}"
