"""Command lines become configurations, or one line that says what is wrong."""

import dataclasses
import os
import re
import subprocess
import sys

import pytest

from pipelines import evaluate, train
from pipelines.auto_annotate import COMMAND
from pipelines.config import CONFIGS, CommandLine, help_text, load, main
from sam_engine.config import AMG_PRESETS, AmgConfig, AutoAnnotateConfig, ModelConfig, run_config
from sam_engine.dataset.run_info import config_yaml
from sam_engine.errors import ConfigError

README = CONFIGS.parent / "README.md"
CHOICES = [
    f"{field.name}={path.stem}"
    for field in dataclasses.fields(AutoAnnotateConfig)
    for path in sorted(CONFIGS.glob(f"{field.name}/*.yaml"))
] + [f"amg={name}" for name in AMG_PRESETS]


def load_run(*overrides: str) -> AutoAnnotateConfig:
    return load(COMMAND, overrides)


def refusal(capsys, *argv: str) -> str:
    """Return the one line that the command line is refused with; exit code 2."""
    code = main(COMMAND, lambda _: pytest.fail("the run was started"), argv)
    err = capsys.readouterr().err

    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err.removeprefix("error: ").rstrip()


@pytest.mark.parametrize("choice", CHOICES)
def test_every_yaml_choice_makes_a_config(choice):
    """No file in configs/ has rotted."""
    assert isinstance(load_run(choice), AutoAnnotateConfig)


