"""Keyed state: what an operator may declare on its class."""

from tables.broadcast import BroadcastState
from tables.list import ListState
from tables.map import MapState
from tables.timeseries import Series, TimeSeriesState
from tables.value import ValueState

__all__ = ["BroadcastState", "ListState", "MapState", "Series", "TimeSeriesState", "ValueState"]
