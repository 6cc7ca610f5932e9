"""Files that are not complete, change while they are read, or lead out of the inbox."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest

from importer_dagster.errors import RefusedError, SourceUnavailable, SpecError, UsageError
from importer_dagster.ledger import arrivals
from importer_dagster.model import Delivery
from importer_dagster.pipeline.delivery import import_delivery
from importer_dagster.reader.reader import fingerprint, open_delivery
from importer_dagster.settings import Settings
from importer_dagster.source.inbox import delivery_of_file, find_deliveries
from importer_dagster.spec.loading import parse_spec
from importer_dagster.spec.table import TableSpec
from importer_dagster_tests.helpers.inbox import DAY, Inbox, Query, make_spec

FOLDER = "2024-01-01/acme"


def put(root: Path, name: str, age: float = 0) -> Path:
    file = root / FOLDER / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("id,v,n\n1,a,2\n")
    os.utime(file, (time.time() - age,) * 2)
    return file


def waiting(root: Path, spec: TableSpec, min_age: int = 0) -> dict[str, str | None]:
    found = find_deliveries(str(root), {spec.name: spec}, default_path=Settings.default_path, min_age=min_age)
    return {d.path.removeprefix(f"{FOLDER}/"): d.waiting for d in found}


def test_a_young_file_waits(tmp_path: Path) -> None:
    put(tmp_path, "things.csv", age=0)
    put(tmp_path, "things_old.csv", age=100)
    found = waiting(tmp_path, make_spec(), min_age=50)
    assert found["things_old.csv"] is None
    assert "must be unchanged for 50 s" in str(found["things.csv"])
    assert set(waiting(tmp_path, make_spec(), min_age=0).values()) == {None}
    # the spec's own goes before the project's
    assert set(waiting(tmp_path, make_spec(complete={"min_age": 0}), min_age=50).values()) == {None}
    assert None not in waiting(tmp_path, make_spec(complete={"min_age": 500}), min_age=50).values()


@pytest.mark.parametrize(("marker", "file"), [("{path}.done", "things.csv.done"), ("_SUCCESS", "_SUCCESS")])
def test_a_marker_file_is_waited_for(tmp_path: Path, marker: str, file: str) -> None:
    put(tmp_path, "things.csv")
    spec = make_spec(complete={"marker": marker})
    assert waiting(tmp_path, spec, min_age=50) == {
        "things.csv": f"its marker file {FOLDER}/{file} is not there yet"
    }
    put(tmp_path, file)
    assert waiting(tmp_path, spec, min_age=50) == {"things.csv": None}


def test_a_marker_cannot_lie_outside_of_the_inbox() -> None:
    for marker in ("../done", "/tmp/done", "..\\done", "C:\\done"):
        with pytest.raises(ValueError, match="must stay in the inbox"):
            make_spec(complete={"marker": marker})


def test_the_setting_is_checked() -> None:
    assert Settings.from_env({"IMPORTER_MIN_AGE": "0"}).min_age == 0
    with pytest.raises(UsageError, match="IMPORTER_MIN_AGE"):
        Settings.from_env({"IMPORTER_MIN_AGE": "-1"})


# --- nothing leads out of the inbox -----------------------------------------------------


def test_only_regular_files_inside_the_inbox_are_deliveries(tmp_path: Path) -> None:
    inbox, outside = tmp_path / "inbox", tmp_path / "outside"
    put(inbox, "things.csv")
    secret = put(outside, "secret.csv")
    here = inbox / FOLDER
    (here / "things_out.csv").symlink_to(secret)
    (here / "things_in.csv").symlink_to(here / "things.csv")
    (here / "things_lost.csv").symlink_to(here / "nothing.csv")
    (here / "things_dir.csv").symlink_to(secret.parent)
    (inbox / "2024-01-02").symlink_to(outside / "2024-01-01")
    os.mkfifo(here / "things_pipe.csv")
    assert set(waiting(inbox, make_spec())) == {"things.csv", "things_in.csv"}


@pytest.mark.timeout(20)
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(RefusedError, match="pipe or a device"):
        open_delivery(Delivery("things", "", DAY, "pipe.csv", str(tmp_path / "pipe.csv")), make_spec())


def test_a_spec_cannot_run_code(tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    for attack in (
        f"!!python/object/apply:os.system ['touch {witness}']",
        f"!!python/object/new:os.system ['touch {witness}']",
        "!!python/name:os.system",
    ):
        with pytest.raises(SpecError):
            parse_spec(f"name: things\ntitle: {attack}\nschema: {{fields: [{{name: id}}]}}\n", "things.yaml")
    assert not witness.exists()


@pytest.mark.parametrize(
    "path",
    ["/etc/{type}*", "../{type}*.csv", "{date}/../../{type}*.csv", "..\\{type}*.csv", "C:\\files\\{type}*.csv",
     "C:/files/{type}*.csv", "\\\\server\\share\\{type}*.csv", "a\\..\\..\\{type}.csv"],
)  # fmt: skip
def test_a_path_pattern_stays_below_the_inbox(tmp_path: Path, path: str) -> None:
    with pytest.raises(UsageError, match="must stay below the inbox"):
        find_deliveries(str(tmp_path), {"things": make_spec(path=path)}, default_path=Settings.default_path)


def test_names_are_names_however_they_look(tmp_path: Path) -> None:
    """Encoded slashes, backslashes and addresses in a file's name are letters of its name."""
    inbox, secret = tmp_path / "inbox", put(tmp_path, "secret.csv")
    names = {
        "things_%2e%2e%2f%2e%2e%2fsecret.csv",
        "things_..%2F..%2Fsecret.csv",
        "things_..\\..\\secret.csv",
        "things_C:\\secret.csv",
        "things_..csv",
    }
    for name in sorted(names):
        put(inbox, name).write_text("id,v,n\n7,own,1\n")
    (inbox / FOLDER / ".." / "..things").mkdir()
    put(inbox, "things::file:secret.csv").write_text("id,v,n\n7,own,1\n")
    found = find_deliveries(str(inbox), {"things": make_spec()}, default_path=Settings.default_path)
    assert {d.path.removeprefix(f"{FOLDER}/") for d in found} == {*names, "things::file:secret.csv"}
    assert secret.exists()
    for delivery in found:
        with open_delivery(delivery, make_spec()) as reader:
            [batch] = reader.batches()
            assert batch.columns.column(1).to_pylist() == ["own"], delivery.path


