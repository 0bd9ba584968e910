"""Whatever stands on run.py's command line: a run of just that, or one line and exit code 2. Never anything else."""

import contextlib
import importlib.util
import io
import math
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments.cli import summary
from experiments.errors import ConfigError
from experiments.spec.parse import _checked

from ..conftest import ROOT

TOKEN = "hf_" + "aB3" * 10

# The extra `slurm` brings two more.
LAUNCHERS = "basic, submitit_local, submitit_slurm" if importlib.util.find_spec("submitit") else "basic"
# Each was found by the fuzz test below, or by thinking like it. Arguments -> words that the line must hold.
FOUND = [
    # Hydra merges the files of a list into one section, and a run starts that nobody meant.
    (["method=[fft,lora]"], "method must be one of", "got ['fft', 'lora']; several are a sweep: -m method=a,b"),
    (["experiment=[table2,table3]"], "experiment must be one of"),
    (["scale=[smoke,paper]"], "scale must be one of"),
    # A traceback from inside Hydra.
    (["protocol=3"], "the protocol is that of task and scale"),
    (["method=3"], "method must be one of", "got 3"),
    (["method=null"], "method must be one of", "got None"),
    (["hydra=3"], "Config group override must be a string"),
    (["hydra/launcher=null"], "Config group override must be a string"),
    (["hydra.job.env_copy=[NOPE]"], "KeyError: 'NOPE'"),
    (["hydra.job_logging.root=3"], "Unable to configure root logger"),
    (["seed=" + "1" * 5000], "cannot be read", "4300"),
    (["training.steps=" + "[" * 400 + "]" * 400], "training.steps=[[[", "allowed: up to 100 brackets"),
    (["restarts=default"], "restarts is not a setting"),
    (["--resolve"], "--resolve is for --cfg and --help alone"),
    (["--cfg", "job", "-m"], "exclude each other"),
    (["-sc"], "subcommand"),
    # A page of usage, or exit code 1.
    (["--foo"], "unrecognized arguments: --foo"),
    (["--package", "foo", "--cfg", "job"], "package 'foo' not found"),
    # A file outside the group.
    (["method=../task/uuid"], "method must be one of", "'../task/uuid'"),
    # Settings that nothing would read, or that contradict each other.
    (["method.name=fft"], "method.name cannot be set by itself"),
    (["method.family=fft"], "method.family cannot be set by itself"),
    (["scale.name=paper"], "scale.name cannot be set by itself"),
    (["protocol=uuid_paper"], "the protocol is that of task and scale"),
    (["+method.lr_ratio=3", "method=lora"], "method.lr_ratio is not a setting of method=lora"),
    (["++method.restart_every=3"], "method.restart_every is not a setting of method=mora"),
    (["+task.train_file=x"], "task.train_file is not a setting of task=uuid"),
    (["+protocol.foo=3"], "protocol.foo is not a setting"),
    (["+method@task=lora"], "method is chosen already"),
    (["task@method=uuid"], "task has one place"),
    # Settings that a method or a task cannot do without: an assertion later, or PEFT's own error.
    (["method.rank=null"], "method.rank must be a positive integer, got None"),
    (["~method.rank"], "method.rank is missing"),
    (["method.operator=null"], "method.operator must be one of"),
    (["task.pairs=null"], "task.pairs must be a positive integer"),
    (["task=instruct", "task.heldout_rows=null"], "task.heldout_rows is missing; task=instruct"),
    (["method=lora", "method.alpha=null"], "method.alpha must be a positive number"),
    # Not filled in.
    (["model=???"], "Missing mandatory value: model"),
    (["paths.results=???"], "paths.results: Missing mandatory value"),
    # What overflows below.
    (["training.steps=99999999999999999999"], "training.steps must be at most 4294967295"),
    (["seed=" + "9" * 300], "seed must be at most 4294967295, got a number of"),
    (["hardware.threads=100000"], "hardware.threads must be an integer from 1 to 1024"),
    # Found only when transformers had been imported.
    (["model=/nowhere/at/all"], "model must be one of", "'/nowhere/at/all'"),
    (["model=/" + "a" * 5000], "model must be one of"),
    (["task=instruct", "task.train_file=" + "a" * 5000], "task.train_file must be a file"),
    # Lines that did not say what was wrong, or where.
    (["protocol.learning_rates.mora=3"], "training.learning_rate: protocol.learning_rates.mora must be ranks"),
    (["method=lora", "protocol.lora_alpha=3"], "method.alpha: protocol.lora_alpha must be an alpha for each rank"),
    (["training={steps:5,foo:3}"], "training.foo is not a setting; allowed below training: learning_rate, steps"),
    (["hydra.mode=foo"], "expected one of [RUN, MULTIRUN]"),
    (["hydra/launcher=foo"], f"hydra/launcher must be one of {LAUNCHERS}, got 'foo'"),
    (["seed=${}"], "seed=${} cannot be read", "allowed: name=value"),
    (["training.steps='"], "cannot be read", "a quote without its end"),
    (["method.rank=${method.rank}"], "method.rank: Recursive interpolation"),
    (["=3"], "the name of a setting is missing"),
    (["model='a\x1b[31m\nb'"], r"got 'a\x1b[31m\nb'"),
    (["task.train_file=\udcff"], "not UTF-8 text"),
    # What must not get into a record, a list of processes or a log.
    ([f"logger.project={TOKEN}"], "logger.project=[secret] holds a key or a token"),
    ([f"paths.results=/x/{TOKEN}/y"], "paths.results=/x/[secret]/y holds a key or a token"),
    (["logger=wandb", "logger.project=${oc.env:MY_TOKEN}"], "logger.project holds a key or a token"),
    (["--experimental-rerun", "/etc/passwd"], "pickled"),
]


