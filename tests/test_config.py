"""Every configuration file runs; the command line says what every field means and reads values by their type."""

import ast
import dataclasses
import inspect
import re
import shlex
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdd import Config, EvaluateConfig, Weighting, classification, data, load_config, methods, models
from jaxdd.app.command_line import read
from jaxdd.app.config import METHODS, PRESETS, parse
from jaxdd.app.evaluate import Evaluate
from jaxdd.app.influence import Influence
from jaxdd.app.run import run
from jaxdd.core.augment import dsa
from jaxdd.core.parallel import make_mesh
from jaxdd.driver import complete
from jaxdd.errors import SettingError
from jaxdd.experts import check_length
from jaxdd.experts.trajectories import Trajectories, Window
from jaxdd.methods import ClasswiseConfig, MethodConfig
from jaxdd.models import MLP, ConvNet

FILES = sorted(Path(__file__).parent.parent.glob("configs/*.py"))
FAST = {f"digits_{name}" for name in ("infmatch", "mtt", "iadd", "dc", "dm", "ncfm")}
SHAPES = {"digits": (8, 8, 1), "fashion_mnist": (28, 28, 1), "cifar10": (32, 32, 3)}
TRAIN = {"digits": 1442, "fashion_mnist": 60_000, "cifar10": 50_000}
SMALL = {  # the largest value of a setting in a shrunken run; one that is left out (None) stays so
    **{"steps": 2, "student_steps": 2, "expert_snapshots": 2, "horizon": 2, "checkpoints": 2},
    **{"real_batch": 4, "window": 2, "cache": 8, "ipc": 1, "batch": 5, "segment": 1, "last": 1},
    **{"frequencies": 8, "network_batch": 5, "warm_up": 1},
    **{"count": 2, "per_dispatch": 1, "snapshot_every": 1},
    **{"networks": 1, "validate_networks": 1, "validate_every": 1, "epochs": 1},
}


def shrink(config):
    """The same choices, with numbers that take a moment."""
    if isinstance(config, Window):
        return dataclasses.replace(config, first=0, start=1, end=config.end and 2, grow=config.grow and 1)
    changes = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            changes[field.name] = shrink(value)
        elif field.name in SMALL and value is not None:
            changes[field.name] = min(value, SMALL[field.name])
    return dataclasses.replace(config, **changes)


def walk(config, prefix=""):
    """Each field of a tree of dataclasses: its dotted name on the command line, its owner, its own name."""
    for field in dataclasses.fields(config):
        name = f"{prefix}{field.name.replace('_', '-')}"
        if dataclasses.is_dataclass(value := getattr(config, field.name)):
            yield from walk(value, f"{name}.")
        yield name, config, field.name


def documentation(owner, name):
    """The string under a field, in its class or the one that it is inherited from."""
    for cls in type(owner).__mro__:
        if cls is not object and name in vars(cls).get("__annotations__", {}):
            body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body
            for field, below in zip(body, [*body[1:], None], strict=True):
                if isinstance(field, ast.AnnAssign) and field.target.id == name:
                    documented = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
                    return " ".join(below.value.value.split()) if documented else None
    return None


def assert_documented(text, config):
    words = " ".join(text.replace("│", " ").split())
    for name, owner, field in walk(config):
        documented = documentation(owner, field)
        assert documented and len(documented) > 5, f"{name} says nothing of itself"
        if not dataclasses.is_dataclass(getattr(owner, field)):
            shown = {"sets": "SET…", "networks-named": "--model "}.get(name, f"--{name} ")
            assert shown in words or f"--{name}, " in words, name
            assert documented in words, name


@pytest.fixture
def help_of(capsys, monkeypatch):
    """Print the help of a command line."""

    def help_of(*words, columns=120):
        monkeypatch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit) as leaving:
            read([*words, "--help"])
        assert leaving.value.code == 0
        return capsys.readouterr().out

    return help_of


def titles(text):
    """The groups of options in a help text, in their order."""
    return re.findall(r"^(?:╭─)? (\S*? ?options) ", text, re.MULTILINE)


