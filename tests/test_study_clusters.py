"""A study on real clusters, a Slurm and a Ray of two nodes each on loopback, which outlive a driver."""

import _thread
import itertools
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import RECIPE
from inline_engine import do_all
from test_study_plan import STUDY
from test_study_running import DESIGN, at_work, outcomes, start, wait_for

from convnext_ablation.cli import main as cli
from convnext_ablation.errors import UserError
from convnext_ablation.study.clusters import RayCluster, Slurm, queue_of
from convnext_ablation.study.status import Survey
from convnext_ablation.study.store import (
    finished_epochs,
    holder_of,
    read_phases,
    save_phases,
)

SLURM = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
KillWait=2
MaxArraySize=4
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/controller.pid
SlurmdPidFile={folder}/node.%n.pid
SlurmctldLogFile={folder}/controller.log
SlurmdLogFile={folder}/node.%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=1
SlurmctldPort={ports[0]}
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
EPOCHS = 5
SLOW = pytest.mark.skipif(not os.environ.get("CONVNEXT_ABLATION_SLOW_TESTS"), reason="takes minutes")


@pytest.fixture
def arguments(image_folder, tmp_path):
    """A study of two networks whose runs take long enough to be disturbed."""
    (tmp_path / "design.yaml").write_text(DESIGN)
    (tmp_path / "long.yaml").write_text(RECIPE.replace("epochs: 2", f"epochs: {EPOCHS}"))
    given = [f"--data={image_folder}", f"--recipe={tmp_path / 'long.yaml'}", "--precision=float32"]
    given += [f"--design={tmp_path / 'design.yaml'}", "--seeds", "0", "--jobs=2"]
    return [*given, f"--output={tmp_path / 'study'}"]


def undisturbed(folder, like):
    save_phases(folder, read_phases(like))
    do_all(folder)
    return outcomes(folder)


def process_of(folder):
    """The process that does a run, and its job of Slurm, if one does it."""
    holder = holder_of(folder)
    found = re.search(r"process (\d+)(?:, Slurm job (\w+))?", holder.where) if holder else None
    return found and found.groups()


def stop_in_mid_run(folders):
    """Stops the processes of two runs as soon as they have finished an epoch each, and returns them."""
    stopped = {}
    while len(stopped) < 2:
        new = wait_for(lambda: [each for each in folders() if each not in stopped and is_in_mid_run(each)])
        for each in new:
            stopped[each] = process_of(each)
            assert stopped[each]
            os.kill(int(stopped[each][0]), signal.SIGSTOP)
            assert not (each / "result.json").exists()
    return stopped


def is_in_mid_run(folder):
    return finished_epochs(folder)[0] > 0 and process_of(folder)


def epochs_after(folder):
    """How many epochs are left for the next process of a run, as soon as the last one has ended."""
    wait_for(lambda: not holder_of(folder))
    return EPOCHS - finished_epochs(folder)[0]