class Ended:
    """How one call of run.py ended: its exit code, what it printed to stderr, and the configuration that it ran."""

    def __init__(self, run, monkeypatch, results, arguments):
        from hydra.core.global_hydra import GlobalHydra

        from experiments import runner

        ran, err = [], io.StringIO()

        def execute(config, task, key, store):
            ran.append(config)
            raise ConfigError("it ran")  # no training here: the way ends where something would be loaded

        monkeypatch.setattr(runner, "execute", execute)
        monkeypatch.setattr(summary, "show", lambda *_: None)
        monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
        GlobalHydra.instance().clear()
        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
            self.code = run.main()
        self.err, self.ran = err.getvalue(), ran
        self.written = [p for p in results.rglob("*") if p.is_file() and p.parent.name not in ("locks", "hydra")]


@pytest.fixture
def call(monkeypatch, tmp_path):
    """run.py in this process, as far as a run would start; hydra's own folder is elsewhere."""
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MY_TOKEN", "correct-horse-battery")
    import run

    results = tmp_path / "results"

    def ended(*arguments):
        own = ["scale=smoke", "logger=none", "hardware=cpu", f"paths.results={results}"]
        groups = {a.partition("=")[0] for a in arguments}
        flags = [a for a in arguments if a == "-m"]
        rest = [a for a in arguments if a != "-m"]
        first = [*flags, *(o for o in own if o.partition("=")[0] not in groups)]
        return Ended(run, monkeypatch, results, [*first, *rest])

    return ended


def check_refusal(ended, sweep=False):
    """One line, of a sweep one for each cell that is refused, and nothing ran or was written."""
    assert ended.code == 2
    lines = ended.err.removesuffix("\n").split("\n")
    assert len(lines) == 1 or sweep, ended.err
    for line in lines:
        assert line.startswith("error: ") or len(lines) == 1  # Hydra's own begin otherwise
        assert len(line) < 1000
        assert line.isprintable()
    assert not ended.ran
    assert not ended.written


@pytest.mark.promise(
    "A command line that would start another run than it says is refused in one line, with exit code 2."
)
@pytest.mark.parametrize("case", FOUND, ids=[" ".join(case[0])[:50] for case in FOUND])
def test_what_was_found_stays_mended(case, call):
    arguments, *words = case
    ended = call(*arguments)
    check_refusal(ended)
    for word in words:
        assert word in ended.err


def test_what_is_right_still_runs(call):
    for arguments, expected in (
        (["++training.steps=4"], {"training.steps": 4}),
        (["training={steps:5}"], {"training.steps": 5}),
        (["method=remora", "protocol.restart_every=6"], {"method.restart_every": 6}),
        (["training.steps=${task.pairs}"], {"training.steps": 16}),
        (["model=some-body/some.model_1"], {"model": "some-body/some.model_1"}),
        (["task=instruct", "task.train_rows=null", "hardware.threads=null"], {"task.train_rows": None}),
    ):
        (config,) = call(*arguments).ran
        for name, value in expected.items():
            assert at(config, name) == value
    assert [c.method.name for c in call("-m", "method=lora,fft").ran] == ["lora", "fft"]
    assert [c.method.name for c in call("-m", "method=glob(lora*)").ran] == ["lora", "lora_plus"]


def test_no_heavy_package_is_imported_and_nothing_written_before_an_error(tmp_path):
    """In a process of its own: this one has imported torch already."""
    probe = (
        "import json, sys, run\n"
        "for arguments in json.loads(sys.stdin.read()):\n"
        "    sys.argv = ['run.py', *arguments]\n"
        "    assert run.main() == 2, arguments\n"
        "    heavy = {'torch', 'transformers', 'peft', 'datasets', 'wandb', 'lm_eval'} & set(sys.modules)\n"
        "    assert not heavy, (arguments, heavy)\n"
    )
    import json
    import os

    cases = [c[0] for c in FOUND if "\udcff" not in c[0][-1] and "MY_TOKEN" not in c[0][-1]][::6]
    cases += [["model=/nowhere/at/all"], ["task=instruct", "task.train_file=nowhere"]]
    own = [f"paths.results={tmp_path / 'results'}", "scale=smoke", "hydra.run.dir=" + str(tmp_path / "hydra")]
    cases = [[*own, *c] if not c[0].startswith("-") else c for c in cases]
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


