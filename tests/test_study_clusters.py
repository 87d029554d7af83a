"""A study on real clusters, a Slurm and a Ray of two nodes each on loopback, which outlive a driver."""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import RECIPE
from inline_engine import do_all
from test_study_running import DESIGN, outcomes, start, wait_for, working

from convnext_ablation.cli import main as cli
from convnext_ablation.study.store import holder_of, read_study, save_study

SLURM = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
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
ReturnToService=2
SlurmctldPort={ports[0]}
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture
def arguments(image_folder, tmp_path):
    """A study of two networks whose runs take long enough to be disturbed."""
    (tmp_path / "design.yaml").write_text(DESIGN)
    (tmp_path / "long.yaml").write_text(RECIPE.replace("epochs: 2", "epochs: 10"))
    given = [f"--data={image_folder}", f"--recipe={tmp_path / 'long.yaml'}", "--precision=float32"]
    return [*given, f"--design={tmp_path / 'design.yaml'}", f"--output={tmp_path / 'study'}"]


def undisturbed(folder, like):
    save_study(folder, read_study(like))
    do_all(folder)
    return outcomes(folder)


def slurm_is_here():
    tools = ("slurmctld", "slurmd", "munged", "mungekey", "sbatch")
    return hasattr(os, "geteuid") and os.geteuid() == 0 and all(shutil.which(tool) for tool in tools)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    pytest.importorskip("submitit")
    if not slurm_is_here():
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
        limit = time.monotonic() + 30
        while ask("sinfo", "-h", "-o", "%T") != ["idle"]:
            assert time.monotonic() < limit, (folder / "controller.log").read_text()
            time.sleep(0.2)
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


def test_slurm_does_what_it_has_when_the_driver_is_killed_and_requeues_what_it_interrupts(
    slurm, arguments, tmp_path, capfd
):
    folder = tmp_path / "study"
    arguments += ["--engine=slurm", "--tune", "lr=0.002,0.004", "--seeds", "0"]
    first = start(*arguments)
    waiting = ["squeue", "-h", "-r", "-o", "%i", "-t"]
    wait_for(lambda: len(ask(*waiting, "PD,R")) == 6, first)
    first.kill()
    first.communicate()
    tuning = wait_for(lambda: list(folder.glob("tuning/*/summary.csv")))
    wait_for(lambda: len(tuning[0].read_text().splitlines()) > 3)
    job = holder_of(tuning[0].parent).where.partition("Slurm job ")[2].rstrip(")")
    ask("scancel", "--signal=USR2", job)  # as before a time limit
    listed = ("squeue", "-h", "-r", "-t", "PD", "-o", "%A|%i")
    for each in wait_for(lambda: [line for line in ask(*listed) if line.startswith(f"{job}|")]):
        ask("scontrol", "update", f"jobid={each.partition('|')[2]}", "starttime=now")
    assert cli.main(["study", *arguments]) == 0
    assert "[6/6]" in capfd.readouterr().out
    assert len(list((folder / "slurm").glob("*_submission.sh"))) == 2, "nothing is submitted twice"
    epochs = [json.loads(path.read_text())["elapsed_epochs"] for path in folder.glob("*/*/result.json")]
    assert sorted(epochs)[1:] == [10] * 5, "one resumed; no other was trained twice"
    assert sorted(epochs)[0] < 10
    assert outcomes(folder) == undisturbed(tmp_path / "undisturbed", folder)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("partition=nowhere", "sbatch: error: invalid partition specified: nowhere"),
        ("gpus=1", "sbatch: error: "),
        ("gpu", "--sbatch gpu: write KEY=VALUE"),
    ],
)
def test_what_slurm_refuses_is_one_line_in_its_own_words(slurm, arguments, tmp_path, capfd, option, message):
    assert cli.main(["study", *arguments, "--engine=slurm", "--sbatch", option, "--seeds", "0"]) == 2
    error = capfd.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert ask("squeue", "-h") == []


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
        patch.setenv("OMP_NUM_THREADS", "1")
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        made.add_node(num_cpus=1)
        yield made
        made.shutdown()


def test_ray_does_what_it_has_when_the_driver_is_killed(cluster, arguments, tmp_path, capfd):
    folder = tmp_path / "study"
    arguments += ["--engine=ray", f"--ray-address={cluster.address}", "--seeds", "0"]
    first = start(*arguments)
    at_work = wait_for(lambda: len(working(folder)) == 2 and sorted(working(folder)), first)
    first.kill()
    first.communicate()
    assert sorted(working(folder)) == at_work
    assert cli.main(["study", *arguments]) == 0
    assert "[2/2]" in capfd.readouterr().out
    results = [json.loads(path.read_text()) for path in folder.glob("runs/*/result.json")]
    assert [result["elapsed_epochs"] for result in results] == [10, 10], "nothing is trained twice"
    assert outcomes(folder) == undisturbed(tmp_path / "undisturbed", folder)


def test_a_cluster_that_does_not_answer_or_has_no_gpus_is_one_line(cluster, arguments, tmp_path, capfd):
    begun = time.monotonic()
    assert cli.main(["study", *arguments, "--engine=ray", "--ray-address=127.0.0.1:1"]) == 2
    assert "--ray-address 127.0.0.1:1: no cluster of Ray answers there" in capfd.readouterr().err
    given = [*arguments, "--engine=ray", f"--ray-address={cluster.address}", "--device=cuda"]
    assert cli.main(["study", *given]) == 2
    assert "the cluster has room for 0 runs of 1 GPU each; add a node" in capfd.readouterr().err
    assert time.monotonic() - begun < 40
    assert not (tmp_path / "study").exists()
