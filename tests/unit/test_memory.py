"""What a worker does about its memory."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

TELL = """
import gc, resource, sys
from app import memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        bytearray(8 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
memory.settle()
bytearray(8 << 20)
print(before, faults(), gc.get_freeze_count() > 1000, gc.get_threshold() == memory.COLLECT_AFTER)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_what_is_freed_waits_for_the_next_fetch_of_its_size() -> None:
    said = subprocess.run([sys.executable, "-c", TELL], capture_output=True, text=True, check=True).stdout.split()
    before, after = map(int, said[:2])
    assert before > 20 * 10  # pages, however large, made anew each time
    assert after < before / 10
    assert said[2:] == ["True", "True"]