def is_method(member):
    return inspect.ismodule(member) and issubclass(getattr(member, "Config", type), MethodConfig)


def test_every_method_of_the_package_is_known_by_its_name():
    assert dict(inspect.getmembers(methods, is_method)) == METHODS


def test_help_of_a_method_begins_with_its_own_settings(help_of):
    shown = re.findall(r"--method\.(?:no-)?([\w-]+)[ ,]", help_of("run", "--method", "iadd"))
    own = [name.replace("_", "-") for name in vars(METHODS["iadd"].Config)["__annotations__"]]
    first = [name for name in dict.fromkeys(shown) if name in own]  # without those that are a group of their own
    assert "constraint" in first and list(dict.fromkeys(shown))[: len(first)] == first


@pytest.mark.parametrize("name", METHODS)
def test_help_documents_every_field(name, help_of):
    text = help_of("--method", name)
    method = METHODS[name].Config()
    if isinstance(method, ClasswiseConfig):  # the help shows what may be turned on
        method = dataclasses.replace(method, weighting=Weighting())
    if isinstance(method, methods.ncfm.Config):
        method = dataclasses.replace(method, sampler=methods.Optimizer())
    assert_documented(text, Config(method=method))
    words = " ".join(text.split())
    assert "usage: jaxdd run [-h] [RUN OPTIONS]" in words and "--config PRESET[:ipc=N]|FILE.py" in words
    assert titles(text)[:2] == ["options", "method options"]


def test_help_breaks_its_lines_where_the_terminal_does_only(help_of):
    lines = help_of("run", columns=1000).splitlines()
    fields = [(owner, name) for _, owner, name in walk(Config()) if not dataclasses.is_dataclass(getattr(owner, name))]
    # Broken in the source, and not so long that the widest help breaks them.
    texts = [text for text in (documentation(*field) for field in fields) if 120 < len(text) < 180]
    assert len(texts) >= 5 and [text for text in texts if not any(text in line for line in lines)] == []


def test_an_option_of_a_group_turns_it_on(tmp_path):
    file = tmp_path / "config.py"
    file.write_text("import jaxdd\ndef get_config(): return jaxdd.Config(method=jaxdd.methods.dm.Config())")
    assert parse(["--config", str(file)]) == Config(method=methods.dm.Config())
    found = parse(["--config", str(file), "--method.weighting.temperature", "3"])
    assert found == Config(method=methods.dm.Config(weighting=Weighting(temperature=3.0)))
    found = parse(["--method", "ncfm", "--method.sampler.lr", "0.5"]).method
    assert found == methods.ncfm.Config(sampler=methods.Optimizer(lr=0.5))


def test_help_of_evaluate_documents_every_field(help_of):
    text = help_of("evaluate")
    assert_documented(text, Evaluate())
    assert "usage: jaxdd evaluate [-h] [EVALUATE OPTIONS] SET…" in text


def test_help_of_influence_documents_every_field_its_own_first(help_of):
    text = help_of("influence")
    assert_documented(text, Influence())
    assert "usage: jaxdd influence [-h] [INFLUENCE OPTIONS]" in text
    assert titles(text)[:4] == ["options", "influence options", "influence.solver options", "method options"]
    assert text.index("--target") < text.index("--out") < text.index("--workdir")


def test_overrides_reach_nested_fields_with_their_type():
    config = parse(
        shlex.split(
            "--method.ipc 2 --experts.recipe.lr 0.05 --method.window.start 4 --method.window.end None "
            "--experts.keep 9 --no-deterministic --method.init herding --data.name fashion_mnist"
        )
    )
    default = Config()
    expected = dataclasses.replace(
        default,
        data=dataclasses.replace(default.data, name="fashion_mnist"),
        experts=dataclasses.replace(
            default.experts, keep=9, recipe=dataclasses.replace(default.experts.recipe, lr=0.05)
        ),
        method=dataclasses.replace(
            default.method, ipc=2, init="herding", window=dataclasses.replace(default.method.window, start=4, end=None)
        ),
        deterministic=False,
    )
    assert config == expected
    assert type(config.method.ipc) is int and type(config.experts.recipe.lr) is float