def epochs_done(folder):
    """How many epochs the last process of each run has trained."""
    results = {path.parent: json.loads(path.read_text()) for path in folder.glob("*/*/result.json")}
    return {each: result["elapsed_epochs"] for each, result in results.items()}


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    pytest.importorskip("submitit")
    tools = ("slurmctld", "slurmd", "munged", "mungekey", "sbatch")
    if not all(map(shutil.which, tools)) or os.geteuid() != 0:
        pytest.skip("needs root, and Debian's slurm-wlm and munge: `make slurm-test` installs them")
    folder = tmp_path_factory.mktemp("slurm")
    (folder / "state").mkdir()
    host = platform.node().partition(".")[0]
    (folder / "slurm.conf").write_text(SLURM.format(folder=folder, host=host, ports=free_ports(3)))
    if subprocess.run(["munge", "-n"], capture_output=True).returncode:
        Path("/run/munge").mkdir(exist_ok=True)
        if not Path("/etc/munge/munge.key").exists():
            subprocess.run(["mungekey", "--create"], check=True)
        subprocess.run(["chown", "munge", "/run/munge", "/etc/munge/munge.key"], check=True)
        subprocess.run(["runuser", "-u", "munge", "--", "/usr/sbin/munged"], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        patch.setenv("OMP_NUM_THREADS", "1")
        for command in (["slurmctld"], ["slurmd", "-N", "n1"], ["slurmd", "-N", "n2"]):
            subprocess.run(command, check=True)
        wait_for(lambda: ask("sinfo", "-h", "-o", "%T") == ["idle"])
        yield
        ask("scancel", "--me")
        for path in folder.glob("*.pid"):
            os.kill(int(path.read_text()), 15)


def free_ports(count):
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def ask(*command):
    return subprocess.run(command, capture_output=True, text=True).stdout.split()


def array_id(job):
    """What Slurm calls a job of an array, which some of its commands want."""
    listed = ask("squeue", "-h", "-r", "-o", "%A|%i")
    return next((line.partition("|")[2] for line in listed if line.startswith(f"{job}|")), None)


def begin_again(job):
    """Has a job that was put back into the queue begin now, and not in two minutes."""
    wait_for(lambda: job in ask("squeue", "-h", "-r", "-t", "PD", "-o", "%i"))
    ask("scontrol", "update", f"jobid={job}", "starttime=now", "timelimit=9")


def disturb(folder):
    """Has a job reach its time limit, ends one by scancel, and takes the node of another.

    Returns:
        Epochs that were left for the next process of each of the three runs.
    """
    (limited, (_, number)), (_, (second, _)) = stop_in_mid_run(lambda: folder.glob("tuning/*")).items()
    job = array_id(number)
    os.kill(int(second), signal.SIGCONT)
    ask("scontrol", "update", f"jobid={job}", "timelimit=1")
    left = {limited: epochs_after(limited)}  # Slurm has it go on where it was stopped, to save that
    begin_again(job)
    stopped = stop_in_mid_run(lambda: folder.glob("runs/*"))
    (cancelled, (_, number)), (lost, (_, lost_number)) = stopped.items()
    job = array_id(lost_number)
    ask("scancel", array_id(number))
    (node,) = ask("squeue", "-h", "-r", "-j", job, "-o", "%N")
    ask("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    left |= {cancelled: epochs_after(cancelled), lost: epochs_after(lost)}
    begin_again(job)  # at the other node
    wait_for(lambda: holder_of(lost))
    ask("scontrol", "update", f"nodename={node}", "state=resume")
    return left


def while_the_driver_works(disturbing, *given):
    """Does something in a thread; if that fails, the driver, which would wait for ever, is interrupted."""
    try:
        return disturbing(*given)
    except BaseException:
        _thread.interrupt_main()
        raise


def watch(over):
    """How many jobs run at the same time, until it is over."""
    most = 0
    while not over.wait(0.5):
        most = max(most, len(ask("squeue", "-h", "-r", "-t", "R", "-o", "%i")))
    return most


def test_a_study_on_slurm_ends_complete_whatever_ends_its_jobs_and_its_driver(
    slurm, arguments, tmp_path, capfd
):
    folder, over = tmp_path / "study", threading.Event()
    arguments += ["--engine=slurm", "--tune", "lr=0.002,0.004"]
    first = start(*arguments)
    wait_for(lambda: ask("squeue", "-h", "-r", "-o", "%r").count("Dependency") == 2, first)
    assert len(ask("squeue", "-h", "-r", "-o", "%i")) == 6
    assert queue_of(folder) in ("2 running, 4 pending", "4 pending, 2 running", "6 pending")
    first.kill()
    first.communicate()
    with ThreadPoolExecutor(2) as threads:
        watching = threads.submit(watch, over)
        disturbing = threads.submit(while_the_driver_works, disturb, folder)
        code = cli.main(["study", *arguments])
        over.set()
        left = disturbing.result()
    assert code == 0
    assert watching.result() == 2, "the limit of jobs at a time"
    assert "[6/6]" in capfd.readouterr().out
    done = epochs_done(folder)
    assert done == dict.fromkeys(done, EPOCHS) | left, "no epoch is trained twice"
    assert all(epochs < EPOCHS for epochs in left.values()), "what is interrupted resumes"
    assert len(list((folder / "slurm").glob("*_submission.sh"))) == 3, "only what was cancelled is new"
    assert outcomes(folder) == undisturbed(tmp_path / "undisturbed", folder)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("partition=nowhere", "sbatch: error: invalid partition specified: nowhere"),
        ("gpus=1", "sbatch: error: "),
        ("gpu", "sbatch: option '--gpu' is ambiguous"),
    ],
)
def test_what_slurm_refuses_is_one_line_in_its_own_words(slurm, arguments, tmp_path, capfd, option, message):
    assert cli.main(["study", *arguments, "--engine=slurm", "--sbatch", option]) == 2
    error = capfd.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert ask("squeue", "-h") == []
    assert not (tmp_path / "study").exists()


