"""python -m pipelines.launch: the settings of a program, and where it runs."""

import pytest

from pipelines.launch import command_line

WHERE = ["local", "ray_job", "slurm", "k8s_job", "kuberay", "skypilot"]


@pytest.mark.parametrize("where", WHERE)
def test_a_dry_run_prints_and_touches_nothing(where, tmp_path, capsys):
    """The input need not exist here, and no output appears."""
    settings = [f"input={tmp_path}/no such photos", f"output={tmp_path}/out", "model=vit_h"]
    code = command_line([f"launch={where}", "launch.dry_run=true", *settings])
    printed, err = capsys.readouterr()

    assert (code, err) == (0, "")
    assert "no such photos" in printed
    assert list(tmp_path.iterdir()) == []


def test_the_same_command_has_the_same_id(capsys):
    """And another one another, so that a job is not taken for one of other settings."""
    ids = []
    for settings in (["limit=3"], ["limit=3"], ["limit=4"]):
        command_line(["launch=slurm", "launch.dry_run=true", *settings])
        ids.append(capsys.readouterr().out.splitlines()[1])

    assert ids[0].startswith("#SBATCH --job-name=annotate-")
    assert (ids[0] == ids[1], ids[0] == ids[2]) == (True, False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["launch=slurm", "points_per_side=3"], "there is no setting 'points_per_side'"),
        (["launch=slurm", "partition.index=3"], "partition.index is the launcher's to give"),
        (
            ["launch=slurms"],
            "launch is 'slurms'; choose from k8s_job, kuberay, local, ray_job, skypilot, slurm",
        ),
        (["launch=slurm", "launch.part=3"], "did you mean launch.parts?"),
        (["launch=ray_job", "executor=inline"], "launch=ray_job is for workers on Ray"),
        (["launch=skypilot"], "launch=skypilot renders only"),
        (["launch=local", "input=/no/such/photos"], "/no/such/photos"),
        (["launch.program=evaluate", "amg.points_per_sid=3"], "there is no setting 'amg.points_per_sid'"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys):
    """Exit code 2, before anything is submitted."""
    code = command_line(arguments)
    err = capsys.readouterr().err

    assert (code, err.count("\n")) == (2, 1), err
    assert message in err


@pytest.mark.parametrize(("where", "client"), [("slurm", "sbatch"), ("k8s_job", "kubectl")])
def test_what_is_printed_is_what_is_submitted(where, client, tmp_path, monkeypatch, capsys):
    """To the letter, to the cluster's own client; without one, a line says what to do."""
    settings = [f"launch={where}", "launch.parts=2", "input=photos"]
    monkeypatch.setenv("PATH", str(tmp_path))
    missing = command_line(settings)
    assert (missing, "is not installed here" in capsys.readouterr().err) == (1, True)

    (tmp_path / client).write_text(f"#!/bin/bash\n/bin/cat > {tmp_path}/given\necho 77\n")
    (tmp_path / client).chmod(0o755)
    assert command_line(settings) == 0
    assert "is submitted: 77" in capsys.readouterr().err
    command_line([*settings, "launch.dry_run=true"])
    assert (tmp_path / "given").read_text() == capsys.readouterr().out
