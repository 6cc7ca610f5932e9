"""The command as users run it: a process, its output, its exit code."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from importer_dagster_tests.helpers.command import IMPORTER, Command


def test_load_prints_the_object_of_the_contract(importer: Command, query) -> None:
    file = importer.file("id,amount\n1,2.50\nx,1\n")
    done = importer("load", "orders", file, "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert list(answer) == ["load_id", "status", "rows_read", "rows_loaded", "rows_rejected", "rows_skipped",
                            "rows_unchanged", "reason", "drift"]  # fmt: skip
    assert (answer["status"], answer["rows_read"], answer["rows_loaded"], answer["rows_rejected"]) == (
        "loaded",
        2,
        1,
        1,
    )
    assert query(
        "SELECT _tenant, _business_date::text, path FROM orders JOIN importer.loads ON load_id = _load_id"
    ) == [("acme", "2024-01-31", "2024-01-31/acme/orders.csv")]
    again = importer("load", "orders", file, "--json")
    assert (again.returncode, json.loads(again.stdout)["status"]) == (0, "unchanged")
    assert "load_id" in importer("rejects", "orders", "--csv").stdout
    assert "'x' is no integer" in importer("rejects", "--load", str(answer["load_id"])).stdout
    status = json.loads(importer("status", "--json").stdout)
    assert [(s["type"], s["tenant"], s["rows_loaded"], s["rows_rejected"]) for s in status] == [
        ("orders", "acme", 1, 1)
    ]
    plan = importer("unload", str(answer["load_id"]), "--dry-run")
    assert "rows 1 → 0" in plan.stdout
    assert importer("unload", str(answer["load_id"])).returncode == 0
    assert query("SELECT count(*) FROM orders") == [(0,)]
    assert importer("unload", str(answer["load_id"])).returncode == 2


def test_check_rehearses_and_writes_nothing(importer: Command, query) -> None:
    file = importer.file("id,amount\n1,2.50\n1,3\n")
    done = importer("check", "orders", "--file", file, "--json")
    assert (done.returncode, json.loads(done.stdout)["rows_rejected"]) == (0, 1)
    assert query("SELECT to_regclass('orders')::text, (SELECT count(*) FROM importer.loads)") == [(None, 0)]
    refused = importer("check", "orders", "--file", importer.file("nix\n1\n", "other.csv"))
    assert refused.returncode == 3
    assert "lacks 'id'" in refused.stdout
    everything = importer("check")
    assert everything.returncode == 0
    assert "1 spec in" in everything.stdout
    assert "names no" not in everything.stderr
    importer.spec("export", "path: export.csv\nschema: {fields: [{name: id}]}\n")
    assert "export appends, and its path names no {date}" in importer("check").stderr


def test_what_a_supplier_writes_is_shown_and_neither_obeyed_nor_dressed_up(importer: Command) -> None:
    """By the terminal, or as markup of the tables."""
    hostile = "\x1b]0;x\x07 [/] [red]:x: \\[b]"
    shown = r"\x1b]0;x\x07 [/] [red]:x: \[b]"
    file = importer.file(f"id,amount,{hostile}\n{hostile},1,1\n2,1,1\n", f"o{hostile.replace('/', '')}.csv")
    spec = "gate: {rejects: {count: 0, action: hold}}\nschema: {fields: [{name: id, type: integer}]}\n"
    importer.spec("gated", spec)
    loaded = importer("load", "orders", file, "--tenant", hostile)
    held = importer("load", "gated", file, "--tenant", hostile, "--json")
    number = str(json.loads(held.stdout)["load_id"])
    told = [
        loaded,
        importer("rejects", "orders"),
        importer("status"),
        importer("held"),
        importer("release", number),
        importer("drift"),
        importer("check", "orders", "--file", file, "--tenant", f"{hostile}2"),
        importer("unload", "1", "--dry-run"),
    ]
    assert [t.returncode for t in told] == [0] * len(told), [t.stderr for t in told]
    for text in (t.stdout + t.stderr for t in told):
        assert not set("\x1b\x07") & set(text)
        assert shown in " ".join(text.replace("│", " ").split()), text


def test_a_rehearsal_shows_each_reject_whole(importer: Command) -> None:
    rows = "".join(f'{n},"1" x\n' for n in range(60))
    long = "9" * 300
    file = importer.file(f"id,amount\n{long},1\n{rows}100,1\n")
    told = importer("check", "orders", "--file", file).stdout
    assert "quoteChar: null if quotes mean nothing" in " ".join(told.replace("│", " ").split()), "the remedy"
    assert "9…" in told, "what is cut says so"
    assert "11 more" in told
    answer = json.loads(importer("check", "orders", "--file", file, "--json").stdout)
    assert len(answer["rejects"]) == answer["rows_rejected"] == 61
    assert answer["rejects"][0] == {
        "row": 1, "line": 2, "column": "id", "value": long, "rule": "type",
        "message": answer["rejects"][0]["message"], "raw": f"{long},1",
    }  # fmt: skip


CASES = {
    "missing file": (["load", "orders", "{inbox}/none.csv"], 2, "none.csv does not exist"),
    "missing file to rehearse": (["check", "orders", "--file", "{inbox}/none.csv"], 2, "does not exist"),
    "missing file to infer": (["infer", "{inbox}/none.csv", "--out", "{inbox}"], 2, "does not exist"),
    "missing URL": (["load", "orders", "file://{inbox}/none.csv"], 2, "does not exist"),
    "folder": (["load", "orders", "{inbox}"], 2, "is a folder"),
    "unknown type": (["load", "order", "x.csv"], 2, "did you mean 'orders'?"),
    "bad date": (["load", "orders", "x.csv", "--date", "31.1.2024"], 2, "is no date such as"),
    "no arguments": (["load"], 2, "Missing argument"),
    "unknown load": (["unload", "999", "--yes"], 2, "There is no load 999"),
    "rejects of nothing": (["rejects"], 2, "Name a TYPE"),
}


@pytest.mark.parametrize(("args", "code", "words"), CASES.values(), ids=CASES)
def test_bad_usage_gets_one_paragraph_and_the_right_code(
    importer: Command, args: list, code: int, words: str
) -> None:
    done = importer(*(a.replace("{inbox}", str(importer.folder / "inbox")) for a in args))
    assert done.returncode == code, done.stdout + done.stderr
    assert words in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_mistyped_path_is_no_delivery_on_record(importer: Command, query) -> None:
    file = importer.file("id,amount\n1,2.50\n")
    assert importer("load", "orders", file + "x").returncode == 2
    assert query("SELECT count(*) FROM importer.loads") == [(0,)]


def test_bad_settings_and_specs(importer: Command) -> None:
    for env, code, words in [
        ({"IMPORTER_WAREHOUSE_URL": "mysql://x"}, 2, "is no PostgreSQL URL"),
        ({"IMPORTER_INBOX_URL": "nonsense://x"}, 2, "cannot be used"),
        ({"IMPORTER_SPECS": "/nowhere/specs"}, 2, "IMPORTER_SPECS names it"),
        ({"IMPORTER_DB_WRITES": "many"}, 2, "IMPORTER_DB_WRITES"),
        ({"IMPORTER_TIMEZONE": "Mars/Base"}, 2, "IMPORTER_TIMEZONE"),
    ]:
        done = importer("check", **env)
        assert done.returncode == code, (env, done.stdout, done.stderr)
        assert words in done.stdout + done.stderr, (env, done.stderr)
        assert "Traceback" not in done.stderr
    importer.spec("broken", "schema:\n  fields:\n    - {name: a, typ: integer}\n")
    done = importer("check")
    assert done.returncode == 2
    assert "broken.yaml:3: unknown key 'schema.fields.0.typ'; did you mean 'type'?" in done.stderr


def test_database_down_or_forbidden_is_code_4_without_the_password(importer: Command, server, query) -> None:
    file = importer.file("id,amount\n1,2\n")
    down = importer(
        "load", "orders", file, "--json", IMPORTER_WAREHOUSE_URL="postgresql://u:hidden@127.0.0.1:1/x"
    )
    assert down.returncode == 4
    assert json.loads(down.stdout)["status"] == "failed"
    assert "hidden" not in down.stdout + down.stderr
    from importer_dagster_tests.helpers.inbox import admin

    with admin(server) as conn:
        conn.execute(
            "DO $$ BEGIN IF to_regrole('nobody_much') IS NULL THEN CREATE ROLE nobody_much LOGIN; END IF; END $$"
        )
    url = importer.env["IMPORTER_WAREHOUSE_URL"].replace("postgres@", "nobody_much@")
    forbidden = importer("load", "orders", file, IMPORTER_WAREHOUSE_URL=url)
    assert forbidden.returncode == 4
    assert "does not allow it" in forbidden.stderr
    assert "Traceback" not in forbidden.stderr


def test_unreadable_file_is_refused(importer: Command) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads every file")
    file = importer.file("id,amount\n1,2\n")
    Path(file).chmod(0)
    assert importer("load", "orders", file).returncode == 3


def test_the_embedded_server_serves_when_no_url_is_set(importer: Command, tmp_path_factory) -> None:
    home = tmp_path_factory.mktemp("own")
    file = importer.file("id,amount\n1,2\n")
    env = {"IMPORTER_WAREHOUSE_URL": "", "IMPORTER_HOME": str(home)}
    done = importer("load", "orders", file, "--json", **env)
    assert done.returncode == 0, done.stderr
    assert json.loads(importer("load", "orders", file, "--json", **env).stdout)["status"] == "unchanged"
    shutil.rmtree(home, ignore_errors=True)


def test_help_has_examples() -> None:
    for args in (
        ["--help"],
        ["load", "--help"],
        ["check", "--help"],
        ["backfill", "--help"],
        ["unload", "--help"],
        ["held", "--help"],
        ["release", "--help"],
        ["refuse", "--help"],
    ):
        done = subprocess.run([str(IMPORTER), *args], capture_output=True, text=True, check=False)
        assert done.returncode == 0
        assert "Example" in done.stdout