def test_a_home_is_read_behind_an_equals_sign_too(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    config = read(["--workdir=~/runs", "--experts.directory=~/experts", "--data.name=folder:~/x"])
    assert (config.workdir, config.experts.directory) == ("/home/someone/runs", "/home/someone/experts")
    assert config.data.name == "folder:~/x"  # which the reader of folders expands


def test_nothing_given_is_the_default():
    assert parse([]) == read([]) == read(["run"]) == Config()


def test_sets_are_scored_alike_by_the_library_and_the_command_line():
    assert Config().evaluate == EvaluateConfig() and Evaluate().recipe == EvaluateConfig().recipe
    assert "flip" not in EvaluateConfig().recipe.augment


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_chosen_by_its_name_alone(name):
    config = parse(["--method", name, "--seed", "3"])
    assert config == Config(method=METHODS[name].Config(), seed=3, workdir=f"runs/{name}")
    check_length(config.experts, TRAIN["digits"] - 143, config.method.snapshots_needed)
    assert parse(["--method.ipc", "4", "--method", name]).method == METHODS[name].Config(ipc=4)


def test_a_preset_is_chosen_by_its_name_with_arguments():
    config = parse(["--config", "cifar10_mtt:ipc=50", "--method.student-lr", "0.5"])
    assert (config.method.ipc, config.method.student_lr, config.experts.keep) == (50, 0.5, 42)
    assert config.data.name == "cifar10" and config.workdir == "runs/cifar10_mtt_ipc50"
    same = read(["influence", "--config", "cifar10_mtt:ipc=50"])
    assert same.experts == config.experts and same.workdir == config.workdir and isinstance(same, Influence)


def test_a_file_takes_arguments_too(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from jaxdd import Config, DataConfig\n"
        "def get_config(seed=1, name='digits'):\n"
        "    return Config(data=DataConfig(name), seed=seed)\n"
    )
    config = load_config(f"{file}:seed=4,name=mnist")
    assert (config.seed, config.data.name, config.workdir) == (4, "mnist", "runs/digits_infmatch_seed4_namemnist")
    assert load_config(file).seed == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--config cifar10_mt", "no such preset or file. did you mean cifar10_mtt or cifar10_dm"),
        ("--config nothing", "There are cifar10_cafe, cifar10_datm,"),
        ("--config cifar10_mtt:ipx=10", "get_config() got an unexpected keyword argument 'ipx'"),
        ("--config cifar10_mtt:ipc=3", "ipc is 3; settings are published for 1, 10 and 50"),
        ("--config digits_mtt:ipc=0", "method.ipc is 0"),
        ("--config digits_mtt:ipc=one", "ipc is 'one'; give a whole number"),
        ("--config cifar10_mtt:ipc=1,budget=gpu", "budget is 'gpu'; choose one of full, cpu"),
        ("--config cifar10_dc:method=dm", "method is 'dm'; choose one of dc, dsa"),
        ("--config digits_mtt --method dm", "--config digits_mtt chooses a method as well as --method dm"),
    ],
)
def test_a_choice_that_cannot_be_is_told_with_those_that_can(words, message):
    with pytest.raises(SettingError, match=re.escape(message)):
        read(words.split())


@pytest.mark.parametrize("first", ["", "from __future__ import annotations"])
def test_a_method_may_stand_in_the_config_file_itself(first, tmp_path, help_of):
    file = tmp_path / "mine.py"
    file.write_text(
        f"{first}\n"
        "import dataclasses\n"
        "from typing import Annotated\n"
        "import jaxdd\n"
        "from jaxdd.settings import AtLeast\n\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class Mine(jaxdd.methods.dm.Config):\n"
        "    shots: Annotated[int, AtLeast(1)] = 3\n"
        "    'How many shots.'\n\n"
        "def get_config():\n"
        "    return jaxdd.Config(method=Mine())\n"
    )
    assert parse(["--config", str(file), "--method.shots", "4"]).method.shots == 4
    with pytest.raises(SettingError, match="method.shots is 0; give 1 or more"):
        parse(["--config", str(file), "--method.shots", "0"])
    assert "How many shots." in help_of("run", "--config", str(file))


