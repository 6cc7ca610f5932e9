"""Late, corrected, refused and missing files: asked for once, by schedule and sensor, with a real instance."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
import psutil
import pytest

from importer_dagster.defs import build_defs
from importer_dagster.defs.catchup import look
from importer_dagster.defs.runs import (
    ACTIVE,
    BY_SENSOR,
    JOB,
    PARENT,
    PARTITION,
    RETRY,
    is_automatic,
    range_tags,
)
from importer_dagster.defs.schedule import last_tick
from importer_dagster.defs.storage import materialized
from importer_dagster.launch.environment import PROJECT_ROOT
from importer_dagster.ledger import arrivals
from importer_dagster.settings import Settings
from importer_dagster.spec.loading import load_specs
from importer_dagster.warehouse import Warehouse
from importer_dagster_tests.helpers.project import Project, gap_tags, wait_for

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore::dagster.PreviewWarning")

START = date(2024, 1, 1)
FAR = 30  # days between tests: more than schedule and sensor look back


_used = iter(range(1, 30))


@pytest.fixture
def today() -> date:
    """A day that is far from those of other tests."""
    return START + timedelta(days=FAR * next(_used))


def at(today: date, hour: int = 7, minute: int = 0) -> datetime:
    return datetime(today.year, today.month, today.day, hour, minute, tzinfo=UTC)


_ticks = iter(range(1000))


def ask(project: Project, now: datetime, *, by: str | None = None, **settings: Any) -> list[dg.RunRequest]:
    """What a tick asks for; each is another one unless it is named."""
    chosen = replace(project.settings, **settings)
    with dg.DagsterInstance.get() as instance:
        answer = look(
            instance,
            chosen,
            load_specs(chosen.specs),
            now=now,
            last=now,
            by=by or f"tick {next(_ticks)}",
        )
        return [a for a in answer if isinstance(a, dg.RunRequest)]


def wanted(requests: list[dg.RunRequest]) -> list[tuple[set[str], dict[str, Any]]]:
    return [({k.to_user_string() for k in r.asset_selection or ()}, gap_tags(r.tags)) for r in requests]


def a_day(day: date) -> dict[str, str]:
    return range_tags((day, day))


def automatic_run(project: Project, day: date, *types: str) -> dg.DagsterRun:
    """A run as the sensor asks for it, here and now; there is no daemon that would run it again."""
    with dg.DagsterInstance.get() as instance:
        result = dg.execute_job(
            dg.reconstructable(_job),
            instance,
            tags={**range_tags((day, day)), BY_SENSOR: "arrivals", "dagster/max_retries": "0"},
            asset_selection=[dg.AssetKey(t) for t in types],
        )
        run = instance.get_run_by_id(result.run_id)
        assert run is not None
        return run


def _job() -> dg.JobDefinition:
    return build_defs(retry_delay=0.1).resolve_job_def(JOB)


def loads(project: Project, day: date) -> list[tuple[Any, ...]]:
    return project.query(
        "SELECT regexp_replace(path, '.*/', ''), status, rows_read FROM importer.loads "
        "WHERE business_date = %s ORDER BY load_id",
        day,
    )


# --- late and corrected -----------------------------------------------------------------


def test_a_late_and_a_corrected_file_of_a_day_that_was_done_are_asked_for(project: Project, today: date):
    for n in (1, 7):
        project.deliver(today - timedelta(days=n), "beta", "id,v\n1,a\n")
    early, late = today - timedelta(days=7), today - timedelta(days=1)
    assert project.run(early, late, types=["beta"]).success is True
    assert {early, late} <= project.materialized("beta")
    assert ask(project, at(today)) == []

    project.deliver(early, "beta", "id,v\n1,corrected\n")
    project.deliver(late, "beta", "id,v\n2,late\n", suffix="_2")
    assert wanted(ask(project, at(today))) == [({"beta"}, a_day(early)), ({"beta"}, a_day(late))]
    for day in (early, late):
        assert automatic_run(project, day, "beta").is_success
    assert project.query("SELECT v FROM beta WHERE _business_date = %s", early) == [("corrected",)]
    assert loads(project, late) == [("beta.csv", "loaded", 1), ("beta_2.csv", "loaded", 1)]
    assert ask(project, at(today)) == []


def test_a_file_that_was_touched_only_is_settled_by_one_run(project: Project, today: date):
    project.deliver(today, "beta", "id,v\n1,a\n")
    assert project.run(today, types=["beta"]).success
    project.deliver(today, "beta", "id,v\n1,a\n", age=1800)
    assert wanted(ask(project, at(today))) == [({"beta"}, a_day(today))]
    assert automatic_run(project, today, "beta").is_success
    assert loads(project, today) == [("beta.csv", "loaded", 1)]
    assert ask(project, at(today), retry_after=0) == []


def test_what_an_older_importer_loaded_is_looked_at_once(project: Project, today: date):
    project.deliver(today, "beta", "id,v\n1,a\n")
    assert project.run(today, types=["beta"]).success
    project.execute("UPDATE importer.loads SET stamp = NULL WHERE business_date = %s", today)
    assert len(ask(project, at(today))) == 1
    assert automatic_run(project, today, "beta").is_success
    assert ask(project, at(today), retry_after=0) == []


# --- refused, failed, held -----------------------------------------------------------------


def test_a_refused_file_is_asked_for_again_when_it_or_its_spec_changes(project: Project, today: date):
    project.deliver(today, "beta", "id,id\n1,a\n")
    assert not automatic_run(project, today, "beta").is_success
    assert ask(project, at(today), retry_after=0) == []
    file = project.root / "specs" / "own" / "beta.yaml"
    before = file.read_text()
    try:
        file.write_text(before + "\ntitle: The second\n")
        assert wanted(ask(project, at(today))) == [({"beta"}, a_day(today))]
    finally:
        file.write_text(before)
    assert ask(project, at(today), retry_after=0) == []
    project.deliver(today, "beta", "id,v\n1,a\n")
    assert wanted(ask(project, at(today))) == [({"beta"}, a_day(today))]


def test_a_late_file_beside_a_refused_one_is_imported_and_the_refused_one_not_read_again(
    project: Project, today: date
):
    project.deliver(today, "beta", "id,id\n1,a\n")
    assert not automatic_run(project, today, "beta").is_success
    project.deliver(today, "beta", "id,v\n2,late\n", suffix="_2")
    assert automatic_run(project, today, "beta").is_success
    assert loads(project, today) == [("beta.csv", "refused", 0), ("beta_2.csv", "loaded", 1)]
    assert today not in project.materialized("beta")  # it is not all there
    # a person who starts a run has every file read
    assert not project.run(today, types=["beta"]).success
    assert [status for _, status, _ in loads(project, today)] == ["refused", "loaded", "refused"]


def test_a_file_that_kills_its_process_is_asked_for_with_growing_pauses(project: Project, today: date):
    project.deliver(today, "alpha", "id,v\n1,boom\n")

    def seconds_pass(seconds: int) -> None:
        project.execute("UPDATE importer.asked SET asked_at = asked_at - make_interval(secs => %s)", seconds)

    assert len(ask(project, at(today))) == 1
    assert not automatic_run(project, today, "alpha").is_success
    assert loads(project, today) == []  # its transaction is gone, and with it any record
    assert ask(project, at(today)) == []
    seconds_pass(600)
    assert len(ask(project, at(today))) == 1
    seconds_pass(600)
    assert ask(project, at(today)) == []  # twice as long by now
    seconds_pass(600)
    assert len(ask(project, at(today))) == 1
    [(times,)] = project.query("SELECT times FROM importer.asked WHERE business_date = %s", today)
    assert times == 3
    # another content begins anew
    project.deliver(today, "alpha", "id,v\n1,fine\n")
    assert len(ask(project, at(today))) == 1


def test_a_day_that_was_loaded_by_hand_is_marked_as_done(project: Project, today: date):
    project.deliver(today, "beta", "id,v\n1,a\n")
    file = project.root / "home" / "inbox" / today.isoformat() / "acme" / "beta.csv"
    project.importer("load", "beta", str(file))
    assert today not in project.materialized("beta")
    assert wanted(ask(project, at(today))) == [({"beta"}, a_day(today))]
    assert automatic_run(project, today, "beta").is_success
    assert today in project.materialized("beta")
    assert loads(project, today) == [("beta.csv", "loaded", 1)]


def test_what_a_person_unloaded_stays_out(project: Project, today: date):
    project.deliver(today, "beta", "id,v\n1,a\n")
    assert project.run(today, types=["beta"]).success
    [(load_id,)] = project.query("SELECT load_id FROM importer.loads WHERE business_date = %s", today)
    project.importer("unload", str(load_id), "--yes")
    assert ask(project, at(today), retry_after=0) == []
    assert automatic_run(project, today, "beta").is_success
    assert loads(project, today) == [("beta.csv", "unloaded", 1)]


# --- exactly once, in bounded numbers -----------------------------------------------------


def test_what_is_being_imported_is_not_asked_for(project: Project, today: date):
    project.deliver(today, "beta", "id,v\n60,x\n")
    project.deliver(today, "alpha", "id,v\n60,x\n")
    with dg.DagsterInstance.get() as instance:
        run = instance.create_run_for_job(
            build_defs(settings=project.settings).resolve_job_def(JOB),
            tags=range_tags((today - timedelta(days=1), today + timedelta(days=1))),
            asset_selection=frozenset({dg.AssetKey("beta")}),
        )
        assert wanted(ask(project, at(today))) == [({"alpha"}, a_day(today))]
        instance.report_run_canceled(run)
        assert wanted(ask(project, at(today))) == [({"beta"}, a_day(today))]


def test_ticks_at_the_same_time_ask_once(project: Project, today: date):
    for n in range(4):
        project.deliver(today - timedelta(days=2 * n), "beta", f"id,v\n{n},x\n")
    answers: list[list[dg.RunRequest]] = []
    threads = [threading.Thread(target=lambda: answers.append(ask(project, at(today)))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(len, answers)) == [0, 0, 0, 0, 4]


def test_a_tick_that_is_evaluated_twice_asks_for_the_same_runs(project: Project, today: date):
    project.deliver(today, "beta", "id,v\n1,x\n")
    first = ask(project, at(today), by="the tick")
    assert len(first) == 1
    assert [r.run_key for r in ask(project, at(today), by="the tick")] == [r.run_key for r in first]
    assert ask(project, at(today), by="another") == []


def test_runs_are_asked_for_in_batches_the_oldest_first(project: Project, today: date):
    days = [today - timedelta(days=2 * n) for n in range(5, -1, -1)]
    for day in days:
        project.deliver(day, "beta", "id,v\n1,x\n")
    first = ask(project, at(today), max_runs=2)
    assert wanted(first) == [({"beta"}, a_day(day)) for day in days[:2]]
    with dg.DagsterInstance.get() as instance:
        job = build_defs(settings=project.settings).resolve_job_def(JOB)
        runs = [
            instance.create_run_for_job(
                job,
                tags={**r.tags, BY_SENSOR: "arrivals"},
                asset_selection=frozenset(r.asset_selection or ()),
            )
            for r in first
        ]
        assert ask(project, at(today), max_runs=2) == []  # as many as may be are under way
        instance.report_run_canceled(runs[0])
        assert wanted(ask(project, at(today), max_runs=2)) == [({"beta"}, a_day(days[2]))]
        instance.report_run_canceled(runs[1])
    assert wanted(ask(project, at(today))) == [({"beta"}, a_day(day)) for day in days[3:]]


def test_who_asked_for_a_run():
    assert is_automatic({BY_SENSOR: "arrivals"})
    assert is_automatic({BY_SENSOR: "arrivals", PARENT: "run", RETRY: "1"})
    assert not is_automatic({BY_SENSOR: "arrivals", PARENT: "run"})  # started again by a person
    assert not is_automatic({})


def test_the_sensor_leaves_today_to_the_schedule_until_its_time():
    settings = Settings.from_env({"IMPORTER_TIMEZONE": "Europe/Berlin", "IMPORTER_SCHEDULE": "0 6 * * *"})
    before, after = (datetime(2024, 3, 5, hour, 30, tzinfo=UTC) for hour in (4, 5))
    assert last_tick(settings, before).date() == date(2024, 3, 4)
    assert last_tick(settings, after).date() == date(2024, 3, 5)


# --- waiting ----------------------------------------------------------------------------------


def test_a_file_that_is_not_complete_holds_back_nothing_else(project: Project, today: date):
    project.deliver(today, "beta", "id,v\n1,x\n", age=3600)
    project.deliver(today, "beta", "id,v\n2,x\n", tenant="bolt", age=0)
    assert wanted(ask(project, at(today), min_age=600)) == [({"beta"}, a_day(today))]
    os.environ["IMPORTER_MIN_AGE"] = "600"
    try:
        assert automatic_run(project, today, "beta").is_success
    finally:
        del os.environ["IMPORTER_MIN_AGE"]
    assert loads(project, today) == [("beta.csv", "loaded", 1)]
    assert today not in project.materialized("beta")
    assert ask(project, at(today), min_age=600) == []
    project.deliver(today, "beta", "id,v\n2,x\n", tenant="bolt", age=3600)
    assert wanted(ask(project, at(today), min_age=600)) == [({"beta"}, a_day(today))]
    assert automatic_run(project, today, "beta").is_success
    assert project.query("SELECT _tenant FROM beta WHERE _business_date = %s ORDER BY 1", today) == [
        ("acme",), ("bolt",),
    ]  # fmt: skip
    assert today in project.materialized("beta")


# --- what never came ------------------------------------------------------------------------


def arrived(project: Project) -> tuple[bool, dict[str, Any]] | None:
    key = dg.AssetCheckKey(dg.AssetKey("gamma"), "arrived")
    with dg.DagsterInstance.get() as instance:
        record = instance.event_log_storage.get_latest_asset_check_execution_by_key([key]).get(key)
    if record is None or record.event is None:
        return None
    found = record.event.dagster_event.asset_check_evaluation_data
    return found.passed, {k: v.value for k, v in found.metadata.items()}


def missing(project: Project, day: date) -> list[tuple[Any, ...]]:
    return project.query(
        "SELECT type, tenant, detail FROM importer.missing WHERE business_date = %s ORDER BY 2", day
    )


def test_a_file_that_never_came_is_reported_once(project: Project, today: date):
    for tenant in ("acme", "bolt"):
        project.deliver(today - timedelta(days=1), "gamma", "id,alpha_id\n1,1\n", tenant=tenant)
    assert project.run(today - timedelta(days=1), types=["gamma"]).success
    project.deliver(today, "gamma", "id,alpha_id\n1,1\n", tenant="bolt")
    ask(project, at(today, 8, 29))  # it is expected by 08:30
    assert missing(project, today) == []
    ask(project, at(today, 8, 30))
    assert missing(project, today) == [("gamma", "acme", "no file is there")]
    found = arrived(project)
    assert found is not None
    passed, metadata = found
    assert (passed, metadata["missing"]) == (False, 1)
    assert f"| {today} | acme | 08:30 | no file is there |" in metadata["first"]
    [(before,)] = project.query("SELECT reported_at FROM importer.missing WHERE business_date = %s", today)
    ask(project, at(today, 9))
    after = project.query("SELECT reported_at FROM importer.missing WHERE business_date = %s", today)
    assert after == [(before,)]

    # it comes late: imported, and no longer missing
    project.deliver(today, "gamma", "id,alpha_id\n1,1\n")
    assert ask(project, at(today, 10), retry_after=0) != []
    assert automatic_run(project, today, "gamma").is_success
    with Warehouse(project.settings.warehouse_url or "").connect() as conn:
        assert arrivals.still_missing(conn, today) == []


def test_a_file_that_does_not_become_complete_is_reported_too(project: Project, today: date):
    project.deliver(today - timedelta(days=1), "gamma", "id,alpha_id\n1,1\n")
    assert project.run(today - timedelta(days=1), types=["gamma"]).success
    project.deliver(today, "gamma", "id,alpha_id\n1,1\n", age=0)
    ask(project, at(today, 9), min_age=600)
    [(_, tenant, detail)] = missing(project, today)
    assert tenant == "acme"
    assert detail.startswith(f"{today}/acme/gamma.csv is there, but it was changed")


def test_a_type_that_was_never_sent_is_not_missed(project: Project, today: date):
    ask(project, at(today, 23))
    assert missing(project, today) == []


def test_status_says_what_is_to_come(project: Project, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "200")
    now = datetime.now(UTC)
    today, yesterday = now.date(), now.date() - timedelta(days=1)
    project.deliver(yesterday - timedelta(days=1), "gamma", "id,alpha_id\n1,1\n", tenant="rare")
    assert project.run(yesterday - timedelta(days=1), types=["gamma"]).success
    project.deliver(yesterday, "alpha", "id,v\n1,a\n", tenant="new")
    project.deliver(today, "alpha", "id,v\n1,a\n", tenant="new", age=0)
    rows = {(r["type"], r["tenant"]): r for r in json.loads(project.importer("status", "--json"))}
    found = rows["alpha", "new"]
    assert (found["to_import"], found["waiting"], found["missing"]) == (1, 1, 0)
    assert found["deliveries"] == 0  # the ledger does not know it
    assert all(list(row) == list(found) for row in rows.values())
    assert rows["gamma", "rare"]["missing"] >= 1  # yesterday's
    assert "waiting" in project.importer("status")
    shutil.rmtree(project.root / "home" / "inbox" / yesterday.isoformat())
    shutil.rmtree(project.root / "home" / "inbox" / today.isoformat())


# --- a real daemon --------------------------------------------------------------------------


@contextmanager
def daemon(project: Project) -> Iterator[subprocess.Popen[bytes]]:
    """Dagster's daemon with the sensor, in a session of its own; killed at the end with all below it."""
    env = {
        **os.environ,
        "IMPORTER_ARRIVAL_INTERVAL": "1",
        "IMPORTER_SCHEDULE": "0 0 * * *",  # so that its time has come today
        "IMPORTER_MAX_RUNS": "2",
        "IMPORTER_CHECKS": "",
    }
    command = [sys.executable, "-m", "dagster._daemon", "run", "-w", str(PROJECT_ROOT / "workspace.yaml")]
    with (project.root / "daemon.log").open("ab") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def kill_all(pid: int) -> None:
    """As when the machine goes down: the daemon, its code server and the runs."""
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, 10)


