"""Probes: is the process alive, has it started, may it be sent work.

A component registers a check beside the thing that it checks.  A check looks at what its component already knows and
answers at once: a probe that asks a database is how one slow database restarts a whole fleet.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

#: Header of a probe's answer with the id of the application that the worker works for.
APPLICATION = "Famulus-Application"

logger = logging.getLogger(__name__)

#: ``None`` when all is well, else the reason in one sentence, fit for a stranger's eyes (probes need no token).
Check = Callable[[], str | None]


class Probe(enum.Enum):
    """A question that an orchestrator asks."""

    #: Is restarting the process the only help?  Rebalancing and recovering are life, not death.
    LIVE = "live"
    #: Can it do its work now: partitions assigned, state recovered, rules loaded?
    READY = "ready"
    #: Has it ever been through its start?  Once yes, always yes.
    STARTUP = "startup"


LIVE, READY, STARTUP = Probe.LIVE, Probe.READY, Probe.STARTUP


@dataclass(frozen=True, slots=True)
class HealthReport:
    """Answer to one probe: ``reasons`` has every check of that probe, with ``None`` where it passed."""

    reasons: Mapping[str, str | None]

    @property
    def ok(self) -> bool:
        return all(reason is None for reason in self.reasons.values())


class Health:
    """The checks of one worker, which works for ``application``."""

    def __init__(self, application: str = "") -> None:
        self.application = application
        self._checks: dict[str, tuple[Check, frozenset[Probe]]] = {}
        self._started = False

    def register(self, name: str, check: Check, kinds: Iterable[Probe] = (READY,)) -> None:
        """Ask ``check`` in the probes ``kinds``.  A name is taken once; :class:`ValueError` else."""
        if name in self._checks:
            raise ValueError(f"A health check named {name!r} is registered already; names must differ.")
        self._checks[name] = (check, frozenset(kinds))

    def unregister(self, name: str) -> None:
        """Forget a check, when the thing it checks is gone.  Unknown names are ignored."""
        self._checks.pop(name, None)

    def report(self, probe: Probe) -> HealthReport:
        """Ask every check of the probe.  One that raises has failed; its error goes to the log, not to the caller."""
        reasons = {name: self._ask(name, check) for name, (check, kinds) in self._checks.items() if probe in kinds}
        if probe is STARTUP:
            if self._started:
                return HealthReport(dict.fromkeys(reasons))
            self._started = all(reason is None for reason in reasons.values())
        return HealthReport(reasons)

    def _ask(self, name: str, check: Check) -> str | None:
        try:
            return check()
        except Exception as exc:
            logger.exception("Health check %s failed", name)
            return f"The check itself failed with {type(exc).__name__}; see the worker's log."
