"""The batch lane: how batches of a source get through an operator and become durable."""

from agents.lane.lane import Lane
from agents.lane.options import LaneOptions, Totals
from agents.lane.partition import LanePartition

__all__ = ["Lane", "LaneOptions", "LanePartition", "Totals"]
