"""What launchers render, run by a shell or held against the schemas of who is to read it."""

import copy
import gzip
import json
import os
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import kubernetes_validate
import pytest
import yaml

from sam_engine.cluster import kubernetes, ray_job, skypilot, slurm
from sam_engine.cluster.launch_config import Launch, LaunchConfig
from sam_engine.errors import ConfigError, LaunchError

SCHEMA = Path(__file__).parents[2].parent / "shared" / "schemas" / "kuberay_rayjob_v1.7.0_openapi.json.gz"
KUBERNETES = "1.33"


def launch_of(name, arguments=("input=/data/my photos", "output=/data/out"), **settings):
    config = LaunchConfig(name=name, **settings)
    return Launch(id="annotate-0123abcd", arguments=arguments, directory="/", config=config)


def script_at_work(tmp_path, driver, *, parts=4, index=2):
    """Start a rendered script with a driver and a ``scontrol`` that write down how they are called."""
    tools = {
        "python": f'#!/bin/bash\necho "$@" > {tmp_path}/arguments\n{driver}\n',
        "scontrol": f'#!/bin/bash\necho "$@" >> {tmp_path}/called\n',
    }
    for name, text in tools.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    script = slurm.render(launch_of("slurm", parts=parts, python=str(tmp_path / "python")))
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    env |= {"SLURM_ARRAY_TASK_ID": str(index), "SLURM_JOB_ID": "77"}
    (tmp_path / "script").write_text(script.replace("sleep 30", "sleep 0"))
    return subprocess.Popen(["bash", tmp_path / "script"], env=env, stdout=subprocess.PIPE, text=True)


WAITING = "trap 'kill $!; exit 143' TERM; sleep 60 >/dev/null & echo ready; wait"


def test_a_task_of_an_array_makes_its_part(tmp_path):
    """Its index is that of the task; the number of parts is written out, as one task may be run alone."""
    with script_at_work(tmp_path, "exit 0") as script:
        assert script.wait(30) == 0

    expected = (
        "-m sam_engine annotate input=/data/my photos output=/data/out partition.index=2 partition.count=4"
    )
    assert (tmp_path / "arguments").read_text() == expected + "\n"


@pytest.mark.parametrize("code", [0, 2, 3])
def test_the_exit_code_of_a_task_is_the_drivers(tmp_path, code):
    """Slurm's accounting then says how it went; nothing is started again by itself."""
    with script_at_work(tmp_path, f"exit {code}") as script:
        assert script.wait(30) == code
    assert not (tmp_path / "called").exists()


@pytest.mark.parametrize(("number", "calls"), [(signal.SIGUSR1, "requeue 77\n"), (signal.SIGTERM, None)])
def test_a_driver_is_stopped_before_the_limit_and_queued_again(tmp_path, number, calls):
    """It is asked by SIGTERM and waited for. A task that was cancelled stays so."""
    with script_at_work(tmp_path, WAITING) as script:
        script.stdout.readline()
        script.send_signal(number)
        code = script.wait(30)

    log = tmp_path / "called"
    assert (code, log.read_text() if log.exists() else None) == (143, calls)