def test_what_slurm_refuses_later_loses_no_run(slurm, tmp_path, capfd):
    study = SimpleNamespace(device="cpu", threads=1, processes=1)
    runs = Survey([replace(STUDY, seeds=[0])], tmp_path).look()
    engine = Slurm(study, tmp_path, None, ["hold"])
    assert engine.submit(runs) == runs[:2], "an array of all is too large here"
    ask("scontrol", "update", "partitionname=test", "state=drain")
    with pytest.raises(UserError, match=r"^--engine slurm: sbatch: error: .*not available"):
        engine.submit(runs)
    ask("scontrol", "update", "partitionname=test", "state=up")
    assert Slurm(study, tmp_path, None, ["hold"]).submit(runs) == runs
    assert len(ask("squeue", "-h", "-r", "-o", "%i")) == 5
    ask("scancel", "--me")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("printed", ["echo slurm_load_jobs error: Zero Bytes", "exit 1", r"printf '\\377'"])
def test_a_squeue_that_fails_ends_neither_a_driver_at_once_nor_a_status(tmp_path, monkeypatch, printed):
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text(f"#!/bin/sh\n{printed}\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{squeue.parent}:{os.environ['PATH']}")
    (tmp_path / "slurm").mkdir()
    assert queue_of(tmp_path) == "no answer"
    engine = Slurm.__new__(Slurm)
    engine.name, engine._ids, engine._answered = "study", {"first": "1_0"}, time.monotonic()
    assert engine.wait(0) == []
    engine._answered -= 10_000
    with pytest.raises(UserError, match="--engine slurm: "):
        engine.wait(0)
    squeue.write_text("#!/bin/sh\ncase $* in *all*) exit 1;; esac\n")
    ((task, how),) = engine.wait(0)
    assert (task, how) == ("first", "its job 1_0 of Slurm ended without a result (unknown)")


def test_a_ray_that_is_gone_is_one_line():
    def gone(*_, **__):
        raise ConnectionError("GCS\nis gone")

    engine = RayCluster.__new__(RayCluster)
    engine._ray = SimpleNamespace(wait=gone, shutdown=gone)
    engine._actor = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=gone))
    engine._at_work, engine._jobs, engine._prefix = {"reference": ("task", None)}, 2, "study-"
    with pytest.raises(UserError, match=r"no longer answers \(GCS is gone\); when it does, the same command"):
        engine.wait(0)
    with pytest.raises(UserError, match="no longer answers"):
        engine.submit(Survey([STUDY], Path("a")).look())
    engine.cancel()


