# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True, freethreading_compatible=False
"""``tables.series.PlainSeries``, compiled: the same methods over elements that lie packed, side by side, in one block of memory.

An element is taken apart into cells of 8 bytes: its time, its floats, and references for everything else; equal texts of all keys are
one.  One of four fields takes 32 bytes instead of some 160 in four objects, and what is asked for lies where the processor has
just looked.  That, not the compiling, is most of the gain: see docs/performance.md.

Block:  [latest] [previous] [element 0] ... [element ``length`` - 1] [room]
``latest`` and ``previous`` are copies with references of their own; ``begin`` is where element 0 stands now, so that dropping the oldest
moves nothing.
"""

cimport cython
from cpython.exc cimport PyErr_Clear
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.string cimport memcmp, memcpy, memmove, memset

from tables._members cimport member_at, member_offset

import msgspec

from models.time import NO_TIME
from tables.ttl import UNSTAMPED

cdef extern from *:
    """
    #if defined(__GNUC__)
    #define prefetch(at) __builtin_prefetch(at)
    #else
    #define prefetch(at) ((void) (at))
    #endif
    """
    void prefetch(const void* at) noexcept

cdef extern from "Python.h":
    PyObject* PyDict_GetItemWithError(dict of_, object key)
    PyObject* PyList_GET_ITEM(list of_, Py_ssize_t number)
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    int PyUnicode_KIND(object text)
    void* PyUnicode_DATA(object text)

cdef enum:
    MOST_CELLS = 24
    #: keys that are looked at before their turn; of how many that is worth it: the others are in the processor's cache anyway
    MOST_AHEAD = 64
    MANY_KEYS = 500
    #: texts of which all series of a state share one each
    MOST_TEXTS = 100_000
    RECENT_TEXTS = 2048
    #: more than what a cell takes encoded, texts and objects aside
    CELL_BYTES = 9

cdef object encode = msgspec.msgpack.Encoder().encode

# Times and spans below it can be added without a look.
cdef int64_t MOST_TIME = <int64_t> 1 << 61

ctypedef union Cell:
    int64_t whole
    double real
    PyObject* object


cdef inline int place_of(text):
    """A number below RECENT_TEXTS, of the last bytes of a text and its length."""
    cdef uint64_t bits = 0
    cdef Py_ssize_t size = PyUnicode_GET_LENGTH(text) * PyUnicode_KIND(text), last = min(size, 8)
    memcpy(&bits, <const char*> PyUnicode_DATA(text) + size - last, last)
    return ((bits + <uint64_t> size) * <uint64_t> 0x9E3779B97F4A7C15) >> 53


cdef inline bint same_text(one, other):
    return one is other or (
        PyUnicode_GET_LENGTH(one) == PyUnicode_GET_LENGTH(other)
        and PyUnicode_KIND(one) == PyUnicode_KIND(other)
        and memcmp(PyUnicode_DATA(one), PyUnicode_DATA(other), PyUnicode_GET_LENGTH(one) * PyUnicode_KIND(one)) == 0
    )


cdef struct Buffer:
    char* data
    Py_ssize_t used
    Py_ssize_t room


cdef int need(Buffer* into, Py_ssize_t size) except -1:
    """Room for so many bytes more."""
    cdef char* data
    if into.room - into.used < size:
        into.room = 2 * into.room + size
        data = <char*> PyMem_Realloc(into.data, into.room)
        if data is NULL:
            raise MemoryError
        into.data = data
    return 0


cdef inline void put_number(Buffer* into, unsigned char code, uint64_t number, int size) noexcept:
    """A code and a number in big endian; there is room."""
    cdef int place
    into.data[into.used] = <char> code
    for place in range(size):
        into.data[into.used + 1 + place] = <char> ((number >> (8 * (size - 1 - place))) & 0xFF)
    into.used += 1 + size


cdef inline void put_whole(Buffer* into, int64_t number) noexcept:
    """As short as it can be; there is room."""
    if number >= 0:
        if number < 128:
            put_number(into, <unsigned char> number, 0, 0)
        elif number < 1 << 8:
            put_number(into, 0xCC, number, 1)
        elif number < 1 << 16:
            put_number(into, 0xCD, number, 2)
        elif number < <int64_t> 1 << 32:
            put_number(into, 0xCE, number, 4)
        else:
            put_number(into, 0xCF, number, 8)
    elif number >= -32:
        put_number(into, <unsigned char> (number & 0xFF), 0, 0)
    elif number >= -(1 << 7):
        put_number(into, 0xD0, number, 1)
    elif number >= -(1 << 15):
        put_number(into, 0xD1, number, 2)
    elif number >= -(<int64_t> 1 << 31):
        put_number(into, 0xD2, number, 4)
    else:
        put_number(into, 0xD3, number, 8)


