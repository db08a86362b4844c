"""The JSON Schema says of a file what reading it says."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

import distwatch.config
from distwatch.config import WatchConfig, examine, json_schema

SHIPPED = Path(distwatch.config.__file__).parent / "watch.schema.json"

RIGHT = [
    "store: s3://bucket/run.zarr",
    "signals: null",
    "signals: 'dense_*'",
    "signals: ['dense_*', {gradients: null}]",
    "signals: {updates: true, every: {logarithmic: 1000}}",
    "signals: [{activations: ['a', 'b'], inputs: true, outputs: false, reference: null}]",
    "signals: [{weights: a, every: 10, reference: ema(0.99), statistics: [histogram]}]",
    "signals: [{weights: a, statistics: [{histogram: {accuracy: 0.02, smallest: 0.001}}]}]",
    "signals: [{inputs: null}, {loss: null, every: {at: [0, 10]}}]",
    "signals: [{tensors: output, every: {at: 7}, reduce: mean, dtype: float16}]",
    "reference: ema(1e-3)",
    "schedule: {first: 100}",
    "schedule: null",
    "schedule: 10",
    "max_bytes: 2GB",
    "max_bytes: 1.5 MiB",
    "max_bytes: 100000",
    "phases: [train, predict]",
    "{window: 1, overwrite: true, strict: false, on_full: wait, durability: power}",
    "{at_max_bytes: stop, resume: true}",
    "max_overhead: 0.05",
    "max_overhead: 1",
    "max_overhead: null",
    "drain_every: 2.5",
    "drain_every: 30",
    "drain_every: null",
    "tensorboard: logs/",
    "tensorboard: {folder: logs, every: 10, statistics: [mean, ratio], replicas: false}",
    "tensorboard: {folder: logs, statistics: l2, signals: 'dense_*'}",
    "log_to_keras: 'dense_*:l2'",
    "rules: null",
    "rules: []",
    "rules: 'my_rules.py:many_steps'",
    "rules: ['my_rules:many_steps', {do: stop}]",
    "rules: {do: {log_json: found.jsonl}}",
    "rules: [{rule: NonFinite, do: [stop, {checkpoint: 'x/{rule}.keras'}]}]",
    "rules: [{rule: ['*', 'a:b'], do: {call: 'alerts.py:post'}, severity: note}]",
    "log_to_keras: ['re:.*/lstm:0:mean', 'loss:mean']",
]
WRONG = [
    "rules: many_steps",
    "rules: 5",
    "rules: [{rule: NonFinit, do: stop}]",
    "rules: [{rules: NonFinite, do: stop}]",
    "rules: [{do: halt}]",
    "rules: [{do: {stop: now}}]",
    "rules: [{do: {checkpoint: run.h5}}]",
    "rules: [{do: {call: post}}]",
    "rules: [{do: {call: 'a:b', log_json: c}}]",
    "rules: [{do: {log_json: ''}}]",
    "rules: [{do: stop, severity: error}]",
    "max_overhead: 0",
    "max_overhead: 5",
    "max_overhead: 5%",
    "max_overhead: true",
    "store: 5",
    "stor: a",
    "schedule: 0",
    "schedule: true",
    "schedule: 2.5",
    "signals: []",
    "signals: [1]",
    "signals: [{gradient: null}]",
    "signals: [{gradients: null, weights: null}]",
    "signals: [{gradients: null, refrence: none}]",
    "signals: [{loss: 'dense'}]",
    "signals: [{weights: null, reference: neighbour}]",
    "signals: [{weights: null, reference: ema}]",
    "signals: [{weights: null, every: 0}]",
    "signals: [{weights: null, statistics: [median]}]",
    "signals: [{weights: null, statistics: [histogram, histogram]}]",
    "signals: [{weights: null, statistics: [{histogram: {accuracy: 2}}]}]",
    "signals: [{weights: null, statistics: [{histogram: {acuracy: 0.1}}]}]",
    "signals: [{tensors: output}]",
    "signals: [{tensors: output, every: 3, reduce: max}]",
    "reference: last",
    "reference: ema(1.0)",
    "reference: ema(0.0)",
    "schedule: often",
    "schedule: {every: 10, first: 3}",
    "schedule: {at: []}",
    "schedule: {at: [-1]}",
    "window: 0",
    "window: true",
    "drain_every: 0",
    "drain_every: soon",
    "window: 2.5",
    "overwrite: 1",
    "on_full: ask",
    "max_bytes: 0",
    "max_bytes: -3",
    "max_bytes: lots",
    "phases: []",
    "phases: [train, train]",
    "phases: [training]",
    "tensorboard: 5",
    "tensorboard: ''",
    "tensorboard: {every: 10}",
    "tensorboard: {folder: logs, every: 0}",
    "tensorboard: {folder: logs, evry: 1}",
    "tensorboard: {folder: logs, statistics: [median]}",
    "tensorboard: {folder: logs, merged: 'no'}",
    "log_to_keras: dense",
    "log_to_keras: ['dense:']",
    "log_to_keras: [5]",
]


def both_say(line, tmp_path):
    """Whether the schema takes a file, and whether reading it does."""
    text = line if line.startswith(("store", "stor")) else f"store: run.zarr\n{line}\n"
    if line.startswith("{"):
        text = "{store: run.zarr, " + line[1:]
    path = tmp_path / "watch.yaml"
    path.write_text(text)
    valid = jsonschema.Draft202012Validator(json_schema()).is_valid(yaml.safe_load(text))
    return valid, isinstance(examine(path), WatchConfig)


@pytest.mark.parametrize("line", RIGHT)
def test_both_take(line, tmp_path):
    assert both_say(line, tmp_path) == (True, True)


@pytest.mark.parametrize("line", WRONG)
def test_both_refuse(line, tmp_path):
    assert both_say(line, tmp_path) == (False, False)


def test_the_shipped_one_is_that_of_today():
    """Made by ``distwatch config schema``."""
    assert json.loads(SHIPPED.read_text()) == json_schema()


def test_it_is_a_schema_and_describes_every_key():
    jsonschema.Draft202012Validator.check_schema(json_schema())
    properties = json_schema()["properties"]
    assert set(properties) == set(WatchConfig.model_fields)
    for name, form in properties.items():
        assert form["description"], name
