"""Up to where a plain partition may be committed."""

from __future__ import annotations

from collections import deque


class DeliveryTracker:
    """Offsets handed to the agents of one partition, in order, until they are done.

    Faust derives the committable offset from acknowledgements alone: before the first commit, or after a gap, it commits
    past records that are still being worked on.  Knowing what was handed out leaves nothing to guess.
    """

    def __init__(self) -> None:
        self._delivered: deque[int] = deque()

    def deliver(self, offset: int) -> None:
        self._delivered.append(offset)

    def advance(self, acked: set[int]) -> int | None:
        """Take finished records off the front, and out of ``acked``; the next offset to commit, or ``None`` if nothing moved."""
        committable = None
        while self._delivered and self._delivered[0] in acked:
            offset = self._delivered.popleft()
            acked.discard(offset)
            committable = offset + 1
        return committable