cdef inline void put_array(Buffer* into, Py_ssize_t count) noexcept:
    if count < 16:
        put_number(into, 0x90 | <unsigned char> count, 0, 0)
    elif count < 1 << 16:
        put_number(into, 0xDC, count, 2)
    else:
        put_number(into, 0xDD, count, 4)


cdef int put_object(Buffer* into, value) except -1:
    cdef Py_ssize_t size
    cdef const char* at
    if type(value) is str:
        at = PyUnicode_AsUTF8AndSize(value, &size)
        need(into, size + CELL_BYTES)
        if size < 32:
            put_number(into, 0xA0 | <unsigned char> size, 0, 0)
        elif size < 1 << 8:
            put_number(into, 0xD9, size, 1)
        elif size < 1 << 16:
            put_number(into, 0xDA, size, 2)
        else:
            put_number(into, 0xDB, size, 4)
    else:
        value = encode(value)
        at = value
        size = len(value)
        need(into, size)
    memcpy(into.data + into.used, at, size)
    into.used += size
    return 0


cdef class Layout:
    """How elements are taken apart, from :class:`tables.series.Shape`."""

    cdef object of
    cdef object time
    cdef tuple names
    cdef dict cells
    #: text -> the one that is kept of all equal ones; begun anew when there are too many
    cdef dict texts
    #: some of them by place_of, borrowed: an eighth of a look into the dictionary
    cdef PyObject* recent[RECENT_TEXTS]
    cdef bint packed
    cdef bint as_tuples
    cdef int width
    #: by cell: whether it holds a reference, a float
    cdef bint references[MOST_CELLS]
    cdef bint reals[MOST_CELLS]
    #: by field of the element: its cell
    cdef int places[MOST_CELLS]
    #: of what elements were last taken from, and by field where its objects have it
    cdef object source
    cdef Py_ssize_t offsets[MOST_CELLS]

    def __init__(self, shape) -> None:
        cdef int number, cell
        self.of = shape.of
        self.time = None if shape.time_field else shape.time_of
        self.packed = 0 < len(shape.fields) < MOST_CELLS
        self.as_tuples = self.packed and shape.as_tuples
        self.cells = {}
        self.texts = {}
        self.references[0] = self.reals[0] = False
        if not self.packed:
            self.names = ()
            self.references[1] = True
            self.reals[1] = False
            self.width = 2
            return
        self.names = tuple(name for name, _ in shape.fields)
        cell = 1
        for number, (name, kind) in enumerate(shape.fields):
            if name == shape.time_field:
                self.places[number] = 0
                self.cells[name] = 0
                continue
            self.places[number] = cell
            self.cells[name] = cell
            self.reals[cell] = kind is float
            self.references[cell] = kind is not float
            cell += 1
        self.width = cell

    cdef int take_apart(self, object item, Cell* into) except -1:
        """Fill cells from an element; they borrow its references."""
        if self.packed and type(item) is not self.of:
            raise TypeError(f"{item!r:.100} is no {self.of.__name__}")
        return self.take_fields(item, into)

    cdef int take_fields(self, object item, Cell* into) except -1:
        """The same from anything that has the fields of an element."""
        cdef int number, cell
        if not self.packed:
            into[0].whole = self.time(item)
            into[1].object = <PyObject*> item
            return 0
        if self.time is not None:
            into[0].whole = self.time(item)
        if type(item) is not self.source:
            for number in range(len(self.names)):
                self.offsets[number] = member_offset(type(item), self.names[number])
            self.source = type(item)
        for number in range(len(self.names)):
            cell = self.places[number]
            value = member_at(item, self.offsets[number], self.names[number])
            if cell == 0:
                into[0].whole = value
            elif self.reals[cell]:
                into[cell].real = value
            else:
                # The element holds it as long as we need it.
                into[cell].object = <PyObject*> value
        if not -MOST_TIME < into[0].whole < MOST_TIME:
            raise OverflowError(f"{into[0].whole} is no time in ms")
        return 0

    cdef inline object value(self, const Cell* cells, int cell):
        if self.references[cell]:
            return <object> cells[cell].object
        if self.reals[cell]:
            return cells[cell].real
        return cells[cell].whole

    cdef tuple fields_of(self, const Cell* cells):
        cdef Py_ssize_t number, count = len(self.names)
        fields = PyTuple_New(count)
        for number in range(count):
            value = self.value(cells, self.places[number])
            Py_INCREF(value)  # the tuple takes one over
            PyTuple_SET_ITEM(fields, number, value)
        return <tuple> fields

    cdef object element(self, const Cell* cells):
        if not self.packed:
            return <object> cells[1].object
        return self.of(*self.fields_of(cells))

    cdef int share(self, Cell* cells) except -1:
        """Replace texts by the ones that are kept."""
        cdef int cell
        cdef PyObject** place
        if len(self.texts) >= MOST_TEXTS:
            memset(self.recent, 0, sizeof(self.recent))
            self.texts.clear()
        for cell in range(1, self.width):
            if self.references[cell]:
                value = <object> cells[cell].object
                if type(value) is str:
                    place = &self.recent[place_of(value)]
                    if place[0] is NULL or not same_text(value, <object> place[0]):
                        kept = self.texts.setdefault(value, value)
                        place[0] = <PyObject*> kept
                    cells[cell].object = place[0]
        return 0

    cdef int pack(self, const Cell* cells, Buffer* into) except -1:
        """Append an element as the array of its fields."""
        cdef Py_ssize_t number, count = len(self.names)
        cdef uint64_t bits
        cdef int cell
        need(into, (1 + count) * CELL_BYTES)
        put_array(into, count)
        for number in range(count):
            cell = self.places[number]
            if self.references[cell]:
                put_object(into, <object> cells[cell].object)
                need(into, (count - number) * CELL_BYTES)
            elif self.reals[cell]:
                memcpy(&bits, &cells[cell].real, 8)
                put_number(into, 0xCB, bits, 8)
            else:
                put_whole(into, cells[cell].whole)
        return 0

    cdef void keep(self, const Cell* cells) noexcept:
        cdef int cell
        for cell in range(1, self.width):
            if self.references[cell]:
                Py_INCREF(<object> cells[cell].object)

    cdef void drop(self, const Cell* cells) noexcept:
        cdef int cell
        for cell in range(1, self.width):
            if self.references[cell]:
                Py_DECREF(<object> cells[cell].object)


