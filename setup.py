"""The one thing that setup.cfg cannot say: what is compiled, where there is a C compiler.  Without it the Python twin of the module works."""

from setuptools import Extension, setup

setup(ext_modules=[Extension("tables._series", ["tables/_series.pyx"], optional=True)])
