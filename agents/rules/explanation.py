"""What an alert says of a condition that held: its text and the values of what it names, as one compiled function per condition."""

from __future__ import annotations

import math
from collections.abc import Callable

from agents.rules import history
from agents.rules.condition import Condition, HistoryCall
from agents.rules.history import History
from models.transactions import Transaction

#: (transaction, the user's history with it) -> ``{"condition": text, "values": {name: value}}``; JSON can hold all of it.
Explain = Callable[[Transaction, History], dict[str, object]]


def _json_number(value: object) -> object:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


#: No builtins, and nothing of a rule's text but what ``repr`` makes of it.
_NAMESPACE = {
    "__builtins__": {},
    "_json_number": _json_number,
    **history.WINDOW_FUNCTIONS,
    **history.PREVIOUS_FUNCTIONS,
}


def explainer(condition: Condition) -> Explain:
    """Shows fields, attributes (a missing one is ``None``) and history functions; numbers that JSON cannot hold are text (``inf``, ``nan``)."""
    # What comes out of a decoder is finite, so fields need no look.
    shown = {name: f"tx.{name}" for name in condition.fields}
    for key in condition.attributes:
        shown[f"attributes.{key}" if key.isidentifier() else f"attributes[{key!r}]"] = f"tx.attributes.get({key!r})"
    shown |= {call.shown: f"_json_number({_value(call)})" for call in condition.calls}
    values = ", ".join(f"{name!r}: {source}" for name, source in shown.items())
    source = f"def explain(tx, h):\n    t = tx.timestamp\n    return {{'condition': {condition.text!r}, 'values': {{{values}}}}}\n"
    namespace: dict[str, object] = dict(_NAMESPACE)
    exec(compile(source, "<explanation>", "exec", dont_inherit=True), namespace)
    return namespace["explain"]  # type: ignore[return-value]


def _value(call: HistoryCall) -> str:
    if not call.window_ms:
        return f"{call.name}(h, t)"
    return f"{call.name}(h, h.position(t - {call.window_ms!r}), h.position(t))"
