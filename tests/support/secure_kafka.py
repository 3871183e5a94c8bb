"""A Kafka that wants to know who is there: TLS and SASL listeners beside the open one, and rights."""

from __future__ import annotations

import enum
import subprocess
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import CreateAclsRequest

from tests.support.kafka import KafkaBroker, NoKafka

USER, PASSWORD = "ann", "correct horse"
#: The only one of them all who may not do everything: what :func:`refuse` says.
LESSER_USER, LESSER_PASSWORD = "eve", "apple"
SCRAM_USER, SCRAM_PASSWORD = "bob", "battery staple"
STORE_PASSWORD = "changeit"


def secure_broker(folder: Path) -> KafkaBroker:
    """Listeners ``SASL`` (PLAIN and SCRAM, open line), ``TLS`` (PLAIN inside TLS) and ``MUTUAL`` (TLS with a certificate on either side).

    ``folder``/ca.pem is to be trusted; client.pem and client.key there are what ``MUTUAL`` trusts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    store, pem, client = folder / "keystore.p12", folder / "ca.pem", folder / "client.pem"
    certificate = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=carol"]
    _run(
        ["openssl", "req", *certificate, "-keyout", str(folder / "client.key"), "-out", str(client)],
        "openssl",
    )
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
    users = f'user_{USER}="{PASSWORD}" user_{LESSER_USER}="{LESSER_PASSWORD}"'
    return KafkaBroker(
        folder,
        listeners={"SASL": "SASL_PLAINTEXT", "TLS": "SASL_SSL", "MUTUAL": "SSL"},
        extra={
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "allow.everyone.if.no.acl.found": "true",
            "super.users": ";".join(f"User:{name}" for name in (USER, SCRAM_USER, "CN=carol", "ANONYMOUS")),
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
            "listener.name.sasl.plain.sasl.jaas.config": f"{plain} {users};",
            "listener.name.sasl.scram-sha-256.sasl.jaas.config": f"{scram};",
            "listener.name.sasl.scram-sha-512.sasl.jaas.config": f"{scram};",
            "listener.name.mutual.ssl.client.auth": "required",
            "listener.name.mutual.ssl.truststore.type": "PEM",
            "listener.name.mutual.ssl.truststore.location": str(client),
            "listener.name.tls.plain.sasl.jaas.config": f"{plain} {users};",
            "listener.name.tls.sasl.enabled.mechanisms": "PLAIN",
            "ssl.keystore.location": str(store),
            "ssl.keystore.password": STORE_PASSWORD,
            "ssl.keystore.type": "PKCS12",
        },
        format_options=tuple(
            option
            for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512")
            for option in ("--add-scram", f"{mechanism}=[name={SCRAM_USER},password={SCRAM_PASSWORD}]")
        ),
    )


class Right(enum.IntEnum):
    """Kafka's numbers for what one may do."""

    READ = 3
    WRITE = 4
    DESCRIBE = 8


class On(enum.IntEnum):
    """Kafka's numbers for what it is done to."""

    TOPIC = 2
    GROUP = 3
    TRANSACTIONAL_ID = 5


_LITERAL, _DENY, _ALLOW = 3, 2, 3


async def refuse(broker: KafkaBroker, right: Right, on: On, name: str) -> None:
    """Let ``LESSER_USER`` do anything but this to the thing of this name."""
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    try:
        for operation in Right:
            permission = _DENY if operation == right else _ALLOW
            rule = (on, name, _LITERAL, f"User:{LESSER_USER}", "*", operation, permission)
            answer = await admin._client.send(admin._client.get_random_node(), CreateAclsRequest(*rule))
            assert all(code == 0 for code, _ in answer.creation_responses), answer
    finally:
        await admin.close()


def _keytool(arguments: list[str]) -> None:
    _run(["keytool", *arguments], "keytool, which comes with Java,")


def _run(command: list[str], what: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        raise NoKafka(f"there is no {what} on the PATH") from None
