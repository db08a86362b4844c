"""How large a run of a training will be, before it starts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from distwatch.config import WatchConfig
from distwatch.records import TRAIN, RunInfo
from distwatch.store import estimated_bytes
from distwatch.training.phase import run_info
from distwatch.training.strategies import facts_of
from distwatch.training.taps import trace_step


def estimate(model: Any, batch: Any, config: WatchConfig, steps: int) -> int:
    """Bytes that a run of ``fit`` will take; see `Watch.estimate`."""
    strategy = model.distribute_strategy
    traced = trace_step(model, batch, config)
    plan = traced.plan
    info = replace(run_info(facts_of(strategy), {}, TRAIN), tables=plan.tables)
    return info.workers * estimated_bytes(
        info,
        {
            table.name: schedule.looks(steps)
            for table, schedule in zip(plan.tables, plan.schedules, strict=True)
        },
        elements=traced.elements,
        twins={**traced.twins, **_twin_gradients(info)},
        batch=traced.batch,
    )


def _twin_gradients(info: RunInfo) -> dict[str, str]:
    """On one replica the gradient that is applied is the replica's own."""
    if len(info.replicas) * info.workers > 1:
        return {}
    applied = [name for name in info.names if name.startswith("gradient/")]
    local = {name: name.replace("gradient/", "gradient_local/", 1) for name in applied}
    return {name: twin for name, twin in local.items() if twin in info.names}
