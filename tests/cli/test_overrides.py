"""Any command line of run.py starts the run that the command line names, or ends in one line and exit code 2."""

import contextlib
import copy
import importlib.util
import io
import json
import math
import os
import re
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments.cli import overrides, summary
from experiments.errors import ConfigError
from experiments.spec.parse import from_record

from ..conftest import ROOT

TOKEN = "hf_" + "aB3" * 10

# The extra `slurm` brings two more.
LAUNCHERS = "basic, submitit_local, submitit_slurm" if importlib.util.find_spec("submitit") else "basic"
# Arguments, and the words that the line of the error must contain.
REFUSED = [
    # Hydra would merge the files of a list into one section, and start a run that nobody meant.
    (
        ["method=[fft,lora]"],
        "method must be one of adalora, asylora, boft, c3a, delora, dora, fft",
        "for a sweep: -m method=a,b",
    ),
    (["experiment=[table2,table3]"], "experiment must be one of base, table2"),
    (["logger=null"], "logger must be one of none, wandb"),
    (["+experiment=table2"], "write experiment=... without +"),
    # Two settings of the run would contradict each other.
    (["method.name=fft"], "method.name cannot be set by itself; allowed: method=..."),
    (["scale.name=paper"], "scale.name cannot be set by itself"),
    (["protocol=uuid_paper"], "task and scale choose the protocol"),
    # Nothing would read the setting.
    (["+method.lr_ratio=3", "method=lora"], "method.lr_ratio is not a setting of method=lora; allowed below method:"),
    (["++method.restart_every=3"], "method.restart_every is not a setting of method=mora"),
    (["+task.train_file=x"], "task.train_file is not a setting of task=uuid"),
    (["+protocol.foo=3"], "protocol.foo is not a setting"),
    (["--seed", "method=lora"], "--seed is no flag of run.py; allowed: name=value, and the flags --multirun (-m)"),
    (["-m", "seed=range(0)"], "seed=range(0): the sweep has no value, so nothing would run"),
    (["-m", "method=glob(zz*)"], "method=glob(zz*): the sweep has no value"),
    (["training.steps.foo=3"], "training.steps.foo is not a setting; allowed below training: learning_rate, steps"),
    (["training={steps:5,foo:3}"], "training.foo is not a setting; allowed below training: learning_rate, steps"),
    (["restarts=default"], "restarts is not a setting; allowed: "),
    (["hydra.foo=3"], "hydra.foo is not a setting; allowed below hydra: run, sweep"),
    (["hydra/launcher=foo"], f"hydra/launcher must be one of {LAUNCHERS}, got 'foo'"),
    # A method or a task cannot run without the setting.
    (["method.rank=null"], "method.rank is missing; method=mora cannot do without it"),
    (["~training.steps"], "training.steps is missing"),
    (["method.operator=null"], "method.operator must be one of"),
    (["task.pairs=null"], "task.pairs is missing; task=uuid cannot do without it"),
    (["task=instruct", "task.heldout_rows=null"], "task.heldout_rows is missing; task=instruct"),
    (["method=lora", "method.alpha=null"], "method.alpha must be a positive number"),
    (["method.rank=???"], "method.rank is missing: method/mora.yaml or the command line must say the value"),
    (["model=???"], "model is missing: protocol/uuid_smoke.yaml or the command line must say the value"),
    (["paths.results=???"], "paths.results is missing"),
    # A number is too large for the code that reads it.
    (["training.steps=99999999999999999999"], "training.steps must be at most 4294967295"),
    (["seed=" + "9" * 300], "seed must be at most 4294967295, got a number of"),
    (["hardware.threads=100000"], "hardware.threads must be an integer from 1 to 1024"),
    # A path or a name leads nowhere.
    (["model=/nowhere/at/all"], "model must be one of", "'/nowhere/at/all'"),
    (["model=/" + "a" * 5000], "model must be one of"),
    (["task=instruct", "task.train_file=" + "a" * 5000], "task.train_file must be a file"),
    (["model='a\x1b[31m\nb'"], r"got 'a\x1b[31m\nb'"),
    # A table of the protocol has another shape.
    (["protocol.learning_rates.mora=3"], "training.learning_rate: protocol.learning_rates.mora must hold `use`"),
    # Any other error of Hydra or OmegaConf.
    (["uuid"], "uuid cannot be read", "allowed: name=value"),
    (["seed=${}"], "seed=${} cannot be read", "allowed: name=value"),
    (["training.steps='"], "training.steps=' cannot be read"),
    (["seed=" + "1" * 5000], "ValueError: ", "4300"),
    (["training.steps=" + "[" * 400 + "]" * 400], "RecursionError"),
    (["=3"], "ValueError: "),
    (["hydra=3"], "Config group override must be a string"),
    (["hydra.mode=foo"], "expected one of [RUN, MULTIRUN]"),
    (["hydra.job.env_copy=[NOPE]"], "KeyError: 'NOPE'"),
    (["hydra.job_logging.root=3"], "Unable to configure root logger"),
    (["method.rank=${method.rank}"], "method.rank: Recursive interpolation"),
    (["--cfg", "job", "-m"], "Only one of"),
    # A secret must not get into a record, a list of processes or a log.
    ([f"logger.project={TOKEN}"], "logger.project=[secret] holds a key or a token"),
    ([f"paths.results=/x/{TOKEN}/y"], "paths.results=/x/[secret]/y holds a key or a token"),
    (["logger=wandb", "logger.project=${oc.env:MY_TOKEN}"], "logger.project holds a key or a token"),
]


