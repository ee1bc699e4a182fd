"""What torchrun, SLURM and others say of the processes of a run."""

from __future__ import annotations

import pytest

from mdae.errors import ConfigError
from mdae.training.launch import launch
from mdae.training.place import Place, find_place, first_host, without_place
from tests.conftest import short_run

STEP = {"SLURM_STEP_ID": "0", "SLURM_JOB_ID": "123456", "SLURM_STEP_NODELIST": "gpu[07-09,12]"}


def test_nobody_started_several():
    assert find_place({}) == Place()
    assert find_place({"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_JOB_ID": "7"}) == Place()


def test_torchrun_says_where_a_process_is():
    said = {
        "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "node0",
        "MASTER_PORT": "29501", "SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_STEP_ID": "0",
    }  # fmt: skip
    assert find_place(said) == Place(5, 8, 1, 4, "node0", 29501, "torchrun")


def test_a_pod_that_knows_its_rank_alone_is_one_process_of_its_machine():
    said = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "job-master-0", "MASTER_PORT": "23456"}
    assert find_place(said) == Place(1, 2, 0, 1, "job-master-0", 23456, "torchrun")


@pytest.mark.parametrize("per_node", [{}, {"SLURM_NTASKS_PER_NODE": "4"}])
def test_srun_says_where_a_task_is_whether_tasks_were_given_by_machine_or_not(per_node):
    said = {**STEP, "SLURM_NTASKS": "16", "SLURM_NNODES": "4", "SLURM_PROCID": "6", "SLURM_LOCALID": "2"}
    place = find_place({**said, **per_node})
    assert (place.rank, place.size, place.local_rank, place.local_size) == (6, 16, 2, 4)
    assert place.address == "gpu07" and 15000 <= place.port < 30000


@pytest.mark.parametrize(
    ("said", "mend"),
    [
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_JOB_ID": "1"}, "write srun before mdae"),
        ({**STEP, "SLURM_NTASKS": "6", "SLURM_NNODES": "4", "SLURM_PROCID": "1"}, "ntasks-per-node"),
        ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "0"}, "use torchrun or srun"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "start it with torchrun"),
        ({"RANK": "first", "WORLD_SIZE": "2", "MASTER_ADDR": "a"}, "no number"),
    ],
)
def test_what_does_not_fit_is_one_line(said, mend):
    with pytest.raises(ConfigError, match=mend):
        find_place(said)


def test_devices_that_are_not_those_that_were_started_are_refused(store, tmp_path, monkeypatch):
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_WORLD_SIZE", "1")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="leave --devices out"):
        launch(short_run(store, tmp_path, devices=2))


@pytest.mark.parametrize(
    ("names", "first"),
    [
        ("node1", "node1"),
        ("gpu[07-09,12],big1", "gpu07"),
        ("a,b", "a"),
        ("r1n[3]", "r1n3"),
        ("hpc-[1-2]-ib", "hpc-1-ib"),
        ("10.0.0.1", "10.0.0.1"),
    ],
)
def test_the_first_machine_of_a_list(names, first):
    assert first_host(names) == first


def test_an_environment_for_a_process_of_its_own():
    said = {"RANK": "1", "WORLD_SIZE": "2", "SLURM_NTASKS": "4", "SLURM_STEP_ID": "0", "HOME": "/root"}
    assert find_place(without_place(said)) == Place() and without_place(said)["HOME"] == "/root"
