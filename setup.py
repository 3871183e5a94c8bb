"""The one thing that setup.cfg cannot say: what is compiled, where there is a C compiler.  Without it, slower code does the same."""

from setuptools import Extension, setup

COMPILED = ("tables._records", "tables._series", "agents.operator._reading", "app.transport.kafka._batches")

setup(ext_modules=[Extension(name, [name.replace(".", "/") + ".pyx"], optional=True) for name in COMPILED])
