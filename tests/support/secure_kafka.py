"""A Kafka that wants to know who is there: TLS and SASL listeners beside the open one."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.kafka import KafkaBroker, NoKafka

USER, PASSWORD = "ann", "correct horse"
SCRAM_USER, SCRAM_PASSWORD = "bob", "battery staple"
STORE_PASSWORD = "changeit"


def secure_broker(folder: Path) -> KafkaBroker:
    """Listeners ``SASL`` (PLAIN and SCRAM-SHA-256, open line) and ``TLS`` (PLAIN inside TLS); ``folder``/ca.pem is to be trusted."""
    folder.mkdir(parents=True, exist_ok=True)
    store, pem = folder / "keystore.p12", folder / "ca.pem"
    common = ["-keystore", str(store), "-storepass", STORE_PASSWORD, "-alias", "broker"]
    _keytool(
        [
            "-genkeypair",
            "-keyalg",
            "EC",
            "-dname",
            "CN=localhost",
            "-ext",
            "SAN=ip:127.0.0.1,dns:localhost",
            "-validity",
            "30",
            "-storetype",
            "PKCS12",
            *common,
        ]
    )
    _keytool(["-exportcert", "-rfc", "-file", str(pem), *common])
    plain = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required"
    users = f'user_{USER}="{PASSWORD}"'
    return KafkaBroker(
        folder,
        listeners={"SASL": "SASL_PLAINTEXT", "TLS": "SASL_SSL"},
        extra={
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256",
            "listener.name.sasl.plain.sasl.jaas.config": f"{plain} {users};",
            "listener.name.sasl.scram-sha-256.sasl.jaas.config": f"{scram};",
            "listener.name.tls.plain.sasl.jaas.config": f"{plain} {users};",
            "listener.name.tls.sasl.enabled.mechanisms": "PLAIN",
            "ssl.keystore.location": str(store),
            "ssl.keystore.password": STORE_PASSWORD,
            "ssl.keystore.type": "PKCS12",
        },
        format_options=("--add-scram", f"SCRAM-SHA-256=[name={SCRAM_USER},password={SCRAM_PASSWORD}]"),
    )


def _keytool(arguments: list[str]) -> None:
    try:
        subprocess.run(["keytool", *arguments], check=True, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        raise NoKafka("there is no `keytool` on the PATH; it comes with Java") from None