@cython.no_gc
@cython.final
cdef class Series:
    cdef Layout shape
    cdef Cell* block
    #: elements: room in the block, place of the first one, number
    cdef int32_t room
    cdef int32_t begin
    cdef int32_t length
    cdef bint has_latest
    cdef bint has_previous
    cdef readonly int64_t floor
    cdef public int64_t stamp
    cdef public int64_t logged_stamp
    cdef public object fresh
    cdef public object deltas
    cdef public int64_t logged
    cdef public int64_t next_delta

    def __cinit__(self, Layout shape not None):
        self.shape = shape
        self.floor = NO_TIME
        self.stamp = self.logged_stamp = UNSTAMPED
        self.deltas = ()

    def __dealloc__(self):
        cdef int32_t number
        if self.block is NULL:
            return
        for number in range(self.length):
            self.shape.drop(self.at(number))
        if self.has_latest:
            self.shape.drop(self.block)
        if self.has_previous:
            self.shape.drop(self.block + self.shape.width)
        PyMem_Free(self.block)

    cdef inline Cell* at(self, int32_t number) noexcept:
        return self.block + (2 + self.begin + number) * self.shape.width

    cdef inline int32_t after(self, int64_t time_ms) noexcept:
        """Elements at or before a time."""
        cdef int32_t low = 0, high = self.length, middle
        if high == 0 or self.at(high - 1)[0].whole <= time_ms:
            return high
        while low < high:
            middle = (low + high) // 2
            if self.at(middle)[0].whole <= time_ms:
                low = middle + 1
            else:
                high = middle
        return low

    cdef int make_room(self) except -1:
        """For one element more."""
        cdef int32_t room
        cdef Cell* block
        cdef int width = self.shape.width
        if self.begin + self.length < self.room:
            return 0
        if self.begin and self.begin * 2 >= self.room:
            memmove(self.block + 2 * width, self.at(0), self.length * width * sizeof(Cell))
            self.begin = 0
            if self.room < 32 or self.length * 4 > self.room:
                return 0
            room = self.length * 2  # most of it has been empty for a while
        else:
            room = self.room + self.room // 2 + 1
        block = <Cell*> PyMem_Realloc(self.block, (2 + room) * width * sizeof(Cell))
        if block is NULL:
            raise MemoryError
        self.block = block
        self.room = room
        return 0

    cdef void drop_first(self, int32_t count) noexcept:
        cdef int32_t number
        for number in range(count):
            self.shape.drop(self.at(number))
        self.begin += count
        self.length -= count
        if self.length == 0:
            self.begin = 0

    cdef void evict(self, int64_t low) noexcept:
        """Drop what is not later than ``low``."""
        if low < self.floor:
            low = self.floor
        else:
            self.floor = low
        self.drop_first(self.after(low))

    cdef int insert(self, int32_t place, const Cell* cells) except -1:
        cdef int width = self.shape.width
        self.make_room()
        if place < self.length:
            memmove(self.at(place + 1), self.at(place), (self.length - place) * width * sizeof(Cell))
        memcpy(self.at(place), cells, width * sizeof(Cell))
        self.shape.keep(cells)
        self.length += 1
        return 0

    cdef void remember(self, const Cell* cells) noexcept:
        """As the element added last.  There is a block."""
        cdef int width = self.shape.width
        if self.has_previous:
            self.shape.drop(self.block + width)
        if self.has_latest:
            memcpy(self.block + width, self.block, width * sizeof(Cell))
        self.has_previous = self.has_latest
        memcpy(self.block, cells, width * sizeof(Cell))
        self.shape.keep(cells)
        self.has_latest = True

    cpdef bint add(self, item, int64_t keep_ms, int32_t keep_last) except -1:
        cdef Cell cells[MOST_CELLS]
        self.shape.take_apart(item, cells)
        return self.add_cells(cells, keep_ms, keep_last)

    cdef bint add_cells(self, Cell* cells, int64_t keep_ms, int32_t keep_last) except -1:
        cdef int64_t time_ms, first, low
        cdef int32_t place
        self.shape.share(cells)
        self.make_room()
        time_ms = cells[0].whole
        if self.length:
            place = self.length - 1
            low = max(time_ms, self.at(place)[0].whole) - keep_ms
            first = self.at(0)[0].whole
            if first <= low or first <= self.floor:
                self.evict(low)
        place = self.after(time_ms)
        self.insert(place, cells)
        self.remember(cells)
        if self.length <= keep_last:
            return False
        if place == 0:  # its own turn comes first: the next one goes
            self.shape.drop(self.at(1))
            memcpy(self.at(1), self.at(0), self.shape.width * sizeof(Cell))
            self.begin += 1
            self.length -= 1
        else:
            self.drop_first(1)
        return True

    def restore(self, items, int64_t floor, latest) -> None:
        cdef Cell cells[MOST_CELLS]
        self.drop_first(self.length)
        for item in items:
            self.shape.take_apart(item, cells)
            self.shape.share(cells)
            self.insert(self.after(cells[0].whole), cells)
        self.floor = floor
        if latest is not None:
            self.shape.take_apart(latest, cells)
            self.make_room()
            self.remember(cells)

    @property
    def latest(self):
        return self.shape.element(self.block) if self.has_latest else None

    @property
    def previous(self):
        return self.shape.element(self.block + self.shape.width) if self.has_previous else None

    def position(self, int64_t time_ms) -> int:
        return self.after(time_ms)

    def reaches(self, int32_t least, int64_t after_ms, int64_t until_ms) -> bool:
        cdef int32_t stop = self.after(until_ms)
        return least <= 0 or (stop >= least and self.at(stop - least)[0].whole > after_ms)

    def column(self, name, begin: int, stop: int) -> list:
        cdef int32_t number, low = max(0, begin), high = min(self.length, stop)
        cdef int cell
        if not self.shape.packed:
            return [getattr(<object> self.at(number)[1].object, name) for number in range(low, high)]
        cell = self.shape.cells[name]
        if self.shape.reals[cell]:
            return [self.at(number)[cell].real for number in range(low, high)]
        return [self.shape.value(self.at(number), cell) for number in range(low, high)]

    def elements(self) -> list:
        cdef int32_t number
        if self.shape.as_tuples:
            return [self.shape.fields_of(self.at(number)) for number in range(self.length)]
        return [self.shape.element(self.at(number)) for number in range(self.length)]

    def head(self) -> tuple:
        if self.has_latest and self.shape.as_tuples:
            return self.floor, self.shape.fields_of(self.block)
        return self.floor, self.latest

    def packed(self) -> bytes:
        cdef int32_t number
        cdef Buffer into
        if not self.shape.as_tuples:
            return encode(self.head()) + encode(self.elements())
        into.data = NULL
        into.used = into.room = 0
        try:
            need(&into, 4 * CELL_BYTES + self.length * self.shape.width * 2 * CELL_BYTES)
            put_array(&into, 2)
            put_whole(&into, self.floor)
            if self.has_latest:
                self.shape.pack(self.block, &into)
            else:
                put_number(&into, 0xC0, 0, 0)
            need(&into, CELL_BYTES)
            put_array(&into, self.length)
            for number in range(self.length):
                self.shape.pack(self.at(number), &into)
            return PyBytes_FromStringAndSize(into.data, into.used)
        finally:
            PyMem_Free(into.data)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index):
        cdef int32_t number
        if isinstance(index, slice):
            return [self.shape.element(self.at(number)) for number in range(*index.indices(self.length))]
        number = index
        if number < 0:
            number += self.length
        if not 0 <= number < self.length:
            raise IndexError(index)
        return self.shape.element(self.at(number))

    def __iter__(self):
        return iter(self[:])

    def __eq__(self, other):
        return self[:] == (other[:] if isinstance(other, Series) else other)

    def __repr__(self) -> str:
        return f"Series({self[:]!r})"