def test_an_engine_that_is_not_here_is_named_with_what_to_install(arguments, tmp_path, monkeypatch, capsys):
    for engine in ("submitit", "ray"):
        monkeypatch.setitem(sys.modules, engine, None)
    for engine, extra in (("slurm", "submitit"), ("ray", "ray")):
        assert cli.main(["study", *arguments, f"--engine={engine}"]) == 2
        error = capsys.readouterr().err
        assert f"{extra} is missing; pip install 'convnext_ablation[{engine}]'" in error
    assert not (tmp_path / "study").exists()


@pytest.fixture(scope="module")
def cluster():
    pytest.importorskip("ray", reason="needs the extra `ray`")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        patch.setenv("RAY_worker_niceness", "0")  # or other tests would take its processor
        patch.setenv("OMP_NUM_THREADS", "1")
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        yield made
        made.shutdown()


def lose_a_node(cluster, node, folder):
    """Takes a node of Ray's in mid-run; epochs that were left for the next process of its run."""
    stopped = stop_in_mid_run(lambda: folder.glob("runs/*"))
    cluster.remove_node(node, allow_graceful=False)
    for process, _ in stopped.values():
        os.kill(int(process), signal.SIGCONT)
    (lost,) = wait_for(
        lambda: [
            each
            for each, (process, _) in stopped.items()
            if not Path(f"/proc/{process}").exists() and not (each / "result.json").exists()
        ]
    )
    return {lost: EPOCHS - finished_epochs(lost)[0]}


def test_a_study_on_ray_ends_complete_whatever_ends_a_node_and_its_driver(
    cluster, arguments, tmp_path, capfd
):
    folder = tmp_path / "study"
    node = cluster.add_node(num_cpus=1)
    arguments += ["--engine=ray", f"--ray-address={cluster.address}"]
    first = start(*arguments)
    wait_for(lambda: len(at_work(folder)) == 2, first)
    before = at_work(folder)
    first.kill()
    first.communicate()
    assert at_work(folder) == before
    with ThreadPoolExecutor(1) as threads:
        losing = threads.submit(while_the_driver_works, lose_a_node, cluster, node, folder)
        code = cli.main(["study", *arguments])
        left = losing.result()
    assert code == 0
    assert "[2/2]" in capfd.readouterr().out
    done = epochs_done(folder)
    assert done == dict.fromkeys(done, EPOCHS) | left, "no epoch is trained twice"
    assert sorted(done.values())[0] < EPOCHS, "what is interrupted resumes"
    assert outcomes(folder) == undisturbed(tmp_path / "undisturbed", folder)


def test_a_cluster_that_does_not_answer_or_has_no_gpus_is_one_line(cluster, arguments, tmp_path, capfd):
    assert cli.main(["study", *arguments, "--engine=ray", "--ray-address=127.0.0.1:1"]) == 2
    assert "--ray-address 127.0.0.1:1: no cluster of Ray answers there" in capfd.readouterr().err
    given = [*arguments, "--engine=ray", f"--ray-address={cluster.address}", "--device=cuda"]
    assert cli.main(["study", *given]) == 2
    assert "the cluster has room for 0 runs of 1 GPU each; add a node" in capfd.readouterr().err
    assert not (tmp_path / "study").exists()


@SLOW
@pytest.mark.parametrize("engine", ["slurm", "ray"])
def test_processes_of_a_run_that_is_killed_end_and_resume(engine, request, arguments, tmp_path):
    folder, made = tmp_path / "study", request.getfixturevalue({"ray": "cluster"}.get(engine, engine))
    arguments += [f"--engine={engine}", "--gpus-per-run=2", "--jobs=1"]
    if engine == "ray":
        made.add_node(num_cpus=2)
        arguments.append(f"--ray-address={made.address}")
    driver = start(*arguments)
    killed = wait_for(lambda: next(filter(is_in_mid_run, folder.glob("runs/*")), None), driver)
    os.kill(int(process_of(killed)[0]), signal.SIGKILL)
    left = epochs_after(killed)
    assert driver.wait() == 0
    assert not ask("pgrep", "-f", str(folder))
    assert epochs_done(folder)[killed] == left < EPOCHS
    assert outcomes(folder) == undisturbed(tmp_path / "undisturbed", folder)