class Outcome:
    """One call of run.py: its exit code, its stderr, the configurations that ran, the files that it wrote."""

    def __init__(self, run, monkeypatch, results, arguments):
        from hydra.core.global_hydra import GlobalHydra

        from experiments import runner

        self.configs, err = [], io.StringIO()

        def execute(config, record, store):
            self.configs.append(config)
            raise ConfigError("it ran")  # the test trains nothing: the call ends before a run would load its model

        monkeypatch.setattr(runner, "execute", execute)
        monkeypatch.setattr(summary, "show", lambda *_: None)
        monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
        GlobalHydra.instance().clear()
        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
            self.code = run.main()
        self.err = err.getvalue()
        self.files = [p for p in results.rglob("*") if p.is_file() and p.parent.name not in ("locks", "hydra")]


@pytest.fixture
def call(monkeypatch, tmp_path):
    """run.py in this process, up to the start of a run: arguments -> Outcome."""
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MY_TOKEN", "correct-horse-battery")
    import run

    results = tmp_path / "results"

    def outcome(*arguments):
        own = ["scale=smoke", "logger=none", "hardware=cpu", f"paths.results={results}"]
        groups = {a.partition("=")[0] for a in arguments}
        flags = [a for a in arguments if a == "-m"]
        rest = [a for a in arguments if a != "-m"]
        first = [*flags, *(o for o in own if o.partition("=")[0] not in groups)]
        return Outcome(run, monkeypatch, results, [*first, *rest])

    return outcome


def check_refusal(outcome, arguments):
    """There is one line, or one line for each refused cell of a sweep. Nothing ran, and no file was written."""
    assert outcome.code == 2
    lines = outcome.err.removesuffix("\n").split("\n")
    if lines[0].startswith("usage: "):  # argparse's answer to a flag that Hydra does not have
        assert any(argument.startswith("-") for argument in arguments)
        lines = ["error: "]  # argparse prints several lines, and repeats the flag unchanged
    assert len(lines) == 1 or "-m" in arguments, outcome.err
    for line in lines:
        assert line.startswith("error: ") or len(lines) == 1  # Hydra's own lines have another beginning
        assert len(line) < 1000
        assert line.isprintable()
    assert not outcome.configs
    assert not outcome.files


@pytest.mark.promise(
    "A command line that would not start the run that it names is refused in one line, with exit code 2."
)
@pytest.mark.parametrize(("arguments", "words"), [(case[0], case[1:]) for case in REFUSED], ids=lambda v: str(v)[:50])
def test_a_wrong_command_line_is_refused(arguments, words, call):
    outcome = call(*arguments)
    check_refusal(outcome, arguments)
    for word in words:
        assert word in outcome.err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("a=1 b=2", "a=1 b=2"),
        ("-m a=1 b=2", "-m a=1 b=2"),
        ("a=1 -m b=2 a=3", "-m a=1 b=2 a=3"),
        ("a=1 --config-dir x=1 b=2 -m c=x=1", "--config-dir x=1 -m a=1 b=2 c=x=1"),
        ("a=1 --cfg job", "a=1 --cfg job"),
        ("a=1 --cfg job b=-2", "--cfg job a=1 b=-2"),
    ],
)
def test_a_flag_may_stand_between_settings(arguments, expected):
    """Hydra takes flags in front of all settings or behind them."""
    assert overrides.flags_first(arguments.split()) == expected.split()


