"""The batch lane: how batches of a source get through an operator and become durable."""

from agents.lane.context import LaneContext, LaneOptions, Totals
from agents.lane.lane import Lane
from agents.lane.partition import LanePartition

__all__ = ["Lane", "LaneContext", "LaneOptions", "LanePartition", "Totals"]
