"""``GET /v1/operators``: the operators of the topology and where they stand on this worker."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from aiohttp import web

from app.queries import OperatorInfo
from models.time import Millis
from web.encoding import answer
from web.routing import Answer, Route, Scope
from web.services import Services


class StateOf(msgspec.Struct):
    """A state that the operator declares."""

    name: str
    kind: str
    key_type: str


class PartitionOf(msgspec.Struct):
    """A source partition of this worker: its watermark (event time) and the records that wait in it."""

    partition: int
    watermark: Millis | None
    lag: int | None


class OperatorAnswer(msgspec.Struct):
    """``watermark`` is the least over the partitions, ``lag`` their sum; ``null`` where nothing is known yet."""

    uid: str
    name: str
    states: list[StateOf]
    partitions: list[PartitionOf]
    watermark: Millis | None
    lag: int | None


class OperatorsAnswer(msgspec.Struct):
    operators: list[OperatorAnswer]


def routes(services: Services) -> Sequence[Route]:
    async def operators(request: web.Request) -> web.StreamResponse:
        return answer(OperatorsAnswer([_answer(operator) for operator in services.queries.operators()]))

    return [
        Route(
            method="GET",
            path="/v1/operators",
            handler=operators,
            scope=Scope.READ,
            summary="Operators with their states, partitions, watermark and lag",
            tag="state",
            answers={200: Answer("Every operator of this worker.", OperatorsAnswer)},
        )
    ]


def _answer(operator: OperatorInfo) -> OperatorAnswer:
    watermarks = {p: ms for p, ms in operator.watermarks.items() if ms >= 0}
    partitions = [PartitionOf(p, watermarks.get(p), operator.lag.get(p)) for p in sorted(operator.partitions)]
    known = [part.watermark for part in partitions if part.watermark is not None]
    return OperatorAnswer(
        uid=operator.uid,
        name=operator.name,
        states=[StateOf(state.name, state.kind, state.key_type) for state in operator.states],
        partitions=partitions,
        # A partition without a watermark holds the operator's back: there is no least one yet.
        watermark=min(known) if known and len(known) == len(partitions) else None,
        lag=sum(part.lag or 0 for part in partitions) if operator.lag else None,
    )
