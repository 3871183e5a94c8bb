"""How a worker's memory is kept: when Python looks for cycles, and what C's allocator gives back to the system."""

from __future__ import annotations

import ctypes
import gc

#: A worker holds a hundred thousand fetched records at a time and makes next to no cycles.  With Python's thresholds (700, 10, 10) looking
#: through them takes 13 to 25 % of its CPU under full load, with these next to nothing.
COLLECT_AFTER = 200_000, 20, 100
#: A worker with little to do comes to these numbers after days only, and each connection of asyncio leaves a cycle of 1 kB: 25 MB of probes.
#: So what is young is looked through every so many seconds, too, and every so many times what is a little older.
COLLECT_SECONDS = 20.0
COLLECT_OLDER = 30

#: Of glibc (malloc.h): what is to be set, and to how many bytes.  A fetch of a megabyte that is freed goes back to the system at once, and
#: the next one's pages are made and cleared anew: 7 % of the CPU under full load.  So much may wait for the next one instead.
_MALLOPT = {
    -1: 64 << 20,  # M_TRIM_THRESHOLD: at the top of a heap
    -2: 16 << 20,  # M_TOP_PAD: asked for at a time
    -3: 32 << 20,  # M_MMAP_THRESHOLD: larger pieces are mapped each on its own (the most that glibc takes)
}


def settle() -> None:
    """To be called once everything is imported and set up: it stays, and what comes after it comes and goes."""
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none, or one that refuses
    if mallopt is not None:
        for name, size in _MALLOPT.items():
            mallopt(name, size)


def collect(number: int) -> None:
    """The regular look for cycles, the ``number``-th since the start."""
    gc.collect(1 if number % COLLECT_OLDER == 0 else 0)