def test_a_right_command_line_runs(call):
    for arguments, expected in (
        (["++training.steps=4"], {"training.steps": 4}),
        (["training={steps:5}"], {"training.steps": 5}),
        (["method=remora", "protocol.restart_every=6"], {"method.restart_every": 6}),
        (["training.steps=${task.pairs}"], {"training.steps": 16}),
        (["~training.weight_decay", "+training.weight_decay=0.5"], {"training.weight_decay": 0.5}),
        (["model=some-body/some.model_1"], {"model": "some-body/some.model_1"}),
        (["task=instruct", "task.train_rows=null", "hardware.threads=null"], {"task.train_rows": None}),
    ):
        (config,) = call(*arguments).configs
        for name, value in expected.items():
            assert at(config, name) == value
    assert [c.method.name for c in call("-m", "method=lora,fft").configs] == ["lora", "fft"]
    assert [c.method.name for c in call("-m", "method=glob(lora*)").configs] == ["lora", "lora_plus"]


def test_a_fault_of_the_project_leaves_its_traceback_and_the_sweep_continues(call, monkeypatch, tmp_path):
    """Where the key is known, it names the file."""
    from experiments import runner
    from experiments.cli import command

    monkeypatch.setattr(runner, "run", lambda config: 1 / 0)
    outcome = call("-m", "method=lora,fft")
    assert outcome.code == 1
    lines = outcome.err.splitlines()
    assert len(lines) == len(outcome.files) == 2
    for line, path in zip(sorted(lines), sorted(outcome.files), strict=True):
        assert line == f"error: ZeroDivisionError: division by zero; traceback: {path}"
        assert path.read_text().startswith("run.py -m scale=smoke ")
        assert path.read_text().endswith("ZeroDivisionError: division by zero\n")
        assert re.fullmatch(r"[0-9a-f]{16}\.txt", path.name)
    monkeypatch.setattr(command, "configuration", lambda composed: 1 / 0)
    outcome = call("method=none")
    assert outcome.code == 1
    (path,) = {path for path in outcome.files if re.fullmatch(r"\d{4}-\d\d-\d\dT\d{6}Z-\d+\.txt", path.name)}
    assert str(path) in outcome.err


def test_a_fault_shows_its_traceback_where_no_file_can_be_written(call, monkeypatch, tmp_path):
    from experiments import runner

    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "failures").touch()
    monkeypatch.setattr(runner, "run", lambda config: 1 / 0)
    outcome = call("method=none")
    assert outcome.code == 1
    assert outcome.err.startswith("Traceback (most recent call last)")


def test_no_heavy_package_is_imported_and_nothing_written_before_an_error(tmp_path):
    """The test uses a new process, because this process has imported torch already."""
    probe = (
        "import json, sys, run\n"
        "for arguments in json.loads(sys.stdin.read()):\n"
        "    sys.argv = ['run.py', *arguments]\n"
        "    assert run.main() == 2, arguments\n"
        "    heavy = {'torch', 'transformers', 'peft', 'datasets', 'wandb', 'lm_eval'} & set(sys.modules)\n"
        "    assert not heavy, (arguments, heavy)\n"
    )
    cases = [arguments for arguments, *_ in REFUSED if "MY_TOKEN" not in arguments[-1]][::6]
    cases += [["model=/nowhere/at/all"], ["task=instruct", "task.train_file=nowhere"]]
    own = [f"paths.results={tmp_path / 'results'}", "scale=smoke", "hydra.run.dir=" + str(tmp_path / "hydra")]
    cases = [[*own, *arguments] if not arguments[0].startswith("-") else arguments for arguments in cases]
    done = subprocess.run(
        [sys.executable, "-c", probe],
        cwd=ROOT,
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "results").exists()