@cython.final
cdef class Adding:
    """``TimeSeriesState.add`` of one handle: the part of it that runs with every record.

    ``ttl_ms``: how long the series of a key lives after its last element, 0 for ever.
    """

    cdef object state
    cdef object context
    cdef Py_ssize_t key_offset
    cdef dict rows
    cdef dict dirty
    #: as of the state
    cdef public int64_t keep_ms
    cdef int32_t keep_last
    cdef int32_t short
    cdef object any
    cdef int64_t ttl_ms
    cdef bint event_time
    cdef int32_t per_access

    def __init__(self, state, int32_t short, any_, int64_t ttl_ms, bint event_time, int32_t per_access) -> None:
        self.state = state
        self.context = state._context
        self.key_offset = member_offset(type(self.context), "key")
        self.rows = state._rows
        self.dirty = state._dirty
        self.keep_ms = state.keep_ms
        self.keep_last = state.keep_last
        self.short = short
        self.any = any_
        self.ttl_ms = ttl_ms
        self.event_time = event_time
        self.per_access = per_access

    def ahead(self, list keys) -> None:
        """Records of these keys come next: fetch what they touch from memory while the processor does something else.

        Of ten thousand users or more, each look at another one's series waits for the memory three times, longer than for all the work on
        it.  Here many of these waits run side by side.
        """
        cdef Py_ssize_t number, count = min(len(keys), MOST_AHEAD)
        cdef PyObject* found[MOST_AHEAD]
        cdef Series series
        if len(self.rows) < MANY_KEYS:
            return
        for number in range(count):
            found[number] = PyDict_GetItemWithError(self.rows, <object> PyList_GET_ITEM(keys, number))
            if found[number] is NULL:
                PyErr_Clear()
                continue
            prefetch(found[number])
            prefetch(<char*> found[number] + 64)
        for number in range(count):
            if found[number] is NULL:
                continue
            series = <Series> found[number]
            if series.block is NULL:
                continue
            prefetch(series.block)
            prefetch(series.at(0))
            prefetch(series.at(series.length - 1))

    cdef inline object key(self):
        return member_at(self.context, self.key_offset, "key")

    cdef Series current(self):
        cdef Series series
        key = self.key()
        if self.per_access:
            self.state._visit(self.per_access)
        found = self.rows.get(key)
        if self.ttl_ms and found is not None:
            series = found
            if self.clock() >= series.stamp + self.ttl_ms:
                self.state._alive(key)
                found = self.rows.get(key)
        elif self.ttl_ms:
            self.state._alive(key)
            found = self.rows.get(key)
        return self.state._first(key) if found is None else found

    cdef int64_t clock(self) except? -77:
        return self.context.watermark_ms if self.event_time else self.context.processing_time_ms

    cdef int64_t stamp(self) except? -77:
        return max(self.clock(), <int64_t> self.context.timestamp_ms) if self.event_time else self.clock()

    cdef note(self, Series series, bint dropped, item):
        """The series has changed: ``item`` is new in it."""
        if self.ttl_ms:
            series.stamp = self.stamp()
        if dropped:
            self.state._dropped()
        if series.fresh is None:
            series.fresh = [series.latest if item is None else item] if series.deltas or series.length > self.short else self.any
            self.dirty[self.key()] = series
        elif series.fresh is not self.any:
            series.fresh.append(series.latest if item is None else item)

    def add(self, item):
        series = self.current()
        self.note(series, series.add(item, self.keep_ms, self.keep_last), item)
        return series

    def add_from(self, source):
        cdef Cell cells[MOST_CELLS]
        cdef Layout shape
        series = self.current()
        shape = series.shape
        if not shape.packed:
            return self.add(self.state.shape.made_from(source))
        shape.take_fields(source, cells)
        self.note(series, series.add_cells(cells, self.keep_ms, self.keep_last), None)
        return series
