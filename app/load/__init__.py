"""Files of a user's own as records of a topic."""

from app.load.records import Columns, Converter, converter
from app.load.source import BadLine, Line, Source, WrongFile

__all__ = ["BadLine", "Columns", "Converter", "Line", "Source", "WrongFile", "converter"]
