"""Cases on a Dask cluster: two worker processes of this machine, started once for all tests."""

import os
import pickle
import sys
import time
from functools import partial

import dask
import pytest
from distributed import Client, LocalCluster
from pool_work import misbehave, name_thread, write_late

from gpuprep.dicom import synth
from gpuprep.errors import BackendUnavailableError, ConfigError, OutputError
from gpuprep.hostlib import usable_cores
from gpuprep.run import cluster as cluster_module
from gpuprep.run.cluster import do_task, map_on_cluster, measure_workers
from gpuprep.run.local import Crash


@pytest.fixture(scope="module")
def scheduler():
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
    ):
        yield cluster.scheduler_address


def run(work, tasks, scheduler, folder, sent=None):
    on_send = sent.append if sent is not None else lambda task: None
    return map_on_cluster(work, tasks, scheduler=scheduler, folder=folder, on_send=on_send)


def test_all_workers_do_tasks_and_nothing_is_left(scheduler, tmp_path):
    sent = []
    results = dict(run(name_thread, range(8), scheduler, tmp_path, sent))
    assert sent == list(range(8)) == sorted(results)
    processes = {pid for _, pid in results.values()}
    assert len(processes) == 2 and os.getpid() not in processes
    assert list(tmp_path.iterdir()) == []


def test_a_crash_costs_its_task_alone(scheduler, tmp_path):
    tasks = ["a", "exit", "b", "raise", "c"]
    results = dict(run(misbehave, tasks, scheduler, tmp_path))
    assert {t for t in tasks if results[t] == t} == {"a", "b", "c"}
    assert isinstance(results["exit"], Crash) and results["exit"].code == "worker-killed"
    assert results["raise"].reason == "ValueError: told to"


def test_an_error_of_the_job_ends_it(scheduler, tmp_path):
    with pytest.raises(ConfigError) as caught:
        list(run(misbehave, ["a", "job", "b"], scheduler, tmp_path))
    assert caught.value.code == "wrong"
    assert list(tmp_path.iterdir()) == []


def test_what_runs_when_a_job_ends_is_waited_for_and_the_rest_is_not_begun(scheduler, tmp_path):
    outcomes = run(write_late, [tmp_path / name for name in "abcdef"], scheduler, tmp_path)
    next(outcomes)
    outcomes.close()
    written = sorted(p.name for p in tmp_path.iterdir())
    assert set(written) < set("abcdef")
    time.sleep(1.5)
    assert sorted(p.name for p in tmp_path.iterdir()) == written


def test_what_workers_do_for_a_driver_that_is_gone_is_waited_for(scheduler, tmp_path):
    (tmp_path / ".gone").write_bytes(pickle.dumps(write_late))
    with Client(scheduler, set_as_default=False) as gone:
        future = gone.submit(do_task, str(tmp_path / ".gone"), cluster_module.__version__, tmp_path / "old", pure=False)
        while not any(gone.run(cluster_module._count_tasks, str(tmp_path)).values()):
            time.sleep(0.01)
        ((_, beside),) = run(write_late, [tmp_path / "new"], scheduler, tmp_path)
        assert future.result() == "old"
    assert beside == "new,old"


def test_a_worker_that_does_not_see_the_output_refuses(scheduler, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster_module, "write_bytes", lambda path, content: None)
    with pytest.raises(OutputError) as caught:
        list(run(misbehave, ["a"], scheduler, tmp_path))
    assert caught.value.code == "output-not-shared"


def test_a_worker_of_another_version_refuses(scheduler, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster_module, "__version__", "0.0")
    with pytest.raises(BackendUnavailableError) as caught:
        list(run(misbehave, ["a"], scheduler, tmp_path))
    assert caught.value.code == "other-version"


def test_what_workers_cannot_make_out_ends_the_job(scheduler, tmp_path):
    class Local:
        def __call__(self, task):
            return task

    Local.__module__, Local.__qualname__ = "module_of_the_driver", "Local"
    module = type(sys)("module_of_the_driver")
    module.Local = Local
    sys.modules["module_of_the_driver"] = module
    try:
        with pytest.raises(BackendUnavailableError) as caught:
            list(run(Local(), ["a"], scheduler, tmp_path))
    finally:
        del sys.modules["module_of_the_driver"]
    assert caught.value.code == "cluster-failed"


def test_cores_are_shared_by_the_workers_of_a_machine(scheduler):
    assert measure_workers(scheduler) == (max(1, usable_cores() // 2), 1)


def test_a_worker_that_cannot_be_asked_is_told(scheduler, monkeypatch):
    monkeypatch.setattr(cluster_module, "usable_cores", partial(misbehave, "raise"))
    with pytest.raises(BackendUnavailableError) as caught:
        measure_workers(scheduler)
    assert caught.value.code == "cluster-failed"


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense"])
def test_a_scheduler_that_does_not_answer_is_told(address, monkeypatch):
    monkeypatch.setattr(cluster_module, "CONNECT_S", 0.5)
    with pytest.raises(BackendUnavailableError) as caught:
        measure_workers(address)
    assert caught.value.code == "cluster-unreachable"


def test_a_scheduler_without_workers_is_told(monkeypatch):
    monkeypatch.setattr(cluster_module, "FIRST_WORKER_S", 0.1)
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as cluster,
        pytest.raises(BackendUnavailableError) as caught,
    ):
        measure_workers(cluster.scheduler_address)
    assert caught.value.code == "no-workers"


def test_the_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigError) as caught:
        measure_workers("tcp://127.0.0.1:1")
    assert (caught.value.code, caught.value.hint) == ("extra-missing", 'pip install "gpuprep[dask]"')


def test_a_job_on_a_cluster_gives_the_files_of_one_machine(gpuprep, scheduler, tmp_path):
    synth.write_study(tmp_path / "in", patients=3)
    made = {}
    for name, extra in (("here", []), ("there", ["--scheduler", scheduler])):
        out = tmp_path / name
        result = gpuprep("nnunet", "-m", "CT,RTSTRUCT", "-ryaml", tmp_path / "in" / "roi_patterns.yaml", "-ms",
                         "region_mask", *extra, tmp_path / "in", out)  # fmt: skip
        assert result.status == 0, result.stderr
        data = [p for p in out.rglob("*") if p.is_file() and p.suffix not in (".sqlite", ".csv") and p.stem != "report"]
        made[name] = {p.relative_to(out): p.read_bytes() for p in data}
    assert made["here"] == made["there"]
    assert len(made["here"]) > 9
