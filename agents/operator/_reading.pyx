# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, freethreading_compatible=False
"""``agents.operator.reading.PlainReader``, compiled.

It reads some records ahead of their turn, so that what the operator's states hold for their keys is on its way from memory meanwhile.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.string cimport memcmp

from tables._members cimport member_at, member_offset, put_member
from tables._records cimport FetchedRecord, part

from agents.operator.spec import refuse_key

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL


cdef enum:
    #: Enough waits for memory side by side; more events than these would not stay in the first cache.
    AHEAD = 16


cdef bint has_key(record, key) except -1:
    """Whether the record's key is this text, and not an empty one."""
    cdef Py_ssize_t size
    cdef const char* text = PyUnicode_AsUTF8AndSize(key, &size)
    cdef FetchedRecord fetched
    if type(record) is FetchedRecord:
        fetched = record
        return size and fetched.key_size == size and memcmp(PyBytes_AS_STRING(fetched.raw) + fetched.key_at, text, size) == 0
    raw = record.key
    return type(raw) is bytes and size and PyBytes_GET_SIZE(raw) == size and memcmp(PyBytes_AS_STRING(raw), text, size) == 0


cdef inline object value_of(record):
    cdef FetchedRecord fetched
    if type(record) is FetchedRecord:
        fetched = record
        return part(fetched, fetched.value_at, fetched.value_size)
    return record.value


@cython.final
cdef class Reader:
    cdef object source
    cdef object context
    cdef object refuse
    cdef object decode
    cdef object key_of
    cdef object timestamp_of
    #: functions that are told which keys come next
    cdef tuple ahead
    #: names of the fields that are key and time, where they are fields; and of the class looked at last, where its objects have them
    cdef object key_name
    cdef object timestamp_name
    cdef object event_type
    cdef Py_ssize_t key_at
    cdef Py_ssize_t timestamp_at
    #: the same of the context's
    cdef Py_ssize_t context_key
    cdef Py_ssize_t context_timestamp
    cdef Py_ssize_t context_record

    def __init__(self, source, context, refuse, tuple ahead, key_name, timestamp_name) -> None:
        self.source = source
        self.context = context
        self.refuse = refuse
        self.decode = source.decode
        self.key_of = source.key
        self.timestamp_of = source.timestamp
        self.ahead = ahead
        self.key_name = key_name
        self.timestamp_name = timestamp_name
        self.context_key = member_offset(type(context), "key")
        self.context_timestamp = member_offset(type(context), "timestamp_ms")
        self.context_record = member_offset(type(context), "_record")

    def __call__(self, records) -> Reading:
        cdef Reading reading = Reading.__new__(Reading)
        reading.reader = self
        reading.records = records if type(records) is list else list(records)
        reading.events = reading.keys = reading.times = []
        return reading

    cdef inline int look_at(self, event) except -1:
        if type(event) is not self.event_type:
            self.event_type = type(event)
            self.key_at = 0 if self.key_name is None else member_offset(type(event), self.key_name)
            self.timestamp_at = 0 if self.timestamp_name is None else member_offset(type(event), self.timestamp_name)
        return 0


@cython.final
cdef class Reading:
    """Events of some records, in turn."""

    cdef Reader reader
    cdef list records
    #: of those that have been read ahead: the first one's place, how many have had their turn
    cdef Py_ssize_t begin
    cdef Py_ssize_t turn
    #: what was read of them; where it went wrong there is an exception instead of an event, and no time
    cdef list events
    cdef list keys
    cdef list times

    def __iter__(self):
        return self

    def __next__(self):
        cdef Reader reader = self.reader
        cdef Py_ssize_t turn
        while True:
            turn = self.turn
            if turn == len(self.events):
                self.begin += turn
                self.turn = turn = 0
                if not self.read_ahead():
                    raise StopIteration
            self.turn += 1
            record = self.records[self.begin + turn]
            event = self.events[turn]
            timestamp = self.times[turn]
            if timestamp is None:
                reader.refuse(record, event)
                continue
            put_member(reader.context, reader.context_key, "key", self.keys[turn])
            put_member(reader.context, reader.context_timestamp, "timestamp_ms", timestamp)
            put_member(reader.context, reader.context_record, "_record", record)
            return event

    cdef Py_ssize_t read_ahead(self) except -1:
        cdef Reader reader = self.reader
        cdef Py_ssize_t number, count = min(len(self.records) - self.begin, <Py_ssize_t> AHEAD)
        self.events = []
        self.keys = []
        self.times = []
        for number in range(count):
            self.read(self.records[self.begin + number])
        if count > 1:
            for ahead in reader.ahead:
                ahead(self.keys)
        return count

    cdef int read(self, record) except -1:
        cdef Reader reader = self.reader
        key = ""
        timestamp = None
        try:
            if reader.decode is None:
                event = record
                key = (record.key or b"").decode()
                timestamp = record.timestamp
            else:
                event = reader.decode(value_of(record))
                reader.look_at(event)
                key = member_at(event, reader.key_at, reader.key_name) if reader.key_at else reader.key_of(event)
                timestamp = member_at(event, reader.timestamp_at, reader.timestamp_name) if reader.timestamp_at else reader.timestamp_of(event)
            if not has_key(record, key):
                event = refuse_key(reader.source, record, key)
                timestamp = None
        except Exception as exc:
            event = exc
            timestamp = None
        self.events.append(event)
        self.keys.append(key)
        self.times.append(timestamp)
        return 0