def test_what_slurm_is_asked_for():
    """The options that the array stands on, and the user's own."""
    script = slurm.render(launch_of("slurm", parts=8, gpus=1, stop_before_s=90, options=["--account=vision"]))
    options = [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH")]

    wanted = {"--array=0-7", "--signal=B:USR1@90", "--requeue", "--gres=gpu:1", "--account=vision"}
    assert wanted <= set(options)


def job(**settings):
    settings = {"parts": 8, "gpus": 1, "volumes": ["data:/data"], "directory": "/work"} | settings
    return yaml.safe_load(kubernetes.render_job(launch_of("k8s_job", **settings)))


def validate_job(document):
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_an_indexed_job_is_valid():
    """Strictly, by the schema of Kubernetes."""
    validate_job(job())


@pytest.mark.parametrize(
    "path",
    [
        "spec.completionMode",
        "spec.backoffLimitPerIndex",
        "spec.template.spec.restartPolicy",
        "spec.podFailurePolicy",
    ],
)
def test_a_typo_in_an_indexed_job_is_caught(path):
    """Kubernetes would drop the field without a word; the schema does not."""
    with pytest.raises(kubernetes_validate.ValidationError):
        validate_job(misspelt(job(), path))


def misspelt(document, path):
    """Return a document in which one key has a letter too many."""
    changed = copy.deepcopy(document)
    *parents, key = path.split(".")
    node = changed
    for parent in parents:
        node = node[parent]
    node[f"{key}s"] = node.pop(key)
    return changed


def test_a_pod_of_an_indexed_job_makes_its_part():
    """By the variable that Kubernetes gives it; what looks like one in a path is no variable."""
    launch = launch_of("k8s_job", ["input=/data/$(HOME)"], parts=3)
    document = yaml.safe_load(kubernetes.render_job(launch))
    [container] = document["spec"]["template"]["spec"]["containers"]

    assert container["command"][2] == (
        "exec python -m sam_engine annotate 'input=/data/$$(HOME)' "
        'partition.index="$JOB_COMPLETION_INDEX" partition.count=3'
    )


def ray_job_document():
    launch = launch_of("kuberay", workers=4, gpus=1, volumes=["data:/data", "data:/more"])
    return yaml.safe_load(kubernetes.render_ray_job(launch))


def validate_ray_job(document):
    """Check against KubeRay's schema, in which fields that it does not know are then errors."""
    if not SCHEMA.exists():
        pytest.skip(f"KubeRay's schema is not at {SCHEMA}")
    schema = json.loads(gzip.decompress(SCHEMA.read_bytes()))
    jsonschema.validate(document, _closed(schema))


def _closed(schema):
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    is_open = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not is_open:
        closed["additionalProperties"] = False
    return closed


def test_a_ray_job_is_valid():
    """Strictly, by the schema of KubeRay 1.7."""
    validate_ray_job(ray_job_document())


@pytest.mark.parametrize(
    "path", ["spec.entrypoint", "spec.shutdownAfterJobFinishes", "spec.rayClusterSpec.headGroupSpec.template"]
)
def test_a_typo_in_a_ray_job_is_caught(path):
    """As in a Job."""
    with pytest.raises(jsonschema.ValidationError):
        validate_ray_job(misspelt(ray_job_document(), path))


def test_a_ray_job_keeps_the_operators_own_rules():
    """Which no schema has: tokens want Ray 2.52; resources are said once; the head does no work."""
    spec = ray_job_document()["spec"]
    cluster = spec["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]

    assert cluster["authOptions"] == {"mode": "token"}
    assert tuple(map(int, cluster["rayVersion"].split(".")[:2])) >= (2, 52)
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    assert all("resources" not in group for group in groups)
    assert not {"clusterSelector", "submitterPodTemplate", "submitterConfig"} & spec.keys()
    assert spec["submissionMode"] == "K8sJobMode"


def test_a_node_of_skypilot_makes_its_part():
    """A driver a node."""
    task = yaml.safe_load(skypilot.render(launch_of("skypilot", parts=3, gpus=2, accelerator="H100")))

    assert (task["num_nodes"], task["resources"]["accelerators"]) == (3, "H100:2")
    assert task["run"].endswith('partition.index="$SKYPILOT_NODE_RANK" partition.count=3\n')


class FakeCluster:
    """A client of Ray's jobs: each attempt ends with the next of these codes."""

    def __init__(self, *codes, there=()):
        self.codes, self.submitted, self.stopped = list(codes), [], []
        self.jobs = {id: SimpleNamespace(submission_id=id, status=status) for id, status in there}

    def list_jobs(self):
        return list(self.jobs.values())

    def submit_job(self, *, entrypoint, submission_id, runtime_env):
        assert submission_id not in self.jobs
        self.submitted.append(submission_id)
        self.jobs[submission_id] = SimpleNamespace(submission_id=submission_id, status="RUNNING")

    async def tail_job_logs(self, id):
        code = self.codes.pop(0)
        if isinstance(code, BaseException):
            raise code
        self.jobs[id] = SimpleNamespace(
            submission_id=id, status="FAILED" if code else "SUCCEEDED", driver_exit_code=code
        )
        yield "a line of its log\n"

    def get_job_info(self, id):
        return self.jobs[id]

    def stop_job(self, id):
        self.stopped.append(id)


@pytest.mark.parametrize(
    ("cluster", "code", "submitted"),
    [
        pytest.param(FakeCluster(-9, 0), 0, [1, 2], id="killed, then done"),
        pytest.param(FakeCluster(2), 2, [1], id="a bad setting"),
        pytest.param(FakeCluster(-9, -9, -9), -9, [1, 2, 3], id="killed every time"),
        pytest.param(
            FakeCluster(0, there=[("annotate-0123abcd-1", "FAILED")]), 0, [2], id="an id is used once"
        ),
        pytest.param(FakeCluster(0, there=[("annotate-0123abcd-1", "RUNNING")]), 0, [], id="already running"),
        pytest.param(FakeCluster(0, there=[("another", "RUNNING")]), 0, [1], id="somebody else's"),
    ],
)
def test_a_ray_job_is_submitted_until_it_is_done(cluster, code, submitted):
    """Never twice at once, and not again where that would give the same."""
    assert ray_job.run(launch_of("ray_job"), cluster, lambda line: None) == code
    assert cluster.submitted == [f"annotate-0123abcd-{attempt}" for attempt in submitted]


def test_an_interrupted_launcher_stops_its_ray_job():
    """Ctrl-C here is a request to stop there."""
    cluster = FakeCluster(KeyboardInterrupt())

    with pytest.raises(KeyboardInterrupt):
        ray_job.run(launch_of("ray_job"), cluster, lambda line: None)
    assert cluster.stopped == ["annotate-0123abcd-1"]


def test_an_address_in_the_environment_is_not_taken_silently(monkeypatch):
    """Ray would prefer it to the one that was given."""
    monkeypatch.setenv("RAY_ADDRESS", "http://elsewhere:8265")

    with pytest.raises(ConfigError, match=r"RAY_ADDRESS is 'http://elsewhere:8265' and launch\.address is"):
        ray_job.connect("http://here:8265")


def test_a_client_that_refuses_says_why_in_one_line(tmp_path, monkeypatch):
    """Its own words, and its exit code."""
    (tmp_path / "sbatch").write_text(
        "#!/bin/bash\ncat > /dev/null\necho 'error: invalid account' >&2\nexit 1\n"
    )
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    with pytest.raises(LaunchError, match=r"^sbatch --parsable ended with 1: error: invalid account$"):
        slurm.submit("#!/bin/bash\n")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "slum"}, "launch.name must be one of local, "),
        ({"name": "ray_job", "parts": 2}, "launch.parts must be 1, but to annotate on slurm, "),
        ({"name": "slurm", "program": "train", "parts": 2}, "launch.parts must be 1"),
        ({"volumes": ["data"]}, "launch.volumes must be CLAIM:/PATH, got 'data'"),
        ({"options": ["--a\nrm"]}, "launch.options must be an option of sbatch"),
        ({"memory_gb": 0}, "launch.memory_gb must be at least 1, got 0"),
    ],
)
def test_bad_settings_are_named(settings, message):
    """Before anything is rendered."""
    with pytest.raises(ConfigError, match=message):
        LaunchConfig(**settings)