def quiet(project: Project) -> bool:
    """Whether no run is waiting or running."""
    with dg.DagsterInstance.get() as instance:
        return not instance.get_runs(dg.RunsFilter(statuses=ACTIVE))


def most_at_once(project: Project, since: int) -> int:
    """The most runs of the sensor that were waiting or running at one time."""
    with dg.DagsterInstance.get() as instance:
        records = instance.get_run_records(dg.RunsFilter(tags={BY_SENSOR: "arrivals"}))
    spans = [(r.create_timestamp.timestamp(), r.end_time or time.time()) for r in records]
    assert len(spans) > since
    return max(sum(a <= begin < b for a, b in spans) for begin, _ in spans)


@pytest.mark.timeout(600)
def test_a_daemon_that_was_down_catches_up_exactly_once(project: Project):
    specs = project.root / "specs" / "own"
    for name in ("alpha", "beta"):  # the harm is for other tests
        (specs / f"{name}.yaml").write_text(
            (specs / f"{name}.yaml").read_text().replace("checks: [harm]", "")
        )
    today = datetime.now(UTC).date()
    days = [today - timedelta(days=n) for n in range(10, -1, -2)]  # with holes: a run for each
    for n, day in enumerate(days):
        project.deliver(day, "beta", f"id,v\n{n},x\n")
    project.deliver(days[0], "gamma", "id,alpha_id\n1,1\n")
    project.deliver(days[1], "alpha", "id,id\nrefused,1\n")

    def count(status: str) -> int:
        [(n,)] = project.query(
            "SELECT count(*) FROM importer.loads WHERE status = %s AND business_date >= %s", status, days[0]
        )
        return n

    def rows() -> list[tuple[Any, ...]]:
        if project.query("SELECT to_regclass('beta') IS NULL") == [(True,)]:
            return []
        return project.query("SELECT id, v FROM beta WHERE _business_date >= %s ORDER BY id", days[0])

    with daemon(project) as first:
        # some of it is imported, and a run is under way
        wait_for(lambda: 2 <= len(rows()) < len(days) and not quiet(project), 180)
        kill_all(first.pid)
    project.deliver(days[-1], "beta", "id,v\n100,late\n", suffix="_2")
    project.deliver(days[2], "beta", "id,v\n2,corrected\n")
    expected = [(0, "x"), (1, "x"), (2, "corrected"), (3, "x"), (4, "x"), (5, "x"), (100, "late")]
    with daemon(project):
        wait_for(lambda: rows() == expected and quiet(project), 240)
        time.sleep(8)  # more ticks: nothing else is asked for
        assert quiet(project)
        project.deliver(days[1], "beta", "id,v\n1,corrected last week\n")
        expected[1] = (1, "corrected last week")
        wait_for(lambda: rows() == expected and quiet(project), 240)
    assert rows() == expected
    assert count("refused") == 1
    in_force = project.query(
        "SELECT path, count(*) FROM importer.loads WHERE status = 'loaded' AND superseded_by IS NULL "
        "AND business_date >= %s GROUP BY path HAVING count(*) > 1",
        days[0],
    )
    assert in_force == []
    assert set(days) <= project.materialized("beta")
    # gamma came on one day, and is missing on all others since (today until 08:30)
    gone = {
        day for (day,) in project.query("SELECT business_date FROM importer.missing WHERE tenant = 'acme'")
    }
    assert {days[0] + timedelta(days=n) for n in range(1, 10)} <= gone
    assert most_at_once(project, 0) <= 2
    with dg.DagsterInstance.get() as instance:
        records = instance.get_run_records(dg.RunsFilter(tags={BY_SENSOR: "arrivals"}))
        asked = [
            (
                r.dagster_run.tags.get(PARTITION),
                *sorted(k.to_user_string() for k in r.dagster_run.asset_selection),
            )
            for r in records
            if RETRY not in r.dagster_run.tags
            and r.dagster_run.tags.get(PARTITION, "") >= days[0].isoformat()
        ]
    # each day of beta once, the two corrected ones and the late one at most twice
    assert len([a for a in asked if "beta" in a]) <= 6 + 3