@pytest.mark.parametrize("recipe", sorted(CONFIGS.glob("recipes/*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_settings_of_training(recipe):
    """A recipe has a weight for each source, and holds some images of each out."""
    config = load(train.COMMAND, [], config_file=str(recipe))

    assert len(config.data.weights) == len(config.data.sources) > 0
    assert config.data.hold_out


def test_nothing_given_is_the_schema_with_the_small_model():
    """YAML adds to the dataclasses only what the tiny model needs."""
    config = load_run()

    assert dataclasses.replace(config, amg=AmgConfig()) == AutoAnnotateConfig()
    assert (config.model.name, config.executor.name, config.shard_size) == ("tiny", "auto", None)


@pytest.mark.parametrize(
    ("overrides", "points_per_side"),
    [
        pytest.param([], 16, id="tiny"),
        pytest.param(["model=vit_h"], 32, id="vit"),
        pytest.param(["model=vit_h", "amg=fast"], 16, id="asked"),
        pytest.param(["amg=dense", "model=tiny"], 64, id="asked-for-tiny"),
        pytest.param(["amg.points_per_side=4", "amg=sa1b"], 4, id="key-beats-choice-in-any-order"),
    ],
)
def test_amg_follows_the_model_unless_asked(overrides, points_per_side):
    """The small model has its own thresholds and grid; the command line wins over both."""
    assert load_run(*overrides).amg.points_per_side == points_per_side


@pytest.mark.parametrize(
    ("settings", "overrides"),
    [
        ({}, []),
        ({"model": "tiny"}, ["model=tiny"]),
        ({"model": "vit_b", "amg": "sa1b"}, ["model=vit_b", "amg=sa1b"]),
        ({"amg": {"points_per_side": 8}}, ["amg.points_per_side=8"]),
        ({"model": {"name": "vit_h", "device": "cpu"}}, ["model=vit_h", "model.device=cpu"]),
    ],
)
def test_a_script_gets_what_the_command_line_gets(settings, overrides):
    """Presets by name, that of the model unless asked, and what differs from it."""
    assert run_config(settings) == load_run(*overrides)


def test_settings_given_as_such_are_taken_as_they_are():
    """Whoever builds AmgConfig means its defaults; what is neither is refused."""
    assert run_config({"model": "tiny", "amg": AmgConfig()}).amg.points_per_side == 32
    with pytest.raises(ConfigError, match="amg must be one of default, dense, fast, sa1b, tiny, got 'fsat'"):
        run_config({"amg": "fsat"})
    with pytest.raises(ConfigError, match="amg must be a preset's name, a mapping or AmgConfig, got 5"):
        run_config({"amg": 5})


def test_vit_models_use_the_defaults_of_segment_anything():
    """Nothing in YAML touches the generator of the released models."""
    assert load_run("model=vit_b").amg == AmgConfig()


def test_sa1b_is_the_published_recipe():
    """32 x 32 points, two layers of crops with half the points each, cleaned, nothing of the image's size."""
    assert load_run("amg=sa1b").amg == AmgConfig(
        crop_n_layers=2,
        crop_n_points_downscale_factor=2,
        min_mask_region_area=100,
        max_mask_area_fraction=0.95,
        drop_small_masks=True,
    )


@pytest.mark.parametrize("key", ["input", "output"])
@pytest.mark.parametrize(
    "path",
    [
        "a=b",
        "a,b",
        "a(b",
        "it's",
        "é ü",
        "#1",
        "a:b",
        "${x}",
        "[1]",
        "{a}",
        "a\\",
        '"q"',
        "1e3",
        "'q'",
        "a b ",
        "bad\udcff",
    ],
)
def test_paths_may_hold_any_character(key, path):
    """Hydra's grammar never sees a path, so nothing in it needs quoting."""
    assert getattr(load_run(f"{key}={path}"), key) == path


def test_nested_paths_and_digests_are_plain_too():
    """A digest of digits and an e would be a number to Hydra."""
    config = load_run("model.checkpoint=a,b=c.pth", "model.sha256=123e4", "executor.address=host:1234")

    assert (config.model.checkpoint, config.model.sha256) == ("a,b=c.pth", "123e4")
    assert config.executor.address == "host:1234"


def test_tilde_and_null_keep_their_meaning(monkeypatch):
    """A leading ~ is the home directory, as a shell would have it after a space; null is None."""
    monkeypatch.setenv("HOME", "/home/someone")
    config = load_run("input=~/photos", "output=a~b", "model.checkpoint=null")

    assert (config.input, config.output, config.model.checkpoint) == ("/home/someone/photos", "a~b", None)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("amg.points_per_sid=3", "no setting 'amg.points_per_sid'; did you mean amg.points_per_side?"),
        ("modle=tiny", "there is no setting 'modle'; did you mean model?"),
        ("inptu=photos", "there is no setting 'inptu'; did you mean input?"),
        ("hydra.run.dir=.", "there is no setting 'hydra.run.dir'; the program knows input, output"),
        ("amg._target_=os.system", "there is no setting 'amg._target_'"),
        ("model=vit_x", "model is 'vit_x'; choose from tiny, vit_b, vit_h, vit_l"),
        ("amg=fsat", "amg is 'fsat'; choose from default, dense, fast, sa1b, tiny; did you mean fast?"),
        ("executor=spark", "executor is 'spark'; choose from auto, inline, ray"),
        ("amg.points_per_side=abc", "amg.points_per_side: Value 'abc' of type 'str' could not be converted"),
        ("limit=1.5", "limit: Value '1.5' of type 'float' could not be converted to Integer"),
        ("decode.isolate=maybe", "decode.isolate: Value 'maybe' is not a valid bool"),
        ("amg.box_nms_thresh=1.5", "amg.box_nms_thresh must be in [0, 1], got 1.5"),
        ("max_failed_fraction=nan", "max_failed_fraction must be in [0, 1], got nan"),
        ("executor.num_workers=0", "executor.num_workers must be at least 1, got 0"),
        ("model.device=gpu", "model.device must be auto, cpu, cuda, cuda:N or mps, got 'gpu'"),
        ("model.precision=fp8", "model.precision must be one of fp32, tf32, fp16, bf16, got 'fp8'"),
        ("log.format=xml", "log.format must be text or json, got 'xml'"),
        ("photos", "'photos' is no setting; write key=value"),
        ("input=", "input is empty"),
        ("amg.points_per_side=[1", "'amg.points_per_side=[1' cannot be read"),
        ("executor.num_workers=1,2", "Ambiguous value for argument 'executor.num_workers=1,2'"),
        ("--multirun", "unrecognized arguments: --multirun"),
        ("--cfg=all", "argument -c/--cfg: invalid choice: 'all'"),
        ("amg.points_per_side=${oc.env:HOME}", "resolvers are not supported"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_that_names_key_and_choices(capsys, argument, message):
    """Whatever is wrong is found before anything starts; the line says what would do."""
    assert message in refusal(capsys, argument)


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        pytest.param("pionts_per_side: 3", "'pionts_per_side'", id="misspelt"),
        pytest.param("_target_: os.system", "_target_", id="target"),
        pytest.param("points_per_side: ${oc.env:HOME}", "resolvers are not supported", id="environment"),
        pytest.param("points_per_side: many", "could not be converted to Integer", id="type"),
        pytest.param("points_per_side: [", 'mine.yaml", line 1, column', id="not-yaml"),
        pytest.param("points_per_side: 0", "amg.points_per_side must be at least 1, got 0", id="range"),
    ],
)
def test_yaml_of_others_is_checked_alike(capsys, tmp_path, yaml, message):
    """A shared YAML file can set values and nothing else: no code is named, no secret is read."""
    (tmp_path / "amg").mkdir()
    (tmp_path / "amg" / "mine.yaml").write_text(yaml)

    assert message in refusal(capsys, "--config-dir", str(tmp_path), "amg=mine")


def test_config_dir_adds_choices(tmp_path):
    """One's own choices stand beside the shipped ones, in a folder of any name."""
    folder = tmp_path / "it's, [mine]"
    (folder / "amg").mkdir(parents=True)
    (folder / "amg" / "mine.yaml").write_text("points_per_side: 5")

    assert load(COMMAND, ["amg=mine"], str(folder)).amg.points_per_side == 5
    assert load(COMMAND, ["amg=fast"], str(folder)).amg.points_per_side == 16


def test_printed_yaml_is_the_configuration():
    """What --cfg job prints reads back as the values that are used."""
    yaml = pytest.importorskip("yaml")
    config = load_run("input=a: #b", "amg=sa1b")

    assert yaml.safe_load(config_yaml(config)) == dataclasses.asdict(config)


def test_help_and_cfg_start_neither_torch_nor_ray(tmp_path):
    """Both answer at once, from any folder, and write nothing there."""
    script = (
        "import sys; from pipelines.auto_annotate import COMMAND; from pipelines.config import main\n"
        "codes = [main(COMMAND, None, argv) for argv in (['--help'], ['--cfg', 'job'])]\n"
        "sys.exit(codes != [0, 0] or any(name in sys.modules for name in ('torch', 'ray')))"
    )
    environment = os.environ | {"PYTHONPATH": str(CONFIGS.parent)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
    for expected in ("Usage:", "input=null", "amg.points_per_side=32", "Exit codes:", 'name: "tiny"'):
        assert expected in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_every_setting_says_what_it_means():
    """A field without its line of meaning would be a bare name in --help."""
    bare = [line for line in help_text(COMMAND).splitlines() if "=" in line and len(line.split()) == 1]

    assert bare == []


def test_two_programs_share_a_section():
    """A second program with its own YAML file reuses sections and groups."""
    command = CommandLine(name="auto_annotate", config_class=AutoAnnotateConfig, help="")

    assert load(command, ["model=vit_b"]).model == ModelConfig(name="vit_b")


def test_help_ends_quietly_when_its_reader_goes_away():
    """As with ``--help | head -1``; the pipe is closed before a line is written."""
    reader, writer = os.pipe()
    os.close(reader)

    result = subprocess.run(
        [sys.executable, "-m", "pipelines.auto_annotate", "--help"],
        cwd=CONFIGS.parent,
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writer)

    assert (result.returncode, result.stderr) == (0, b"")


@pytest.mark.parametrize(("given", "missing"), [("row", "column"), ("column", "row")])
def test_one_side_of_a_grid_alone_is_refused(given, missing):
    """The message names the other."""
    with pytest.raises(ConfigError, match=f"points_per_{missing} must be given with amg.points_per_{given}"):
        AmgConfig(**{f"points_per_{given}": 4})


def test_a_runs_own_file_makes_the_same_configuration(tmp_path):
    """--config _meta/config.yaml gives back every setting, whatever characters are in it."""
    given = ["input=a: #b ${x} 'c' \\\\", "amg=sa1b", "limit=7", "model.device=cuda:1", "log.format=json"]
    config = load_run(*given)
    path = tmp_path / "config.yaml"
    path.write_text(config_yaml(config))

    assert load(COMMAND, [], config_file=str(path)) == config


def test_overrides_win_over_a_runs_file(tmp_path):
    """A single setting replaces the file's; a choice of a group its whole section."""
    config = load_run("amg=sa1b", "limit=7", "amg.points_per_side=5")
    path = tmp_path / "config.yaml"
    path.write_text(config_yaml(config))
    changed = load(COMMAND, ["limit=8", "amg=fast"], config_file=str(path))

    assert changed == dataclasses.replace(config, limit=8, amg=load_run("amg=fast", "model=vit_h").amg)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("limti: 7\n", "there is no setting 'limti'; did you mean limit?"),
        ("amg:\n  points: 7\n", "there is no setting 'amg.points'"),
        ("- a\n", "holds no settings"),
        ("a: [\n", "is no YAML"),
        ("limit: many\n", "limit"),
    ],
)
def test_mistakes_in_a_runs_file_are_one_line(capsys, tmp_path, text, message):
    """Another program's file is refused as a wrong override is."""
    path = tmp_path / "config.yaml"
    path.write_text(text)

    assert message in refusal(capsys, "--config", str(path))


def test_a_runs_file_that_is_missing_is_named(capsys, tmp_path):
    """One line, exit code 2."""
    assert "cannot be read: No such file" in refusal(capsys, "--config", str(tmp_path / "absent.yaml"))


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("eval.tar", ["eval.tar"]),
        ("[a.tar,b.tar]", ["a.tar", "b.tar"]),
        ("[ Fotos März (1)/ä.tar , b c.tar ]", ["Fotos März (1)/ä.tar", "b c.tar"]),
        ("['a,b.tar',\"c's.tar\",d\\,e.tar]", ["a,b.tar", "c's.tar", "d,e.tar"]),
        ("[sa_{0,1}.tar,null,'null']", ["sa_{0,1}.tar", None, "null"]),
        ("[]", []),
        ("null", []),
        ("a=b,c.tar", ["a=b,c.tar"]),
    ],
)
def test_a_list_takes_any_path_and_a_scalar(text, items):
    """One value is a list of one; commas need quotes, nothing else does."""
    truth = [item or "x" for item in items]

    assert load(evaluate.COMMAND, [f"images={text}", f"truth=[{','.join(map(repr, truth))}]"]).images == items


