# cython: language_level=3
"""Records as they lie in what was fetched."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, int64_t


cdef class FetchedRecord:
    cdef readonly int64_t offset
    cdef readonly int64_t timestamp
    #: what was fetched, and where in it key and value lie; a negative size means ``None``
    cdef bytes raw
    cdef int32_t key_at
    cdef int32_t key_size
    cdef int32_t value_at
    cdef int32_t value_size
    #: names and contents, in turn
    cdef tuple named


cdef inline object part(FetchedRecord record, int32_t at, int32_t size):
    """Bytes of what was fetched; ``None`` for a negative size."""
    return None if size < 0 else PyBytes_FromStringAndSize(PyBytes_AS_STRING(record.raw) + at, size)
