"""The operator runtime: what a function is, and the loop that drives it."""

from agents.operator.async_function import AsyncFunction, AsyncTimeout, ExponentialRetry, FixedRetry
from agents.operator.process import (
    Context,
    KeyedBroadcastProcessFunction,
    KeyedCoProcessFunction,
    KeyedProcessFunction,
    LateRecord,
    OutputTag,
    ProcessFunction,
    ReplayedProcessFunction,
)
from agents.operator.spec import OperatorSpec, Source, keyed_source
from agents.operator.timers import TimeDomain
from agents.operator.triggers import EarlyEvery, OnCount, OnTime, OpenWindow, Purging, Trigger, TriggerResult
from agents.operator.window_operator import Window
from agents.operator.windows import CountWindow, SessionWindow, SlidingWindow, TumblingWindow, WindowAssigner
from tables.aggregate import AggregateFunction

__all__ = [
    "AggregateFunction",
    "AsyncFunction",
    "AsyncTimeout",
    "Context",
    "CountWindow",
    "EarlyEvery",
    "ExponentialRetry",
    "FixedRetry",
    "KeyedBroadcastProcessFunction",
    "KeyedCoProcessFunction",
    "KeyedProcessFunction",
    "LateRecord",
    "OnCount",
    "OnTime",
    "OpenWindow",
    "OperatorSpec",
    "OutputTag",
    "ProcessFunction",
    "Purging",
    "ReplayedProcessFunction",
    "SessionWindow",
    "SlidingWindow",
    "Source",
    "TimeDomain",
    "Trigger",
    "TriggerResult",
    "TumblingWindow",
    "Window",
    "WindowAssigner",
    "keyed_source",
]