def is_target(value) -> bool:
    """Names of LLaMA's layers, or a text that chooses some of its layers."""
    if type(value) is list:
        return bool(value) and all(n.endswith("_proj") or n == "lm_head" for n in value)
    layers = (f"self_attn.{p}_proj" for p in "qkvo")
    names = [*(f"model.layers.0.{layer}" for layer in (*layers, "mlp.up_proj", "mlp.gate_proj", "mlp.down_proj"))]
    return value == "all-linear" or any(re.fullmatch(value, name) for name in [*names, "lm_head"])


# What the settings of a run must be, written independently of experiments/spec.
TYPES = {
    "method.rank": lambda v: v is None or (type(v) is int and 0 < v <= 128),
    "method.dropout": lambda v: v is None or 0 <= v < 1,
    "method.alpha": lambda v: v is None or (0 < v < math.inf),
    "method.target_modules": lambda v: v is None or is_target(v),
    "task.pairs": lambda v: v is None or (type(v) is int and v > 0),
    "training.steps": lambda v: type(v) is int and 0 < v < 2**32,
    "training.batch_size": lambda v: type(v) is int and v > 0,
    "training.learning_rate": lambda v: v is None or (type(v) in (int, float) and 0 < v < math.inf),
    "training.schedule": lambda v: v in ("linear", "cosine", "constant"),
    "training.weight_decay": lambda v: type(v) in (int, float) and 0 <= v < math.inf,
    "training.record_spectrum": lambda v: type(v) is bool,
    "hardware.threads": lambda v: v is None or 0 < v <= 1024,
    "paths.results": lambda v: type(v) is str and v,
    "model": lambda v: type(v) is str and v,
    "quantization": lambda v: v == "none",
    "seed": lambda v: type(v) is int and 0 <= v < 2**32,
}
GROUPS = ["method", "task", "scale", "hardware", "logger", "protocol", "experiment", "restarts"]
NAMES = [*TYPES, "training", "protocol.rank", "protocol.lora_alpha", "protocol.learning_rates", "protocol.steps"]
UNKNOWN = [
    "trainin.steps",
    "method.foo",
    "foo",
    "training.steps.foo",
    "task.new_tokens",
    "a/b",
    "3",
    "",
    "method..rank",
]
HYDRA = ["hydra.mode", "hydra.job.env_set", "hydra.callbacks", "hydra/launcher", "hydra.job_logging", "hydra.foo"]

words = st.sampled_from(
    ["lora", "fft", "uuid", "math", "smoke", "cpu", "none", "table2", "q_proj", "foo", "..", "default"]
)
ODD = """null nan inf -inf true 0 -1 0.5 1e400 ??? ${seed} ${foo} ${oc.env:HOME} ${learning_rate:} ${..} ${ } [ ] { ' "
    \\ [] {} [null] {a:1} [[[]]] int(x) range(3) choice(a,b) glob(*) interval(0,1) sort(2,1) 1,2 a=b @ ~"""
odd = st.sampled_from([*ODD.split(), "\u2028", ""])
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
numbers = st.integers(-(10**30), 10**30).map(str) | st.floats().map(repr)
long = st.builds(lambda c, n: c * n, st.sampled_from("a1[{$(/"), st.integers(100, 900))
plain = words | odd | texts | numbers | long
values = (
    plain
    | st.lists(words | odd | numbers, max_size=3).map(lambda v: "[" + ",".join(v) + "]")
    | st.lists(words | numbers, min_size=2, max_size=3).map(",".join)
    | st.tuples(words, plain).map(lambda v: "{" + ":".join(v) + "}")
    | plain.map(lambda v: "'" + v.replace("'", r"\'") + "'")
)
keys = st.sampled_from([*GROUPS, *NAMES, *UNKNOWN, *HYDRA]) | texts
any_argument = st.builds(
    lambda sign, key, package, value: f"{sign}{key}{package}={value}",
    st.sampled_from(["", "", "", "", "+", "++", "~"]),
    keys,
    st.sampled_from(["", "", "", "", "", "@foo", "@method", "@"]),
    values,
)
choices = st.builds(
    lambda group, names, form: f"{group}={form(names)}",
    st.sampled_from(["method", "method", "task", "logger"]),
    st.lists(st.sampled_from(["lora", "fft", "uuid", "none"]), min_size=1, max_size=2),
    st.sampled_from([lambda n: n[0], lambda n: "[" + ",".join(n) + "]", ",".join, lambda n: f"'{n[0]}'"]),
)
command_lines = st.tuples(
    st.sampled_from([[], [], [], ["-m"]]),
    st.lists(
        any_argument | choices | keys.map("~{}".format) | texts.filter(lambda t: not t.startswith("-")),
        min_size=1,
        max_size=2,
    ),
).map(lambda parts: [*parts[0], *parts[1]])


