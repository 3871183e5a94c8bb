"""The operator runtime: what a function is, and the loop that drives it."""

from agents.operator.process import (
    Context,
    KeyedBroadcastProcessFunction,
    KeyedProcessFunction,
    OutputTag,
    ProcessFunction,
)
from agents.operator.spec import OperatorSpec, Source, keyed_source

__all__ = [
    "Context",
    "KeyedBroadcastProcessFunction",
    "KeyedProcessFunction",
    "OperatorSpec",
    "OutputTag",
    "ProcessFunction",
    "Source",
    "keyed_source",
]
