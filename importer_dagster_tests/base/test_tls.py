"""Encrypted connections by URL, with certificates of our own.

The embedded PostgreSQL is built without TLS. So a proxy in front of it does it, as a
pooler would; where the machine has a PostgreSQL with TLS, that one is used too.
"""

import os
import pwd
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from importer_dagster.errors import WarehouseError
from importer_dagster.launch.embedded import EmbeddedServer
from importer_dagster.model import Delivery
from importer_dagster.pipeline.delivery import import_delivery
from importer_dagster.warehouse import Warehouse
from importer_dagster_tests.helpers.inbox import DAY, make_spec

SYSTEM = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres")) if os.geteuid() == 0 else []
PASSWORD = "pw-Tls9planted"

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")


@pytest.fixture(scope="module")
def certificates() -> Iterator[Path]:
    """ca.pem with server.crt and server.key for localhost; other.pem of somebody else."""
    folder = Path(tempfile.mkdtemp(prefix="importer-tls-"))
    folder.chmod(0o755)

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    for name in ("ca", "other"):
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN=test {name}",
                "-keyout", f"{name}.key", "-out", f"{name}.pem")  # fmt: skip
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost",
            "-keyout", "server.key", "-out", "server.csr")  # fmt: skip
    (folder / "names").write_text("subjectAltName=DNS:localhost\n")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
            "-days", "2", "-extfile", "names", "-out", "server.crt")  # fmt: skip
    yield folder
    shutil.rmtree(folder)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- a pooler that ends TLS -------------------------------------------------------------------


def pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@contextmanager
def proxy(server: EmbeddedServer, certificates: Path) -> Iterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.crt", certificates / "server.key")
    listener = socket.create_server(("127.0.0.1", 0))
    [path] = server._socket_folder().glob(".s.PGSQL.*[0-9]")

    def serve(client: socket.socket) -> None:
        with client, suppress(OSError):
            if client.recv(8) != b"\0\0\0\x08\x04\xd2\x16\x2f":  # SSLRequest
                return  # nothing in the clear
            client.sendall(b"S")
            with (
                context.wrap_socket(client, server_side=True) as inside,
                socket.socket(socket.AF_UNIX) as behind,
            ):
                behind.connect(str(path))
                up = threading.Thread(target=pump, args=(inside, behind), daemon=True)
                up.start()
                pump(behind, inside)
                up.join(10)

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=serve, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()


# --- a server with TLS of its own ---------------------------------------------------------------


@contextmanager
def system_server(certificates: Path) -> Iterator[int]:
    binaries, user = SYSTEM[-1].parent, pwd.getpwnam("postgres")
    folder = Path(tempfile.mkdtemp(prefix="importer-tls-server-"))
    port = free_port()
    os.chown(folder, user.pw_uid, user.pw_gid)

    def run(program: str, *words: str) -> None:
        subprocess.run(
            [binaries / program, "-D", folder / "data", *words],
            user=user.pw_uid, group=user.pw_gid, check=True, cwd=folder, stdout=subprocess.DEVNULL, timeout=60,
        )  # fmt: skip

    run("initdb", "--auth=trust", "-U", "postgres")
    for name in ("server.crt", "server.key"):
        shutil.copy(certificates / name, folder / "data" / name)
        os.chown(folder / "data" / name, user.pw_uid, user.pw_gid)
        (folder / "data" / name).chmod(0o600)
    (folder / "data" / "pg_hba.conf").write_text(
        "hostssl all all 127.0.0.1/32 trust\n"
    )  # nothing in the clear
    options = f"-p {port} -h 127.0.0.1 -k {folder} -c ssl=on -c fsync=off"
    try:
        run("pg_ctl", "start", "-w", "-l", str(folder / "log"), "-o", options)
        yield port
    finally:
        with suppress(subprocess.CalledProcessError):
            run("pg_ctl", "stop", "-w", "-m", "fast")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module", params=["proxy", "server"])
def port(request: pytest.FixtureRequest, server: EmbeddedServer, certificates: Path) -> Iterator[int]:
    if request.param == "server" and not SYSTEM:
        pytest.skip("no PostgreSQL with TLS on this machine, or not allowed to start it")
    with system_server(certificates) if request.param == "server" else proxy(server, certificates) as number:
        yield number


@pytest.fixture
def url(port: int, certificates: Path) -> Iterator[Callable[..., str]]:
    """The URL of a new database; ``ca``, ``host`` and ``sslmode`` as asked for."""
    name = f"tls_{free_port()}"

    def make(
        ca: str = "ca.pem", host: str = "localhost", mode: str = "verify-full", database: str = name
    ) -> str:
        rest = f"sslmode={mode}&sslrootcert={certificates / ca}"
        return f"postgresql://postgres:{PASSWORD}@{host}:{port}/{database}?{rest}"

    with psycopg.connect(make(database="postgres"), autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name}")
    yield make
    with psycopg.connect(make(database="postgres"), autocommit=True) as conn:
        conn.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_day_is_imported_over_verified_connections_only(url: Callable[..., str], tmp_path: Path) -> None:
    """The whole way, Dagster's storage in the same database included; the other end takes nothing in the clear."""
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "things.yaml").write_text(
        "schema: {fields: [{name: id, type: integer}, {name: v}]}\n"
    )
    file = tmp_path / "inbox" / "2024-01-01" / "acme" / "things.csv"
    file.parent.mkdir(parents=True)
    file.write_text("id,v\n1,a\n")
    environment = os.environ | {
        "IMPORTER_WAREHOUSE_URL": url(),
        "IMPORTER_HOME": str(tmp_path / "home"),
        "IMPORTER_SPECS": str(tmp_path / "specs"),
        "IMPORTER_INBOX_URL": str(tmp_path / "inbox"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "importer_dagster.cli", "backfill", "--from", "2024-01-01", "--to", "2024-01-01"],
        env=environment, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert PASSWORD not in done.stdout + done.stderr
    with psycopg.connect(url()) as conn:
        assert conn.execute("SELECT id, v FROM things").fetchall() == [(1, "a")]
        assert conn.execute("SELECT count(*) FROM dagster.runs WHERE status = 'SUCCESS'").fetchone() == (1,)
        assert conn.pgconn.ssl_in_use


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ca": "other.pem"}, "certificate verify failed"),
        ({"host": "127.0.0.1"}, "does not match host name"),
        ({"ca": "none.pem"}, "does not exist"),
    ],
)
def test_who_cannot_be_verified_gets_nothing(
    url: Callable[..., str], tmp_path: Path, options: dict[str, str], words: str
) -> None:
    file = tmp_path / "f.csv"
    file.write_text("id,v,n\n1,a,1\n")
    delivery = Delivery("things", "acme", DAY, "f.csv", str(file))
    with pytest.raises(WarehouseError, match=words) as caught:  # at once: trying again will not help
        import_delivery(delivery, make_spec(), warehouse=Warehouse(url(**options)))
    assert "could not be verified" in str(caught.value) and PASSWORD not in str(caught.value)


def test_a_server_without_encryption_is_refused(certificates: Path) -> None:
    """A server that answers "no" to the question for TLS."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(8)
                client.sendall(b"N")
                client.recv(1)

        threading.Thread(target=answer, daemon=True).start()
        port = listener.getsockname()[1]
        plain = (
            f"postgresql://postgres@localhost:{port}/x?sslmode=verify-full&sslrootcert={certificates}/ca.pem"
        )
        with pytest.raises(WarehouseError, match="does not support SSL"), Warehouse(plain).connect():
            pass
