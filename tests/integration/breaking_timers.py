"""A worker whose session timers raise for users named ``broken...``: patched in from outside, the product knows nothing of it."""

from __future__ import annotations

import sys
from typing import Any

from agents.functions.sessions import SessionAnalytics


def main() -> None:
    on_timer = SessionAnalytics.on_timer

    def breaking(self: SessionAnalytics, timestamp_ms: int, ctx: Any) -> None:
        if ctx.key.startswith("broken"):
            raise ValueError(f"no session ends for {ctx.key}")
        on_timer(self, timestamp_ms, ctx)

    SessionAnalytics.on_timer = breaking  # type: ignore[method-assign]
    from faust.cli.faust import cli

    sys.argv = ["faust", "-A", "app", "worker", "-l", "info"]
    cli()


if __name__ == "__main__":
    main()
