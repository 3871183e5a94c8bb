"""A real Apache Kafka: one KRaft broker on this machine, for the tests and for `make kafka`.

The jars come from ``KAFKA_HOME`` or, once per checkout, from Maven Central by ``docker/pom.xml`` into ``var/kafka/libs``.
Only the standard library is used here, so `make kafka` needs no installed environment.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType, TracebackType

from tests.support.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]
LIBS = ROOT / "var" / "kafka" / "libs"
#: A cluster id is 16 bytes in base64; which one does not matter to a single broker.
CLUSTER_ID = "ZmFtdWx1cy1rYWZrYS0wMQ"


class NoKafka(Exception):
    """This machine cannot run Apache Kafka; the text says what is missing."""


def jars() -> Path:
    """Folder with Kafka's jars, fetched if there is none yet."""
    if shutil.which("java") is None:
        raise NoKafka("Apache Kafka needs Java 17: there is no `java` on the PATH")
    home = os.environ.get("KAFKA_HOME")
    if home:
        if not list(Path(home, "libs").glob("kafka_2.13-*.jar")):
            raise NoKafka(f"KAFKA_HOME={home}: there is no libs/kafka_2.13-*.jar in it")
        return Path(home, "libs")
    if LIBS.is_dir():
        return LIBS
    if shutil.which("mvn") is None:
        raise NoKafka("Apache Kafka: there is no `mvn` on the PATH to fetch it; install Maven or set KAFKA_HOME")
    LIBS.parent.mkdir(parents=True, exist_ok=True)
    fetched = Path(tempfile.mkdtemp(dir=LIBS.parent, prefix="libs-"))
    try:
        done = subprocess.run(
            [
                "mvn",
                "-q",
                "-B",
                "-f",
                str(ROOT / "docker" / "pom.xml"),
                "dependency:copy-dependencies",
                "-DincludeScope=runtime",
                f"-DoutputDirectory={fetched}",
            ],
            capture_output=True,
            text=True,
            timeout=600,
        )
        if done.returncode:
            raise NoKafka(f"Apache Kafka: Maven could not fetch it: {(done.stdout + done.stderr).strip()[-1000:]}")
        with contextlib.suppress(OSError):  # somebody else was faster
            fetched.rename(LIBS)
    finally:
        shutil.rmtree(fetched, ignore_errors=True)
    return LIBS


class KafkaBroker:
    """One broker that is its own controller.  ``start``/``kill``/``start`` keeps its data and its address.

    ``extra`` are further lines of server.properties, ``listeners`` further listeners (name to security protocol) on ports of
    their own, and ``format_options`` go to StorageTool (SCRAM users).
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        listeners: Mapping[str, str] = {},
        extra: Mapping[str, str] = {},
        format_options: tuple[str, ...] = (),
    ) -> None:
        self.folder = folder
        self.port, self._controller_port, *others = free_ports(2 + len(listeners))
        self.port = port or self.port
        self.ports = dict(zip(listeners, others, strict=True))
        self._protocols = dict(listeners)
        self._extra = dict(extra)
        self._format_options = format_options
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """What ``FAMULUS_BROKER`` takes."""
        return f"kafka://{self.bootstrap}"

    @property
    def log_file(self) -> Path:
        return self.folder / "kafka.log"

    def start(self, within: float = 60) -> KafkaBroker:
        libs = jars()
        self._require_free_port()
        properties = self.folder / "server.properties"
        self.folder.mkdir(parents=True, exist_ok=True)
        properties.write_text("".join(f"{name}={value}\n" for name, value in self._properties().items()))
        if not (self.folder / "log" / "meta.properties").exists():
            self._format(libs, properties)
        # The broker must not outlive us, however we end.
        leash = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
        with open(self.log_file, "ab") as log:
            self.process = subprocess.Popen(
                [*leash, *_java(libs, "-Xms256m", "-Xmx512m"), "kafka.Kafka", str(properties)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + within
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise NoKafka(f"Apache Kafka did not start:\n{self.log_file.read_text(errors='replace')[-3000:]}")
            time.sleep(0.1)
        return self

    def _require_free_port(self) -> None:
        """Somebody else's broker on our port would answer in our name."""
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", self.port))
            except OSError as error:
                raise NoKafka(
                    f"port {self.port} is taken; stop what listens there, or choose another with --port ({error.strerror})"
                ) from None

    def _properties(self) -> dict[str, str]:
        listeners = {"PLAINTEXT": self.port, "CONTROLLER": self._controller_port, **self.ports}
        protocols = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT", **self._protocols}
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{self._controller_port}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "listeners": ",".join(f"{name}://127.0.0.1:{port}" for name, port in listeners.items()),
            "listener.security.protocol.map": ",".join(f"{name}:{kind}" for name, kind in protocols.items()),
            "log.dirs": str(self.folder / "log"),
            # A single broker holds the only replica of everything.
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "8",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "8",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            # Groups form at once; a topic exists only because somebody created it.
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
            "auto.create.topics.enable": "false",
            # After kill -9 the broker comes back only once its former self has timed out (9 s by default).
            "broker.session.timeout.ms": "3000",
            "broker.heartbeat.interval.ms": "500",
            **self._extra,
        }

    def _format(self, libs: Path, properties: Path) -> None:
        done = subprocess.run(
            [
                *_java(libs, "-Xmx128m"),
                "kafka.tools.StorageTool",
                "format",
                "-t",
                CLUSTER_ID,
                "-c",
                str(properties),
                *self._format_options,
            ],
            capture_output=True,
            text=True,
            timeout=60,
        )
        if done.returncode:
            raise NoKafka(f"Apache Kafka could not format {self.folder}: {(done.stdout + done.stderr).strip()[-2000:]}")

    def _answers(self) -> bool:
        """Whether a Metadata request (version 4, no topics) is answered with a broker that has joined."""
        request = struct.pack(">hhihi?", 3, 4, 1, -1, 0, False)
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.settimeout(2)
                connection.sendall(struct.pack(">i", len(request)) + request)
                answer = connection.recv(16, socket.MSG_WAITALL)
        except OSError:
            return False
        return len(answer) == 16 and int(struct.unpack(">iiii", answer)[3]) > 0

    def stop(self, within: float = 30) -> None:
        """An orderly end."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(within)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)

    def __enter__(self) -> KafkaBroker:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _java(libs: Path, *options: str) -> list[str]:
    return ["java", *options, "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.showDateTime=true", "-cp", f"{libs}/*"]


@contextlib.contextmanager
def temporary_broker() -> Iterator[KafkaBroker]:
    """A broker with a data folder of its own, both gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix="famulus-kafka-"))
    broker = KafkaBroker(folder)
    try:
        yield broker.start()
    finally:
        broker.kill()
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """`make kafka`: a broker in the foreground, its data kept in var/kafka."""
    parser = argparse.ArgumentParser(description="Run Apache Kafka on this machine until Ctrl-C.")
    parser.add_argument("--port", type=int, default=9092)
    parser.add_argument("--folder", type=Path, default=ROOT / "var" / "kafka" / "broker")
    chosen = parser.parse_args()
    broker = KafkaBroker(chosen.folder, port=chosen.port)

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    try:
        with broker:
            print(f"Apache Kafka answers at {broker.url} (log: {broker.log_file})")
            print(f"  FAMULUS_BROKER={broker.url} famulus worker", flush=True)
            if broker.process is not None:
                broker.process.wait()
            sys.exit(f"Apache Kafka ended by itself; see {broker.log_file}")
    except NoKafka as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        print("stopped")


if __name__ == "__main__":
    main()