def test_home_is_understood_in_lists(monkeypatch):
    """Shells replace it at the beginning of a word only."""
    monkeypatch.setenv("HOME", "/home/ada")

    assert load(evaluate.COMMAND, ["truth=[~/a.tar,b.tar]"]).truth == ["/home/ada/a.tar", "b.tar"]
    assert load(evaluate.COMMAND, ["truth=~/a.tar"]).truth == ["/home/ada/a.tar"]


def test_a_scalar_is_a_list_of_one_for_numbers_too():
    """As for paths."""
    assert load(train.COMMAND, ["data.sources=a.tar", "data.weights=2"]).data.weights == [2.0]


def test_an_open_quote_in_a_list_is_named():
    """Rather than taken for a part of a name."""
    with pytest.raises(ConfigError, match=r"truth: the quote before 'a\.tar' is not closed"):
        load(evaluate.COMMAND, ["truth=['a.tar]"])


def test_nothing_is_no_path_in_a_list():
    """Rather than the working directory."""
    with pytest.raises(ConfigError, match="truth is empty"):
        load(evaluate.COMMAND, ["truth="])


def test_commands_of_the_readme_work_in_zsh():
    """It takes a bare bracket, star, question mark or parenthesis for a pattern, and stops at no match."""
    commands = re.findall(r"^ *(?:python -m|sam-engine) [^#\n]*", README.read_text(), re.MULTILINE)
    bare = [re.sub(r"'[^']*'|\"[^\"]*\"|`[^`]*`", "", command) for command in commands]

    assert len(commands) > 10
    assert [command for command in bare if set(command) & set("[]*?()")] == []
