# cython: language_level=3, freethreading_compatible=False
"""One record as it was fetched (:class:`tables.log.Record`)."""

cimport cython


@cython.final
@cython.no_gc
@cython.freelist(1024)
cdef class FetchedRecord:
    """Key and value are made when they are asked for, and gone after use: those of a thousand records that wait would be out of the CPU's
    cache by the time somebody comes to them.
    """

    @property
    def key(self):
        return part(self, self.key_at, self.key_size)

    @property
    def value(self):
        return part(self, self.value_at, self.value_size)

    @property
    def headers(self):
        """Pairs of name and content, ``None`` without any."""
        named = self.named
        return None if named is None else list(zip(named[::2], named[1::2]))

    def __repr__(self) -> str:
        return f"FetchedRecord(offset={self.offset}, key={self.key!r:.40}, value={self.value!r:.80})"
