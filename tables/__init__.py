"""Keyed state: what an operator may declare on its class."""

from tables.aggregate import AggregateFunction, AggregatingState, ReducingState
from tables.broadcast import BroadcastState
from tables.list import ListState
from tables.map import MapState
from tables.ring import RingState
from tables.series import PlainSeries as Series
from tables.timeseries import TimeSeriesState
from tables.ttl import Ttl
from tables.value import ValueState

__all__ = [
    "AggregateFunction",
    "AggregatingState",
    "BroadcastState",
    "ListState",
    "MapState",
    "ReducingState",
    "RingState",
    "Series",
    "TimeSeriesState",
    "Ttl",
    "ValueState",
]
