"""The operator runtime: what a function is, and the loop that drives it."""

from agents.operator.process import (
    Context,
    KeyedBroadcastProcessFunction,
    KeyedProcessFunction,
    OutputTag,
    ProcessFunction,
    ReplayedProcessFunction,
)
from agents.operator.spec import OperatorSpec, Source, keyed_source

__all__ = [
    "Context",
    "KeyedBroadcastProcessFunction",
    "KeyedProcessFunction",
    "OperatorSpec",
    "OutputTag",
    "ProcessFunction",
    "ReplayedProcessFunction",
    "Source",
    "keyed_source",
]
