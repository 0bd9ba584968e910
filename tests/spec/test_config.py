"""Wrong configurations end in one line that says what was wrong and what is allowed, with exit code 2, and no file."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from experiments import user_code
from experiments.errors import ConfigError
from experiments.identity import identity_of, key_of, makes_another_cell, name_of
from experiments.spec import hardware
from experiments.spec.compose import composition
from experiments.spec.parse import parse
from experiments.spec.run_config import Paths
from scripts import prepare_data

from ..conftest import ROOT, compose

TILDE = "A path that begins with a ~, and a blank path, is refused or expanded, and no such folder is made."
# Arguments after scale=smoke -> words that the message must hold.
WRONG = [
    ("method=foo", "method must be one of adalora, asylora, boft, c3a, delora, dora, fft", "'foo'"),
    ("task=foo", "task must be one of", "uuid"),
    ("scale=foo", "scale must be one of galore, laptop, paper, smoke, workstation"),
    ("hardware=foo", "hardware must be one of", "auto, cpu"),
    ("logger=foo", "logger must be one of none, wandb"),
    ("experiment=foo", "experiment must be one of"),
    ("model=foo", "model must be one of tiny, ", "smollm2-135m", "a folder", "'foo'"),
    ("quantization=foo", "quantization must be one of none, nf4, int8"),
    ("quantization=nf4 method=fft", "quantization must be none for method=fft", "frozen", "got nf4"),
    ("quantization=int8 method=none", "quantization must be none for method=none", "got int8"),
    ("quantization=nf4 method.train_rest=true", "quantization must be none with method.train_rest", "full precision"),
    ("quantization=int8 method=dora", "quantization must be none or nf4 for method=dora (conf/method/dora.yaml)"),
    ("quantization=nf4 training.record_spectrum=true", "quantization must be none with training.record_spectrum"),
    ("quantization=int8 method=relora", "quantization must be none for method=relora", "got int8"),
    ("paths.results='~/runs'", "paths.results must be a path; a ~ is not replaced here, so write $HOME", "'~/runs'"),
    ("model='~/llama'", "model must be a path", "'~/llama'"),
    ("model=~/llama", "model=~/llama cannot be read", "write $HOME in place of ~"),
    ("task=instruct task.train_file='~/rows.jsonl'", "task.train_file must be a path"),
    ("task=instruct task.heldout_file='~/rows.jsonl'", "task.heldout_file must be a path"),
    ("task=custom task.heldout_file='~/rows.jsonl'", "task.heldout_file must be a path"),
    ("task=custom task.benchmark_path='~/tasks'", "task.benchmark_path must be a path"),
    ("task=instruct task.data=hub task.data_dir='~/copies'", "task.data_dir must be a path"),
    ("paths.results='\\${oc.env:HOME}'", "oc.env:HOME"),
    ("trainin.steps=3", "trainin.steps is not a setting", "training"),
    ("training.step=3", "training.step is not a setting", "allowed below training: learning_rate, steps"),
    ("+foo=3", "foo is not a setting"),
    ("+training.foo=3", "training.foo is not a setting"),
    ("~training", "training is missing"),
    ("~training.steps", "training.steps is missing"),
    ("training=3", "training"),
    ("method=fft method.rank=3", "method.rank is not a setting of method=fft", "name, label, looks, rates"),
    ("method.rank=-1", "method.rank must be a positive integer, got -1"),
    ("method.rank=0", "method.rank must be a positive integer, got 0"),
    ("method.rank=1.5", "method.rank must be a positive integer"),
    ("method.rank=abc", "method.rank must be a positive integer, got 'abc'"),
    ("method.rank=200", "too large for q_proj of tiny", "in=256, out=256", "at most 128"),
    ("method=lora method.rank=200", "too large for q_proj of tiny", "at most 128"),
    ("training.batch_size=0", "training.batch_size must be a positive integer, got 0"),
    ("training.batch_size=-4", "training.batch_size must be a positive integer, got -4"),
    ("training.batch_size=17", "training.batch_size must be at most task.pairs (16), got 17"),
    ("training.batch_size=6 hardware.device_batch_size=4", "hardware.device_batch_size", "got 4; allowed: 1, 2, 3, 6"),
    ("hardware=ddp hardware.processes=3", "training.batch_size (8) must be a multiple", "allowed: 1, 2, 4, 8"),
    ("hardware.processes=2 hardware.device_batch_size=3", "the 4 examples", "got 3; allowed: 1, 2, 4"),
    ("hardware.processes=0", "hardware.processes must be a positive integer, got 0"),
    ("hardware.nodes=2", "starts ranks on its own machine alone", "allowed: 1, or", "torchrun or srun"),
    ("hardware.sharding=foo", "hardware.sharding must be one of none, full, gradients, zero2, got 'foo'"),
    ("hardware=fsdp hardware.device=cpu hardware.compile=true", "hardware.compile must be false under FSDP"),
    ("hardware.compile=1", "hardware.compile must be true or false, got 1"),
    ("hardware=cpu hardware.sharding=zero2", "runs on GPUs; allowed on the CPU: none, full, gradients"),
    ("training.steps=-1", "training.steps must be a positive integer, got -1"),
    ("training.learning_rate=0", "training.learning_rate must be a positive number of at most 3.4e38, got 0"),
    ("training.learning_rate=-1e-3", "training.learning_rate must be a positive number"),
    ("training.learning_rate=nan", "training.learning_rate must be a positive number"),
    ("training.learning_rate=inf", "training.learning_rate must be a positive number"),
    ("training.learning_rate=1e39", "training.learning_rate must be a positive number of at most 3.4e38, got 1e+39"),
    ("training.learning_rate=abc", "training.learning_rate must be a positive number of at most 3.4e38, got 'abc'"),
    ("training.checkpoint_every=3", "training.checkpoint_every must be a multiple of training.log_every (2)"),
    ("method.target_modules=[foo]", "tiny has no linear layer 'foo'", "all-linear, a list of q_proj, k_proj"),
    ("method.target_modules=foo", "tiny has no linear layer 'foo'", "expression for whole names such as '.*q_proj'"),
    ("method.target_modules='[[]'", "got '[[]' (Possible nested set at position 1)"),
    ("method.target_modules='('", "must be all-linear, a list of names or a regular expression, got '('"),
    ("method.target_modules=[]", "method.target_modules must be a list of different names"),
    ("method.target_modules=3", "method.target_modules must be a list of different names", "got 3"),
    ("method.peft.target_modules=3", "must be that of method.target_modules, ['q_proj', ", "got 3; allowed: method.t"),
    ("method.operator=foo", "method.operator must be one of truncation, sharing, decouple, rotation", "got 'foo'"),
    ("method.operator=auto", "method.operator must be one of truncation, sharing, decouple, rotation"),
    ("method.wrap=1", "method.wrap must be one of true, false", "got 1"),
    ("method.peft.peft_type=[x]", "method.peft.peft_type is missing"),
    ("task=pretrain task.max_length=1", "task.max_length must be an integer of at least 2", "got 1"),
    ("method.peft=zero", "method.peft must be a section of settings, got 'zero'"),
    ("hardware.threads=5000000000", "hardware.threads must be at most 1024, got a number of 33 bits"),
    ("seed=5000000000", "seed must be at most 4294967295, got a number of 33 bits"),
    ("protocol.ranks=3", "protocol.ranks must be a rank for each rank of the paper"),
    ("protocol.learning_rates.mora=3", "protocol.learning_rates.mora must hold `use` and `candidates`"),
    ("method.dropout=1", "method.dropout must be a fraction"),
    ("hardware.precision=fp16", "fp16 needs a GPU; allowed on the CPU: fp32, bf16"),
    ("seed=-1", "seed must be an integer from 0 to 4294967295"),
    ("seed=${foo}", "foo"),
    ("method=remora method.operator=rotation", "must be one of sharing for method=remora", "got 'rotation'"),
    (
        "++method.allowed={own:{a:1}}",
        "method.allowed.own must be a list of values, or one of",
        "got {'a': 1}",
    ),
    ("method=relora method.restart_every=12", "method.restart_every must be less than training.steps (12)"),
    ("method=relora method.restart_every=11", "leaves 1 steps after the last merge", "a divisor of training.steps"),
    ("method=relora method.restart_warmup=4", "method.restart_warmup must be less than method.restart_every (4)"),
    ("training.warmup_steps=12", "training.warmup_steps must be less than training.steps (12), or the learning rate"),
    ("method=relora method.reset_ratio=0", "method.reset_ratio must be a number in (0, 1]"),
    ("paths.results=/proc/nowhere", "paths.results: cannot write to /proc/nowhere"),
]


@pytest.fixture(scope="module")
def main():
    """run.main in this process: arguments -> exit code."""
    sys.path.insert(0, str(ROOT))
    from hydra.core.global_hydra import GlobalHydra

    import run

    def call(monkeypatch, *arguments: str) -> int:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", [str(ROOT / "run.py"), *arguments])
        return run.main()

    return call


@pytest.mark.parametrize("case", WRONG, ids=[case[0] for case in WRONG])
def test_wrong_configurations_are_one_line(case, main, monkeypatch, tmp_path, capsys):
    arguments, *words = case
    results = tmp_path / "results"
    code = main(monkeypatch, "scale=smoke", "logger=none", f"paths.results={results}", *arguments.split())
    err = capsys.readouterr().err.strip()
    assert code == 2
    lines = err.splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]
    assert not results.exists() or not list(results.rglob("*.json"))


@pytest.mark.parametrize("arguments", [("method=foo",), ("training.step=3",), ("method.rank=-1",), ("model=foo",)])
def test_nothing_heavy_is_imported_before_an_error(arguments):
    probe = (
        "import sys; sys.argv = ['run.py', *sys.argv[1:]]; import run; code = run.main();"
        "heavy = {'torch', 'transformers', 'peft', 'datasets', 'wandb', 'lm_eval'} & set(sys.modules);"
        "assert not heavy, heavy; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", probe, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr


def test_a_package_that_is_not_there(main, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(monkeypatch, "scale=smoke", "quantization=nf4") == 2
    assert "needs the package bitsandbytes, which is not installed: pip install" in capsys.readouterr().err


def test_a_gpu_that_is_not_there(main, monkeypatch, capsys):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert main(monkeypatch, "scale=smoke", "hardware=gpu") == 2
    assert "finds no GPU here; allowed: auto, cpu" in capsys.readouterr().err


@pytest.mark.parametrize("scale", ["smoke", "laptop", "workstation", "paper"])
@pytest.mark.parametrize("path", sorted((ROOT / "conf" / "method").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_method_composes_at_every_scale(path, scale):
    config = compose(f"method={path.stem}", f"scale={scale}")
    assert config.method.name == path.stem
    assert config.scale == scale


def test_the_paper_protocol_is_the_papers():
    config = compose("method=lora", "scale=paper", "method.rank=256")
    t = config.training
    assert config.model == "meta-llama/Llama-2-7b-hf"
    assert (config.task.pairs, t.batch_size, t.steps) == (10_000, 1_000, 1_000)
    assert t.batch_size * t.steps == 100 * config.task.pairs
    assert (t.schedule, t.warmup_steps, t.weight_decay, t.max_grad_norm) == ("linear", 100, 0.0, 1.0)
    assert (config.method.alpha, config.method.dropout) == (128, 0.05)
    assert len(config.method.target_modules) == 7
    rates = config.protocol["learning_rates"]
    assert rates["lora"]["r8"]["candidates"] == [1e-4, 2e-4, 3e-4]
    assert rates["mora"]["r256"]["candidates"] == [5e-5, 1e-4, 2e-4]
    assert rates["fft"]["candidates"] == [3e-5]
    assert compose("method=lora", "scale=paper").method.alpha == 16


def test_the_rate_of_a_rank_without_rates_is_that_of_the_nearest_rank():
    rates = compose("method=lora", "scale=paper").protocol["learning_rates"]["lora"]
    assert compose("method=lora", "scale=paper", "method.rank=16").training.learning_rate == rates["r8"]["use"]
    assert compose("method=lora", "scale=paper", "training.learning_rate=7e-4").training.learning_rate == 7e-4


def key(*overrides: str) -> str:
    return key_of(identity_of(compose("scale=smoke", *overrides)))


def test_the_key_changes_with_every_setting_that_can_change_the_result():
    keys = [
        key(*change)
        for change in (
            (),
            ("seed=1",),
            ("method=lora",),
            ("method.rank=2",),
            ("method.operator=rotation",),
            ("method.wrap=false",),
            ("task.pairs=12",),
            ("training.learning_rate=0.5",),
            ("training.evaluate_every=4",),
            ("training.adapter_dtype=base",),
            ("hardware.precision=bf16",),
        )
    ]
    assert len(set(keys)) == len(keys)


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(hardware, "GPU_DRIVERS", ())


def test_auto_is_what_the_machine_has(monkeypatch, no_gpu):
    resolved = compose("scale=smoke").hardware
    assert (resolved.device, resolved.precision) == ("cpu", "fp32")
    monkeypatch.setattr(hardware, "_has_gpu", lambda: True)
    monkeypatch.setattr(hardware, "_has_bf16", lambda: True)
    resolved = compose("scale=smoke").hardware
    assert (resolved.device, resolved.precision) == ("gpu", "bf16")
    assert compose("scale=smoke", "hardware=cpu").hardware.device == "cpu"
    with_gpu = key()
    monkeypatch.undo()
    assert key("hardware=cpu") != with_gpu  # another number format is another result


def test_the_key_does_not_change_with_other_settings(no_gpu):
    changes = (
        ("paths.results=elsewhere",),
        ("paths.cache=elsewhere",),
        ("logger=none",),
        ("training.checkpoint_every=2",),
        ("training.keep_checkpoints=5",),
        ("hardware=cpu",),
        ("hardware=cpu", "hardware.precision=auto"),
        ("hardware.device_batch_size=4",),
        ("hardware=ddp", "hardware.processes=2"),
        ("hardware=fsdp",),
        ("hardware.compile=true",),
    )
    assert {key(*change) for change in changes} == {key()}


def test_config_error_is_what_parse_raises():
    with pytest.raises(ConfigError, match=r"method\.rank must be a positive integer"):
        compose("method.rank=-2")


@pytest.mark.parametrize("value", [["a.py"], {"a": 1}], ids=str)
@pytest.mark.parametrize("setting", ["task.module", "method.module"])
def test_what_is_no_name_of_a_file_is_named_with_its_setting(setting, value):
    composed = composition(["scale=smoke"])
    OmegaConf.update(composed, setting, value)
    with pytest.raises(ConfigError, match=rf"^{setting} must be a text, got {re.escape(str(value))}$"):
        parse(composed)


@pytest.mark.parametrize(
    ("path", "name", "is_of_others"),
    [("own.py", "MINE", False), ("own.py", "LORA", True), ("own.py", ["MINE"], True), ("b.py", "LORA", False)],
)
def test_a_file_of_a_user_is_for_what_it_defines(path, name, is_of_others, monkeypatch):
    monkeypatch.setattr(user_code, "_defined", {})
    user_code.define("own.py", ["MINE"])
    assert user_code.is_of_others(path, name) == is_of_others


def test_a_run_for_another_machine_asks_nothing_of_this_one(no_gpu):
    composed = composition(["hardware=gpu", "quantization=nf4"])
    with pytest.raises(ConfigError, match="torch finds no GPU here"):
        parse(composed)
    config = parse(composed, elsewhere=True)
    assert (config.hardware.device, config.dry_run) == ("gpu", False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hardware=fsdp", "hardware.compile=true"], "hardware.compile must be false under FSDP"),
        (["hardware=gpu", "hardware.sharding=gradients", "hardware.compile=true"], "must be false under FSDP"),
        (["hardware=cpu", "hardware.sharding=zero2"], "zero2 needs DeepSpeed, which runs on GPUs"),
        (["hardware=cpu", "hardware.precision=fp16"], "fp16 needs a GPU"),
    ],
    ids=str,
)
@pytest.mark.parametrize("planned", [True, False])
def test_settings_that_fit_on_no_machine_are_refused_before_a_machine_is_asked(arguments, message, planned, no_gpu):
    composed = composition([*arguments, "scale=smoke"])
    with pytest.raises(ConfigError, match=message):
        parse(composed, elsewhere=planned)
    composed.dry_run = True
    with pytest.raises(ConfigError, match=message):
        parse(composed)


def test_a_device_that_became_the_cpu_is_checked_too(no_gpu):
    for setting, message in (("sharding=zero2", "runs on GPUs"), ("precision=fp16", "fp16 needs a GPU")):
        composed = composition([f"hardware.{setting}", "scale=smoke"])
        with pytest.raises(ConfigError, match=message):
            parse(composed)
        assert parse(composed, elsewhere=True).hardware.device == "gpu"


@pytest.mark.parametrize("path", sorted((ROOT / "conf" / "experiment").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_experiment_composes_and_names_its_command(path, main, monkeypatch, capsys):
    text = path.read_text()
    sweep = "-m " if "MULTIRUN" in text else ""
    assert f"python run.py {sweep}experiment={path.stem}" in text
    assert main(monkeypatch, f"experiment={path.stem}", "scale=smoke", "--cfg", "hydra") == 0
    assert ("mode: MULTIRUN" in capsys.readouterr().out.replace("RunMode.", "")) == bool(sweep)


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "uuid-laptop-mora-r1-lr0.003-seed0"),
        (["method=none", "task=math"], "math-laptop-none-seed0"),
        (
            ["method.operator=rotation", "method.surplus=fold"],
            "uuid-laptop-mora-r1-operator=rotation-surplus=fold-lr0.003-seed0",
        ),
        (["method=remora", "method.groupings=four"], "uuid-laptop-remora-r1-groupings=four-lr0.003-seed0"),
        (["method=lora", "method.alpha=64"], "uuid-laptop-lora-r1-alpha=64-lr0.003-seed0"),
        (["method=fft", "model=smollm2-135m", "seed=7"], "uuid-laptop-fft-model=smollm2-135m-lr0.001-seed7"),
    ],
)
def test_the_name_of_a_run_names_the_settings_that_are_not_the_defaults(overrides, name):
    assert name_of(compose(*overrides)) == name


def test_different_runs_have_different_names(tmp_path):
    """The name tells models, data and quantization apart, and other settings that are nearly the same."""
    models, files = [], []
    for i, folder in enumerate(("a", "b")):
        models.append(tmp_path / folder / "my model")
        models[i].mkdir(parents=True)
        (models[i] / "config.json").write_text(f'{{"vocab_size": {i}}}')
        files.append(tmp_path / folder / "tickets.jsonl")
        files[i].write_text(f'{{"instruction": "Say {i}.", "output": "{i}"}}\n')
    instruct, lora = ["task=instruct", "method=lora"], ["method=lora"]
    arguments = [
        lora,
        *([*lora, f"model={model}"] for model in ("owner/name", "other/name", "own/er-name", *models)),
        instruct,
        *([*instruct, f"task.train_file={file}"] for file in files),
        *([*instruct, f"task.heldout_file={file}"] for file in files),
        *(
            ["task=custom", "scale=smoke", *lora, f"task.train_file={data}"]
            for data in ("someone/rows", "someone1/rows")
        ),
        *([*lora, f"quantization={form}"] for form in ("nf4", "int8")),
        *([*lora, f"training.learning_rate={rate}"] for rate in ("0.00123456", "0.001234567")),
        *([*lora, f"method.alpha={alpha}"] for alpha in ("7", "7.000001")),
        [*lora, "method.target_modules=[q_proj]"],
        *([*lora, f"+method.peft.runtime_config={text}"] for text in ("'a b'", "'a-b'", "'a c'")),
    ]
    configs = [parse(composition(settings), elsewhere=True) for settings in arguments]
    names = {name_of(config): key_of(identity_of(config)) for config in configs}
    assert len(names) == len(set(names.values())) == len(arguments)
    for name in names:
        assert re.fullmatch(r"[\w.+=-]+", name)
    text = " ".join(names)
    for word in (
        "model=owner--name-",
        "model=my-model-",
        "data=tickets-",
        "heldout=tickets-",
        "data=someone--rows-",
        "quantization=nf4-",
        "lr0.001234567-",
    ):
        assert word in text


def test_the_model_the_data_and_the_quantization_stay_in_a_long_name():
    many = ["training.steps=5", "training.batch_size=2", "training.weight_decay=0.5", "task.pairs=9"]
    config = parse(composition([*many, "training.warmup_steps=1", "quantization=nf4", "model=a/b"]), elsewhere=True)
    name = name_of(config)
    assert "-model=a--b-quantization=nf4-" in name
    assert re.search(r"-and-3-more-[0-9a-f]{6}-", name)


@pytest.mark.parametrize("setting", ["task.train_file", "task.heldout_file", "task.benchmark_path", "task.questions"])
def test_the_files_of_a_user_make_another_cell(setting):
    assert makes_another_cell(setting)
    assert not makes_another_cell("task.eval_batch_size")


@pytest.mark.promise(TILDE)
@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"MORA_CACHE": "", "XDG_CACHE_HOME": "/x"}, "/x/mora"),
        ({"MORA_CACHE": "  ", "XDG_CACHE_HOME": "/x"}, "/x/mora"),
        ({"MORA_CACHE": "", "XDG_CACHE_HOME": "~/x"}, "HOME/x/mora"),
        ({"MORA_CACHE": "", "XDG_CACHE_HOME": ""}, "HOME/.cache/mora"),
        ({"MORA_CACHE": "/own"}, "/own"),
        ({"MORA_CACHE": "~/own"}, "HOME/own"),
        ({"MORA_CACHE": "~"}, "HOME"),
    ],
    ids=str,
)
def test_the_folder_of_the_cache(environment, folder, monkeypatch, tmp_path, capsys):
    for name, value in {"HOME": str(tmp_path), **environment}.items():
        monkeypatch.setenv(name, value)
    expected = Path(folder.replace("HOME", str(tmp_path)))
    assert Paths(results="results").cache_folder == expected
    assert compose("scale=smoke", "hardware=cpu").paths.cache_folder == expected
    assert prepare_data.main(["--check"]) == 1
    assert f"cache: {expected / 'sources'}" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.promise(TILDE)
@pytest.mark.parametrize(
    ("setting", "folder"), [("'~/own'", "HOME/own"), ("'~'", "HOME"), ("' '", "/env"), ("null", "/env"), ("/x", "/x")]
)
def test_the_setting_of_the_cache(setting, folder, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MORA_CACHE", "/env")
    paths = compose("scale=smoke", "hardware=cpu", f"paths.cache={setting}").paths
    assert paths.cache_folder == Path(folder.replace("HOME", str(tmp_path)))


@pytest.mark.promise("Without a home folder, a run that needs no cache runs, and any other run names MORA_CACHE.")
def test_without_a_home_folder_a_run_that_needs_no_cache_runs(smoke, monkeypatch):
    from experiments import runner

    def unknown(*_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("MORA_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pathlib.Path.home", unknown)
    assert runner.run(smoke("method=none")).status == "finished"
    with pytest.raises(ConfigError, match="the home folder is not known, set MORA_CACHE"):
        runner.run(smoke("method=none", "task=instruct"))


@pytest.mark.promise(TILDE)
@pytest.mark.parametrize("path", ["' '", "'   '", "'~'", "'~/runs'", "'~nobody/runs'"])
def test_a_path_that_is_blank_or_begins_with_a_tilde_is_refused(path):
    with pytest.raises(ConfigError, match=r"paths\.results must be a path"):
        compose("scale=smoke", f"paths.results={path}")
