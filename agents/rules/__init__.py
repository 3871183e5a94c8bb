"""Rules: what users write in CEL becomes one Python function.

record -> :mod:`admission` (:mod:`language` parses and type-checks, :mod:`wire` reads the answer, :mod:`promotion` helps with
whole numbers, :mod:`bounds` refuses what costs too much) -> :mod:`condition` -> :mod:`translation` -> :mod:`compiler`.
:mod:`book` folds the rules topic into versions and the running set; :mod:`lint` does the same checks to a file.
"""
