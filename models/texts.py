"""Equal texts as one object: state that holds the same few texts many times takes a fraction of the memory.

``sys.intern`` would do, but CPython 3.12 never frees what it was given, and these texts come from outside.
"""

from __future__ import annotations

#: Texts that are remembered; with more the memory begins anew.
MOST = 100_000

_texts: dict[str, str] = {}


def shared(text: str) -> str:
    """The one object for all texts equal to this one that were given lately."""
    if len(_texts) >= MOST:
        _texts.clear()
    return _texts.setdefault(text, text)