def at(config, name):
    for part in name.split("."):
        config = getattr(config, part, None)  # a method has only the settings of its file
    return config


def check_any(call, arguments):
    """The arguments are refused in one line, or a run has sensible settings and the values of the command line."""
    outcome = call(*arguments)
    assert "Traceback" not in outcome.err
    if not outcome.configs:
        if outcome.code:
            check_refusal(outcome, arguments)
        return
    assert set(outcome.err.splitlines()) <= {"error: it ran"} or "-m" in arguments, outcome.err
    for config in outcome.configs:
        for name, passes in TYPES.items():
            assert passes(at(config, name)), name
        assert config.task.pairs is not None or config.task.max_length is not None
        if config.method.name not in ("none", "fft"):
            assert config.method.rank is not None
            assert config.method.target_modules is not None
        last_values = dict(argument.lstrip("+").partition("=")[::2] for argument in arguments)
        for argument in arguments:
            name = argument.lstrip("+").partition("=")[0]
            value = last_values[name]  # of two values for one setting, Hydra takes the last
            if name in TYPES and value.lstrip("-").isdigit() and "-m" not in arguments:
                assert at(config, name) == int(value)
            if name in ("method", "task", "hardware", "logger") and "-m" not in arguments:
                last = [x for x in arguments if x.startswith(f"{name}=")][-1:]
                assert not last or last[0].partition("=")[2].strip("'\" ") == getattr(config, name).name
            # A run may do without these two settings. Hydra's own settings are no part of a run.
            set_again = argument.startswith("~") and name.lstrip("~") in last_values
            if argument.partition("=")[0] not in ("~experiment", "~dry_run") and not set_again:
                assert not argument.removeprefix("~hydra").startswith(("~", "+method", "+task")), argument


FUZZ = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    "database": None,
}


def fuzz(call, **options):
    """Try random command lines. Returns how many."""
    attempts = []

    @settings(**options, **FUZZ)
    @given(command_lines)
    def check(arguments):
        attempts.append(arguments)
        check_any(call, arguments)

    check()
    return len(attempts)


@pytest.mark.promise(
    "Any command line starts exactly the run that it names, or ends in one line and exit code 2, never in a traceback."
)
def test_random_command_lines(call, counted):
    counted(fuzz(call, max_examples=15, derandomize=True), "command lines")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.promise(
    "Any command line starts exactly the run that it names, or ends in one line and exit code 2, never in a traceback."
)
def test_thousands_of_random_command_lines(call, counted):
    counted(fuzz(call, max_examples=2000), "command lines")


SPECIAL = [None, math.nan, math.inf, -math.inf, 0, -1, 2**40, 1e-3, True, "", "???", [], [[]], {}]
any_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.promise(
    "An allowed value of a setting is accepted, and any other value of any type is refused with a message."
)
def test_values_of_any_type(smoke, counted):
    """The test checks values that come from interpolations, files and records, without Hydra."""
    whole = smoke("method=remora").as_dict()
    places = [(s, n) for s, section in whole.items() if isinstance(section, dict) for n in section if s != "protocol"]
    places.remove(("method", "allowed"))  # a method's file, not a user, says which values are allowed
    places += [(name, None) for name in whole]
    values_tried, messages = [], []

    def check(place, value):
        values_tried.append(value)
        section, name = place
        values = copy.deepcopy(whole)
        if name is None:
            values[section] = value
        else:
            values[section][name] = value
        try:
            config = from_record(values)
        except ConfigError as error:
            messages.append((section, str(error)))
            return
        for name, passes in TYPES.items():
            assert passes(at(config, name)), (name, value)

    for place in places:
        for value in SPECIAL:
            check(place, value)
    fuzzed = settings(max_examples=60, derandomize=True, **FUZZ)(given(st.sampled_from(places), any_value)(check))
    fuzzed()
    assert [pair for pair in messages if pair[0] not in pair[1]] == []
    counted(len(values_tried), "values")