def test_a_remote_name_is_no_chain_of_addresses(caplog: pytest.LogCaptureFixture) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe(f"/inbox/{FOLDER}/things.csv", b"id,v,n\n1,own,1\n")
    memory.pipe(f"/inbox/{FOLDER}/things::file:x.csv", b"id,v,n\n1,own,1\n")
    memory.pipe(f"/inbox/{FOLDER}/../../../things.csv", b"id,v,n\n1,up,1\n")
    try:
        found = find_deliveries("memory://inbox", {"things": make_spec()}, default_path=Settings.default_path)
        assert [d.path for d in found] == [f"{FOLDER}/things.csv"]
        assert "'::' in its name" in caplog.text
    finally:
        memory.rm("/inbox", recursive=True)


def test_a_path_with_dots_names_the_delivery_that_it_leads_to(tmp_path: Path) -> None:
    file = put(tmp_path / "inbox", "things.csv")
    settings = Settings(None, tmp_path, str(tmp_path / "inbox"), tmp_path)
    around = delivery_of_file(f"{file.parent}/../acme/things.csv", make_spec(), settings)
    assert (around.path, around.tenant) == (f"{FOLDER}/things.csv", "acme")
    outside = delivery_of_file(f"{tmp_path}/inbox/../secret.csv", make_spec(), settings)
    assert outside.path == f"{tmp_path}/secret.csv"  # a person may load any file, and it is called what it is


def test_a_file_of_the_inbox_is_known_however_the_two_are_named(tmp_path: Path) -> None:
    """Else it would be a delivery of its own, and its rows would stand twice."""
    file = put(tmp_path / "inbox", "things.csv")
    (tmp_path / "link").symlink_to(tmp_path / "inbox")
    for inbox in (f"{tmp_path}/inbox", f"{tmp_path}/inbox/", f"file://{tmp_path}/inbox", f"{tmp_path}/link"):
        [found] = find_deliveries(inbox, {"things": make_spec()}, default_path=Settings.default_path)
        settings = Settings(None, tmp_path, inbox, tmp_path)
        for name in (str(file), f"file://{file}", f"{tmp_path}/link/{FOLDER}/things.csv"):
            named = delivery_of_file(name, make_spec(), settings)
            assert named.path == found.path == f"{FOLDER}/things.csv"
            assert named.url in (str(file), f"{tmp_path}/link/{FOLDER}/things.csv")