PHASES = """
general: {data: letters, recipe: RECIPE, seeds: [0]}
fine: {data: birds, recipe: RECIPE, start: general, seeds: [0]}
finer: {data: dogs, recipe: RECIPE, start: general, seeds: [1]}
"""


@pytest.fixture
def experiment(image_folder, recipe_file, tmp_path):
    """Two networks in three phases: six runs, four of which start from the others, without a test split."""
    shutil.copytree(image_folder, tmp_path / "letters", ignore=shutil.ignore_patterns("test"))
    (tmp_path / "design.yaml").write_text(DESIGN)
    phases = "".join(f"  {line}\n" for line in PHASES.replace("RECIPE", str(recipe_file)).splitlines())
    (tmp_path / "mine.yaml").write_text(f"design: {tmp_path / 'design.yaml'}\nphases:\n{phases}")
    shutil.copytree(image_folder, tmp_path / "dogs")  # one folder under two names is refused
    data = [f"letters={tmp_path / 'letters'}", f"birds={image_folder}", f"dogs={tmp_path / 'dogs'}"]
    return ["run", str(tmp_path / "mine.yaml"), f"--output={tmp_path / 'study'}", "--data", *data]


def tasks_of_jobs(folder):
    """What each job does, by its id, and which jobs it waits for."""
    from submitit.core.utils import DelayedSubmission

    waits = [line.partition("|") for line in ask("squeue", "-h", "-r", "-o", "%i|%E")]
    after = {job: re.findall(r"afterany:(\d+(?:_[\d*]+)?)", reason) for job, _, reason in waits}
    path = "{}/slurm/{}_submitted.pkl"
    tasks = {job: DelayedSubmission.load(path.format(folder, job)).function.task for job in after}
    return {task: sorted(tasks.get(each, each) for each in after[job]) for job, task in tasks.items()}


@SLOW
def test_on_slurm_fine_tuning_waits_for_its_own_pre_training_only(slurm, experiment, tmp_path):
    folder, networks = tmp_path / "study", ("model_i_atto", "kernel_5_atto")
    first = start(*experiment, "--engine=slurm", "--sbatch", "hold")
    wait_for(lambda: len(ask("squeue", "-h", "-r", "-o", "%i")) == 6, first)
    first.kill()
    first.communicate()
    expected = {f"general.{network}-seed0": [] for network in networks}
    for network, of in itertools.product(networks, ("fine.{}-seed0-from0", "finer.{}-seed1-from0")):
        expected[of.format(network)] = [f"general.{network}-seed0"]
    assert tasks_of_jobs(folder) == expected
    ask("scontrol", "release", ",".join(ask("squeue", "-h", "-o", "%A")))
    assert cli.main(["study", *experiment, "--engine=slurm"]) == 0
    assert len(outcomes(folder)) == 6
    assert outcomes(folder) == undisturbed(tmp_path / "undisturbed", folder)
    assert len(list((folder / "slurm").glob("*_submission.sh"))) == 3, "no run is submitted twice"


@SLOW
def test_phases_on_slurm_keep_the_limit_of_jobs(slurm, experiment, tmp_path):
    over = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        watching = threads.submit(watch, over)
        code = cli.main(["study", *experiment, "--engine=slurm", "--jobs=1"])
        over.set()
    assert code == 0
    assert watching.result() == 1
    assert outcomes(tmp_path / "study") == undisturbed(tmp_path / "undisturbed", tmp_path / "study")


@SLOW
def test_phases_on_ray_end_complete(cluster, experiment, tmp_path):
    given = ["--engine=ray", f"--ray-address={cluster.address}"]
    assert cli.main(["study", *experiment, *given]) == 0
    assert len(outcomes(tmp_path / "study")) == 6
    assert outcomes(tmp_path / "study") == undisturbed(tmp_path / "undisturbed", tmp_path / "study")