# What the settings of a run must be, said here a second time and in another way than in experiments/config.py.
TYPES = {
    "method.rank": lambda v: v is None or (type(v) is int and 0 < v <= 128),
    "method.dropout": lambda v: v is None or 0 <= v < 1,
    "method.alpha": lambda v: v is None or (0 < v < math.inf),
    "method.target_modules": lambda v: v is None or (type(v) is list and v and all(n.endswith("_proj") for n in v)),
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
one = st.builds(
    lambda sign, key, package, value: f"{sign}{key}{package}={value}",
    st.sampled_from(["", "", "", "", "+", "++", "~"]),
    keys,
    st.sampled_from(["", "", "", "", "", "@foo", "@method", "@"]),
    values,
)
chosen = st.builds(
    lambda group, names, form: f"{group}={form(names)}",
    st.sampled_from(["method", "method", "task", "logger"]),
    st.lists(st.sampled_from(["lora", "fft", "uuid", "none"]), min_size=1, max_size=2),
    st.sampled_from([lambda n: n[0], lambda n: "[" + ",".join(n) + "]", ",".join, lambda n: f"'{n[0]}'"]),
)
command_lines = st.tuples(
    st.sampled_from([[], [], [], ["-m"]]),
    st.lists(
        one | chosen | keys.map("~{}".format) | texts.filter(lambda t: not t.startswith("-")), min_size=1, max_size=2
    ),
).map(lambda parts: [*parts[0], *parts[1]])


def at(config, name):
    for part in name.split("."):
        config = getattr(config, part)
    return config


def holds(call, arguments):
    """The property: refused in one line, or run with sensible settings and the value that was given."""
    ended = call(*arguments)
    if not ended.ran:
        if ended.code == 2:
            check_refusal(ended, sweep="-m" in arguments)
        return
    assert set(ended.err.splitlines()) <= {"error: it ran"} or "-m" in arguments, ended.err
    for config in ended.ran:
        for name, passes in TYPES.items():
            assert passes(at(config, name)), name
        assert config.task.pairs is not None or config.task.max_length is not None
        if config.method.family in ("lora", "mora"):
            assert config.method.rank is not None
            assert config.method.target_modules is not None
        # What was said is what ran.
        for argument in arguments:
            name, _, value = argument.lstrip("+").partition("=")
            if name in TYPES and value.lstrip("-").isdigit() and "-m" not in arguments:
                assert at(config, name) == int(value)
            if name in ("method", "task", "hardware", "logger") and "-m" not in arguments:
                last = [x for x in arguments if x.startswith(f"{name}=")][-1:]
                assert not last or last[0].partition("=")[2].strip("'\" ") == getattr(config, name).name
            # Hydra's own settings are its own affair.
            assert not argument.removeprefix("~hydra").startswith(("~", "+method", "+task")), argument


FUZZ = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    "database": None,
}


@pytest.mark.promise(
    "Any command line starts a run of just what it says, or ends in one line and exit code 2, never a traceback."
)
def test_random_command_lines(call, counted):
    tried = []

    @settings(max_examples=30, derandomize=True, **FUZZ)
    @given(command_lines)
    def check(arguments):
        tried.append(arguments)
        holds(call, arguments)

    check()
    counted(len(tried), "command lines")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.promise(
    "Any command line starts a run of just what it says, or ends in one line and exit code 2, never a traceback."
)
def test_thousands_of_random_command_lines(call, counted):
    tried = []

    @settings(max_examples=3000, **FUZZ)
    @given(command_lines)
    def check(arguments):
        tried.append(arguments)
        holds(call, arguments)

    check()
    counted(len(tried), "command lines")


SPECIAL = [None, math.nan, math.inf, -math.inf, 0, -1, 2**40, 1e-3, True, "", "???", [], [[]], {}]
any_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.promise("A setting of any type and value is taken if it is allowed, and refused in words if it is not.")
def test_values_of_any_type(smoke, counted):
    """Below Hydra: what interpolations, files and records can bring, straight into the checks."""
    import copy

    whole = smoke("method=remora").as_dict()
    whole["scale"] = {"name": whole["scale"]}
    places = [(s, n) for s, section in whole.items() if isinstance(section, dict) for n in section if s != "protocol"]
    places += [(name, None) for name in whole]
    tried, said = [], []

    def check(place, value):
        tried.append(value)
        section, name = place
        values = copy.deepcopy(whole)
        if name is None:
            values[section] = value
        else:
            values[section][name] = value
        try:
            config = _checked(values, nulls=True)
        except ConfigError as error:
            said.append((section, str(error)))
            return
        for name, passes in TYPES.items():
            assert passes(at(config, name)), (name, value)

    for place in places:
        for value in SPECIAL:
            check(place, value)
    fuzzed = settings(max_examples=150, derandomize=True, **FUZZ)(given(st.sampled_from(places), any_value)(check))
    fuzzed()
    assert all(section in message for section, message in said)
    counted(len(tried), "values")