@pytest.mark.timeout(20)
def test_a_spec_cannot_take_all_memory() -> None:
    """Aliases of aliases: ten lines that would be billions of words."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    for bomb in ("\n".join([*lines, "name: things", "title: *a11"]), "name: &n [*n]", "<<: &m {<<: *m}"):
        with pytest.raises(SpecError):
            parse_spec(bomb, "things.yaml")


# --- what the ledger knows of a file ----------------------------------------------------


def test_a_load_has_the_stamp_of_its_file(inbox: Inbox, query: Query) -> None:
    spec = make_spec()
    inbox.load(spec, "id,v,n\n1,a,1\n", path=f"{FOLDER}/things.csv")
    listed = find_deliveries(str(inbox.folder), {"things": spec}, default_path=Settings.default_path)[0]
    assert listed.file_version
    assert query("SELECT bytes, stamp FROM importer.loads") == [(listed.size, listed.file_version)]
    # the same content, written again: no load, but the new stamp
    again = inbox.load(spec, "id,v,n\n1,a,1\n", path=f"{FOLDER}/things.csv")
    assert again.status == "unchanged"
    now = find_deliveries(str(inbox.folder), {"things": spec}, default_path=Settings.default_path)[0]
    assert now.file_version != listed.file_version
    assert query("SELECT stamp FROM importer.loads") == [(now.file_version,)]
    # content of the same size under the same time of change is told apart
    file = Path(inbox.folder / FOLDER / "things.csv")
    before = file.stat()
    file.write_text("id,v,n\n1,b,1\n")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    [other] = find_deliveries(str(inbox.folder), {"things": spec}, default_path=Settings.default_path)
    assert (other.size, other.file_version != now.file_version) == (now.size, True)


def test_a_refusal_has_the_stamp_too(inbox: Inbox, query: Query) -> None:
    assert inbox.load(make_spec(), "id,id\n1,a\n").status == "refused"
    [(size, file_version)] = query("SELECT bytes, stamp FROM importer.loads")
    assert size == 10
    assert file_version


def listed(root: Path) -> Delivery:
    [found] = find_deliveries(str(root), {"things": make_spec()}, default_path=Settings.default_path)
    return found


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_link_put_in_the_place_of_what_was_listed_is_not_followed(tmp_path: Path, what: str) -> None:
    inbox, outside = tmp_path / "inbox", tmp_path / "outside"
    file = put(inbox, "things.csv")
    secret = put(outside, "things.csv")
    delivery = listed(inbox)
    place, target = (file, secret) if what == "file" else (file.parent, secret.parent)
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    place.symlink_to(target)
    with pytest.raises(RefusedError, match="leads out of the inbox by now"):
        open_delivery(delivery, make_spec())
    with pytest.raises(RefusedError, match="leads out of the inbox by now"):
        fingerprint(delivery)


def test_a_pipe_put_in_the_place_of_what_was_listed_is_not_waited_for(tmp_path: Path) -> None:
    file = put(tmp_path, "things.csv")
    delivery = listed(tmp_path)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(RefusedError, match="pipe or a device"):
        open_delivery(delivery, make_spec())


def test_a_link_inside_of_the_inbox_is_followed(tmp_path: Path) -> None:
    put(tmp_path, "raw_1.csv")
    (tmp_path / FOLDER / "things.csv").symlink_to("raw_1.csv")
    with open_delivery(listed(tmp_path), make_spec()) as reader:
        assert list(reader.header) == ["id", "v", "n"]


def test_a_link_has_the_stamp_of_what_it_leads_to(inbox: Inbox, query: Query) -> None:
    """Else no listing would ever find what is on record, and each would ask for an import."""
    target = inbox.folder / FOLDER / "raw_1.csv"
    put(inbox.folder, "raw_1.csv")
    os.utime(target, (1_700_000_000,) * 2)
    (inbox.folder / FOLDER / "things.csv").symlink_to("raw_1.csv")
    delivery = listed(inbox.folder)
    assert import_delivery(delivery, make_spec(), warehouse=inbox.warehouse).status == "loaded"
    assert query("SELECT stamp FROM importer.loads") == [(listed(inbox.folder).file_version,)]
    target.write_text(target.read_text().swapcase())  # another content of the same size
    assert listed(inbox.folder).file_version != delivery.file_version


@contextmanager
def without_rights(folder: Path) -> Iterator[None]:
    """As somebody who may not read ``folder``; root becomes nobody for that."""
    folder.chmod(0)
    for parent in folder.parents:
        if (mode := parent.stat().st_mode) & 0o055 != 0o055:
            parent.chmod(mode | 0o055)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
        folder.chmod(0o755)


def test_a_folder_that_may_not_be_read_is_said_and_holds_up_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, "things.csv")
    locked = tmp_path / "2024-01-01" / "bolt"
    locked.mkdir()
    (locked / "things.csv").touch()
    with without_rights(locked):
        assert listed(tmp_path).tenant == "acme"
    assert f"{locked} may not be listed" in caplog.text


# --- names that are no UTF-8 ------------------------------------------------------------


def test_a_name_that_is_no_utf_8_is_one_that_can_be_recorded(inbox: Inbox, query: Query) -> None:
    """As of a supplier with an old system: the file is loaded, and one of a damaged content refused."""
    folder = os.fsencode(inbox.folder / FOLDER).replace(b"acme", b"caf\xe9")
    spec = make_spec(complete={"marker": "{path}.done"})
    Path(os.fsdecode(folder)).mkdir(parents=True)
    for name, content in ((b"things_\xfc.csv", b"id,v,n\n1,a,2\n"), (b"things_\xfd.csv", b"id,id\n")):
        Path(os.fsdecode(folder + b"/" + name)).write_bytes(content)
        Path(os.fsdecode(folder + b"/" + name + b".done")).touch()
    found = find_deliveries(str(inbox.folder), {"things": spec}, default_path=Settings.default_path)
    assert [d.waiting for d in found] == [None, None]
    with inbox.warehouse.connect() as conn:
        assert arrivals.compare(conn, found, {"things": spec}).wanted == found
    results = [import_delivery(d, spec, warehouse=inbox.warehouse) for d in found]
    assert [r.status for r in results] == ["loaded", "refused"]
    assert query("SELECT tenant, path, status FROM importer.loads ORDER BY load_id") == [
        ("caf\\udce9", f"{DAY}/caf\\udce9/things_\\udcf{last}.csv", status)
        for last, status in (("c", "loaded"), ("d", "refused"))
    ]
    assert query("SELECT _tenant, id FROM things") == [("caf\\udce9", 1)]
    again = find_deliveries(str(inbox.folder), {"things": spec}, default_path=Settings.default_path)
    with inbox.warehouse.connect() as conn:
        assert arrivals.compare(conn, again, {"things": spec}).wanted == []


def test_of_two_names_that_are_recorded_alike_one_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, "things_\udcfc.csv")
    put(tmp_path, "things_\\udcfc.csv")
    assert listed(tmp_path).path == f"{FOLDER}/things_\\udcfc.csv"
    assert "another file is recorded under the same name" in caplog.text


# --- sources that stall, or end too soon ------------------------------------------------


class Slow(fsspec.AbstractFileSystem):
    """A file system on a real socket: the server sends ``sent`` of ``promised`` and then hangs, or hangs up."""

    protocol = "slow"
    sent, promised, hangs = b"", 0, True
    cachable = False
    servers: list[socket.socket] = []  # noqa: RUF012 - of the test that is at work

    def info(self, path: str, **_: object) -> dict[str, object]:
        return {"name": path, "size": self.promised, "type": "file", "mtime": 1.0}

    def _open(self, path: str, mode: str = "rb", **_: object) -> Any:
        server, client = socket.socketpair()
        server.sendall(self.sent)
        file = client.makefile("rb")
        file.size = self.promised  # type: ignore[attr-defined]
        client.close()  # the file keeps it open
        if self.hangs:
            self.servers.append(server)
        else:
            server.close()
        return file


fsspec.register_implementation("slow", Slow)


def test_a_source_that_stalls_is_given_up(
    inbox: Inbox, query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMPORTER_READ_TIMEOUT", "1")
    monkeypatch.setattr(Slow, "sent", b"id,v,n\n" + b"1,a,1\n" * 1000)
    monkeypatch.setattr(Slow, "promised", 1_000_000)
    delivery = replace(inbox.delivery(make_spec(), ""), url="slow://host/things.csv")
    begin = time.monotonic()
    with pytest.raises(SourceUnavailable, match="The source stalls: nothing came for 1 s"):
        import_delivery(delivery, make_spec(), warehouse=inbox.warehouse)
    assert time.monotonic() - begin < 30  # three attempts
    while Slow.servers:
        Slow.servers.pop().close()
    assert query("SELECT status, rows_read FROM importer.loads") == [("failed", 0)]
    assert query("SELECT count(*) FROM things") == [(0,)]


def test_a_source_that_ends_too_soon_is_not_taken_for_the_whole_file(
    inbox: Inbox, query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = b"id,v,n\n" + b"1,a,1\n" * 1000
    monkeypatch.setattr(Slow, "hangs", False)
    monkeypatch.setattr(Slow, "sent", whole)
    monkeypatch.setattr(Slow, "promised", len(whole) + 6)
    delivery = replace(inbox.delivery(make_spec(), ""), url="slow://host/things.csv")
    with pytest.raises(SourceUnavailable, match=f"it had {len(whole) + 6} bytes, {len(whole)} came"):
        import_delivery(delivery, make_spec(), warehouse=inbox.warehouse)
    assert query("SELECT count(*) FROM things") == [(0,)]
    monkeypatch.setattr(Slow, "promised", len(whole))
    assert import_delivery(delivery, make_spec(), warehouse=inbox.warehouse).rows_loaded == 1000


# --- files that change while they are read --------------------------------------------


GROW = "f.write(b'999999,late,1\\n')"
SHRINK = "f.truncate(100)"
REPLACE = "os.replace(sys.argv[1] + '.new', sys.argv[1])"


@pytest.mark.parametrize("change", [GROW, SHRINK, REPLACE])
def test_a_file_that_changes_while_it_is_read_is_read_again(
    inbox: Inbox, query: Query, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    spec = make_spec()
    rows = "".join(f"{i},value,1\n" for i in range(300_000))
    delivery = inbox.delivery(spec, f"id,v,n\n{rows}")
    Path(f"{delivery.url}.new").write_text("id,v,n\n7,new,1\n8,new,1\n")
    code = f"import os, sys; f = open(sys.argv[1], 'r+b'); f.seek(0, 2); {change}"
    changed = []

    def on_progress(_rows: int, _rejected: int) -> None:
        if not changed:
            changed.append(subprocess.run([sys.executable, "-c", code, delivery.url], check=True))

    result = import_delivery(delivery, spec, warehouse=inbox.warehouse, progress=on_progress)
    assert "was changed while it was read" in caplog.text
    assert result.status == "loaded"
    # what is in force is the file as it stands now, and only that
    lines = Path(delivery.url).read_bytes().splitlines()
    assert result.rows_read == len(lines) - 1
    assert query("SELECT count(*) FROM things") == [(result.rows_loaded,)]
    assert query("SELECT status, rows_read FROM importer.loads") == [("loaded", len(lines) - 1)]


def test_a_file_that_never_stands_still_is_not_loaded(inbox: Inbox, query: Query) -> None:
    spec = make_spec()
    delivery = inbox.delivery(spec, "id,v,n\n1,a,1\n")
    code = "import sys\nwhile True: open(sys.argv[1], 'ab').write(b'2,b,1\\n')"
    writer = subprocess.Popen([sys.executable, "-c", code, delivery.url])
    try:
        time.sleep(0.5)
        with pytest.raises(SourceUnavailable, match=r"complete\.min_age"):
            import_delivery(delivery, spec, warehouse=inbox.warehouse)
    finally:
        writer.kill()
        writer.wait()
    assert query("SELECT status FROM importer.loads") == [("failed",)]
    assert query("SELECT count(*) FROM things") == [(0,)]
