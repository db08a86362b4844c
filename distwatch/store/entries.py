"""What documents say of single things: code, layers, signals, raw deltas, broken rows."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from distwatch import records
from distwatch.records import Card, Layer
from distwatch.store.value_types import FIRST, Commit, Count, Name, Replica, Text


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class LayerEntry(_Model):
    """A layer of the model that is trained."""

    path: Name
    kind: Text
    activation: Text | None = None
    units: Count | None = None
    initializer: Text | None = None
    trained: bool | None = None
    dropout: Annotated[float | None, Field(ge=0, le=1)] = None
    # Runs from before these were recorded have none.
    spread: Annotated[float | None, Field(ge=0, allow_inf_nan=False)] = None
    penalty: Annotated[float | None, Field(ge=0, allow_inf_nan=False)] = None
    fresh: bool | None = None


class CardEntry(_Model):
    """What is trained, and how."""

    layers: Annotated[list[LayerEntry], FIRST] = []
    last: Text | None = None
    loss: Text | None = None
    own_loss: bool = False
    from_logits: bool = False
    optimizer: Text | None = None
    learning_rate: Annotated[float | None, Field(allow_inf_nan=False)] = None
    further_terms: bool = False
    # Runs from before this was recorded do not have it.
    of_pairs: bool | None = None

    @property
    def card(self) -> Card:
        """The same as other rooms know it."""
        layers = tuple(Layer(**layer.model_dump()) for layer in self.layers)
        return Card(**{**self.model_dump(), "layers": layers})


class ProvenanceEntry(_Model):
    """When and how a start was begun, and of which code."""

    began: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    command: Text | None = None
    commit: Commit | None = None


class SignalEntry(_Model):
    """A signal of a table."""

    name: Name
    reference: Name
    after: Name | None = None
    recomputed: Count = 0
    # Runs from before this was known have none.
    scaled: Text | None = None
    # Runs from before these were recorded do not have them.
    order: Count | None = None
    copied: bool | None = None
    trained: bool | None = None


class TensorEntry(_Model):
    """How a table keeps raw deltas."""

    # NumPy 1 has no more than 32 dims.
    features: Annotated[list[Count], Field(max_length=30, fail_fast=True)]
    reduce: Literal["mean", "sum"] | None
    dtype: Literal["float32", "float16"]


class BrokenEntry(_Model):
    """In which rows of a replica's batch a signal had NaN or Inf first."""

    signal: Name
    replica: Replica
    step: Count
    rows: Count
    broken: Count
    first: Annotated[list[Count], Field(max_length=records.MOST_ROWS_NAMED, fail_fast=True)]