def test_a_file_gives_the_method_and_the_command_line_the_rest(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from jaxdd import Config, methods\n"
        "def get_config():\n"
        "    return Config(method=methods.mtt.Config(ipc=3, student_steps=7), seed=5)\n"
    )
    assert load_config(file) == Config(method=methods.mtt.Config(ipc=3, student_steps=7), seed=5)
    config = parse(["--method.student-lr", "0.5", "--config", str(file), "--method.ipc", "1"])
    assert config == Config(method=methods.mtt.Config(ipc=1, student_steps=7, student_lr=0.5), seed=5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("import jaxdd\n\n1 / 0", r"config.py:3 `1 / 0` with ZeroDivisionError: division by zero"),
        (None, "no such file; give a Python file that defines get_config"),
        ("config = 3", r"must define get_config\(\) that returns a jaxdd.Config, not None"),
        ("get_config = 3", r"must define get_config\(\) that returns a jaxdd.Config, not None"),
        ("def get_config(): return {'seed': 3}", r"returns a jaxdd.Config, not {'seed': 3}"),
        (
            "import dataclasses, jaxdd\n"
            "@dataclasses.dataclass(frozen=True)\n"
            "class More(jaxdd.Config):\n"
            "    extra: int = 3\n"
            "def get_config(): return More()",
            "returns a More, whose further fields no command would read",
        ),
    ],
)
def test_a_file_without_a_configuration_is_refused(tmp_path, content, message):
    file = tmp_path / "config.py"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SettingError, match=message):
        parse(["--config", str(file)])


# The files of the repository


def test_the_files_are_the_presets_of_the_package():
    assert {file.stem: file.read_bytes() for file in FILES} == {name: p.read_bytes() for name, p in PRESETS.items()}


def test_the_digits_file_is_the_default():
    assert load_config("digits_infmatch") == Config()


LABELED = [name for name in PRESETS if not name.startswith(("stamps", "flickr30k"))]
"""Presets on labeled images; those on captioned ones are tested in test_captioned.py."""


@pytest.mark.parametrize("name", LABELED)
def test_every_preset_takes_a_number_of_images(name):
    assert load_config(f"{name}:ipc=10").method.ipc == 10


def test_no_two_files_write_to_one_folder():
    workdirs = [load_config(file).workdir for file in FILES]
    assert len(FILES) >= 2 and len(set(workdirs)) == len(workdirs)


def random_images(name, per_class=12):
    # Not whitened, whatever the configuration: 3072 dimensions take longer than all the rest, and have their own tests.
    labels = np.arange(10 * per_class + 10) % 10
    images = np.random.default_rng(0).integers(0, 256, (len(labels), *SHAPES[name]), np.uint8)
    return data.from_arrays(images[:-10], labels[:-10], images[-10:], labels[-10:], name=name, validation=0)


IPCS = [":ipc=1", "", ":ipc=50"]  # of those with a table; 10 is their default
VARIANTS = [
    f"{name}{ipc}"
    for name in LABELED
    for ipc in (IPCS if re.match("cifar10_(mtt|iadd|datm|dc|dm|random)", name) else [""])
]


VARIANTS += ["cifar10_dc:method=dsa", "cifar10_iadd:ipc=1,network=resnet18", "cifar10_dc_iwd:ipc=1,network=resnet10"]
BUDGETED = ("mtt", "iadd", "infmatch", "dc", "dc_iwd", "dm", "ncfm", "rat_bptt")
VARIANTS += [f"cifar10_{name}:{ipc}budget=cpu" for name in BUDGETED for ipc in ("ipc=1,", "")]


