"""What the peers need and the product does not, fetched on first use into ``var/bench``.

The Python libraries get an environment of their own, because Quix Streams pins older versions of what others here need.
"""

from __future__ import annotations

import configparser
import functools
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from tests.support.worker import ROOT

FOLDER = ROOT / "var" / "bench"
#: Each peer in Java has a folder of its own in it, and ``java`` is what they share.
SOURCES = Path(__file__).parent


class Missing(Exception):
    """A peer cannot run on this machine; the text says why."""


@functools.cache
def peer_python() -> str:
    """Interpreter that has what the extra ``bench`` of setup.cfg lists."""
    folder = FOLDER / "venv"
    python = folder / "bin" / "python"
    wanted = _extra("bench")
    installed = folder / "installed"
    if not installed.exists() or installed.read_text() != wanted:
        print("fetching the peers' Python libraries ...", file=sys.stderr, flush=True)
        FOLDER.mkdir(parents=True, exist_ok=True)
        venv.create(folder, with_pip=True, clear=True)
        done = subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", *wanted.split()], capture_output=True, text=True
        )
        if done.returncode:
            raise Missing(f"pip could not install {wanted!r}: {done.stderr.strip()[-500:]}")
        installed.write_text(wanted)
    return str(python)


def _extra(name: str) -> str:
    """Requirements of an extra, one a line and without blanks."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    lines = settings["options.extras_require"][name].splitlines()
    return "\n".join(line.replace(" ", "") for line in lines if line and not line.startswith("#"))


@functools.cache
def kafka_streams() -> list[str]:
    """Command that runs the Kafka Streams peer."""
    return _java("Kafka Streams", "kafka-streams")


@functools.cache
def flink() -> list[str]:
    """Command that runs the Flink peer, a whole cluster in one process."""
    # Its serializers look into the JDK's own classes.
    return _java("Flink", "flink", "java.lang", "java.util")


def _java(label: str, name: str, *opened: str) -> list[str]:
    """Build a peer in Java; the command that runs it, with these packages of java.base opened to it."""
    for tool in ("java", "mvn"):
        if shutil.which(tool) is None:
            raise Missing(f"{label} needs Java 17 and Maven: there is no `{tool}` on the PATH")
    out = FOLDER / name
    done = subprocess.run(
        [
            *("mvn", "-q", "-B", "-f", str(SOURCES / name / "pom.xml"), f"-Dout={out}", "compile"),
            *("dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={out / 'libs'}"),
        ],
        capture_output=True,
        text=True,
        timeout=600,
    )
    if done.returncode:
        raise Missing(f"Maven could not build the {label} peer: {(done.stdout + done.stderr).strip()[-1000:]}")
    return [
        *("java", "-Xmx1g", "-XX:+UseG1GC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"),
        *(f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in opened),
        *("-cp", f"{out / 'classes'}:{out / 'libs'}/*", "famulus.bench.Fraud"),
    ]
