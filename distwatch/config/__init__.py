"""Configuration: the arguments of a Watch, validated, and the YAML files that hold them.

`watch` is the model of the arguments; `files` reads a YAML file and says where it is wrong,
and makes the JSON Schema that editors take.
"""

from distwatch.config.files import (
    Mistake,
    examine,
    json_schema,
    read_arguments,
    read_config,
    read_rules,
    template,
    templates,
)
from distwatch.config.watch import LogRequest, WatchConfig, watch_config

__all__ = [
    "LogRequest",
    "Mistake",
    "WatchConfig",
    "examine",
    "json_schema",
    "read_arguments",
    "read_config",
    "read_rules",
    "template",
    "templates",
    "watch_config",
]