def test_days_of_all_types_are_asked_for_at_once_as_dagster_answers_for_each(project: Project, today: date):
    keys = [dg.AssetKey(name) for name in ("alpha", "beta", "gamma", "nobody")]
    days = [str(today + timedelta(days=n)) for n in range(4)]
    with dg.DagsterInstance.get() as instance:

        def by_dagster() -> set[tuple[dg.AssetKey, str]]:
            return {
                (key, day) for key in keys for day in instance.get_materialized_partitions(key) if day in days
            }

        for key, day in ((keys[0], days[0]), (keys[0], days[2]), (keys[1], days[2]), (keys[1], days[2])):
            instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=day))
        expected = {(keys[0], days[0]), (keys[0], days[2]), (keys[1], days[2])}
        assert materialized(instance, keys, days) == by_dagster() == expected
        assert materialized(instance, keys, days[2:]) == expected - {(keys[0], days[0])}
        assert materialized(instance, keys, []) == set()
        instance.wipe_assets([keys[0]])
        assert materialized(instance, keys, days) == by_dagster() == {(keys[1], days[2])}
        instance.report_runless_asset_event(dg.AssetMaterialization(keys[0], partition=days[3]))
        assert materialized(instance, keys, days) == by_dagster() == {(keys[1], days[2]), (keys[0], days[3])}
