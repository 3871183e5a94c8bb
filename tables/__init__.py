"""Keyed state: what an operator may declare on its class."""

from tables.aggregate import AggregateFunction, AggregatingState, ReducingState
from tables.broadcast import BroadcastState
from tables.list import ListState
from tables.list_times import ListByRecordTime
from tables.list_ttl import ListWithTtl
from tables.map import MapState
from tables.map_ttl import MapWithTtl
from tables.ring import RingState
from tables.series import PlainSeries as Series
from tables.timeseries import TimeSeriesState
from tables.timeseries_ttl import TimeSeriesWithTtl
from tables.ttl import Ttl
from tables.value import ValueState
from tables.value_ttl import ValueWithTtl

# What an option adds is a class of its own in front of the kind's: a state without it has no branch for it.
ListState.with_ttl = ListWithTtl
ListState.by_record_time = ListByRecordTime
MapState.with_ttl = MapWithTtl
TimeSeriesState.with_ttl = TimeSeriesWithTtl
ValueState.with_ttl = ValueWithTtl

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