SELDOM = [name for name in VARIANTS if ":" in name and name != "cifar10_mtt:ipc=50"]


@pytest.mark.parametrize(
    "preset", [pytest.param(name, marks=pytest.mark.slow if name in SELDOM else ()) for name in VARIANTS]
)
def test_every_preset_fits_together_at_its_full_size(preset):
    config = load_config(preset)
    assert isinstance(config, Config) and config.workdir == f"runs/{re.sub('=', '', re.sub('[:,]', '_', preset))}"
    size = TRAIN[config.data.name] * (1 - config.data.validation)
    check_length(config.experts, round(size), config.method.snapshots_needed)
    # Traced, not compiled: networks, batches and windows as large as the file says, shapes only.
    dataset = random_images(config.data.name, per_class=config.method.items_per_class + 2)
    model = models.build(config.model, dataset.image_shape, dataset.num_classes)
    task = classification(model, dataset.num_classes)
    shape, weights = jax.ShapeDtypeStruct, task.size
    times = shape((config.method.snapshots_needed,), np.float32)
    experts = Trajectories(
        snapshots=shape((2, config.method.snapshots_needed, weights), np.float32),
        final=shape((2, weights), np.float32),
        lr=times,
        time=times,
        total_time=shape((), np.float32),
        steps=shape(times.shape, np.int32),
    )
    method, sources = config.method.build(task), methods.Sources(dataset.real_set(), experts)

    def two_steps(key, sources):
        distilled = methods.initial_distilled(key, task, sources, config.method, lr=0.01)
        state = method.init(key, distilled, sources)
        if method.prepare is not None:
            sources = sources._replace(cache=method.prepare(key, sources))
        for it in range(2):
            batch = complete(method.sample(key, jnp.int32(it), sources), sources, None)
            state, info = method.step(key, state, batch)
        return distilled, method.distilled(state), info

    first, last, info = jax.eval_shape(two_steps, jax.random.key(0), sources)
    assert last == first
    assert last.images.shape == (config.method.items_per_class * dataset.num_classes, *dataset.image_shape)
    assert all(value.shape == () for value in info.values())
    for recipe in (config.experts.recipe, config.evaluate.recipe, config.evaluate.full_recipe):
        augmented = jax.eval_shape(dsa(recipe.augment, siamese=False), jax.random.key(0), last.images)
        assert augmented == last.images


@pytest.mark.parametrize(
    "file",
    [pytest.param(f, id=f.stem, marks=() if f.stem in FAST else pytest.mark.slow) for f in FILES if f.stem in LABELED],
)
def test_two_steps_of_every_file(file, tmp_path, monkeypatch):
    config = shrink(load_config(file))
    per_class = max(config.method.items_per_class, 2)
    monkeypatch.setattr(data, "load", lambda name, **_: random_images(name, per_class=per_class))
    recipe = dataclasses.replace(config.experts.recipe, batch=10, epochs=max(config.method.snapshots_needed, 1))
    scoring = dataclasses.replace(config.evaluate.recipe, augment="none")
    convolutions = getattr(config.method, "distance", "").startswith("convolution")  # are all that it matches
    config = dataclasses.replace(
        config,
        model=ConvNet(width=2, depth=1) if convolutions else MLP(width=2, depth=1),
        experts=dataclasses.replace(config.experts, recipe=recipe, keep=config.experts.keep and 9, directory=None),
        evaluate=dataclasses.replace(config.evaluate, full_data=False, recipe=scoring),
        workdir=str(tmp_path),
    )
    with jax.set_mesh(make_mesh(jax.devices()[:1])):
        results = run(config)
    steps = 0 if config.method.name == "coresets" else 2
    assert results["dataset"] == config.data.name and results["steps"] == config.method.steps == steps
    assert results["selected_on"] == "last step" and results["selected_step"] == steps  # nothing to choose on
    assert len(results["distilled"]["runs"]) == 1
    assert (tmp_path / "report.html").exists()
