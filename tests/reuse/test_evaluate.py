"""A saved model that is scored again has the metrics of its record. A model that cannot be scored gives one line."""

import json
import shutil

import pytest

from experiments.cli import script
from experiments.errors import ConfigError
from experiments.reuse import load
from experiments.spec.parse import from_record
from experiments.store.records import Store
from scripts import evaluate


def call(*arguments: str) -> int:
    return script.guarded(lambda: evaluate.main(list(arguments)))


@pytest.mark.parametrize("name", ["mora", "remora", "fft"])
def test_a_saved_model_has_the_metrics_of_its_record(trained, name, capsys):
    results, records = trained
    assert call(records[name].key, "--results", str(results)) == 0
    printed = capsys.readouterr().out
    for metric, value in records[name].metrics["final"].items():
        assert f"{metric} " in printed
        assert str(value) in printed
    assert printed.endswith("\nequal\n")


def edit(path, change) -> None:
    with open(path) as file:
        values = json.load(file)
    change(values)
    with open(path, "w") as file:
        json.dump(values, file)


def test_other_metrics_are_not_equal_unless_within_the_tolerance(copied, capsys):
    results, key = copied
    path = results / "runs" / f"{key}.json"
    edit(path, lambda r: r["metrics"]["final"].update(key_loss=r["metrics"]["final"]["key_loss"] + 1e-3))
    assert call(key, "--results", str(results)) == 1
    assert "not equal" in capsys.readouterr().out
    assert call(key, "--results", str(results), "--tolerance", "0.01") == 0


def test_another_weight_is_not_equal(trained, copied):
    results, key = copied
    other = trained[0] / "models" / trained[1]["remora"].key / "adapter_model.safetensors"
    shutil.copy(other, results / "models" / key)
    assert call(key, "--results", str(results)) == 1


def test_another_task_of_the_same_model(trained, capsys):
    results, records = trained
    store = Store(results)
    settings = evaluate.with_task(load.settings(records["mora"], store), "pretrain")
    assert settings.task.name == "pretrain"
    assert settings.method.name == "mora"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r.update(status="failed"), "failed, not finished"),
        (lambda r: r["config"]["method"].update(rank=-1), "method.rank must be a positive integer"),
        (lambda r: r["config"]["method"].update(rank=4), "are another run by now"),
        (lambda r: r["config"].update(surprise=1), "surprise is not a setting"),
        (lambda r: r["config"]["training"].pop("steps"), "training.steps is missing"),
        (lambda r: r.update(config={}), "method, task, scale, model, quantization, seed, training, hardware, logger"),
        (lambda r: r["provenance"].update(added=3), "is not a readable record: provenance.added: "),
        (lambda r: r["metrics"].update(final={}), "is not a readable record: its run is finished, and metrics.final"),
    ],
)
def test_a_record_that_is_not_this_versions_is_refused(copied, capsys, change, words):
    results, key = copied
    path = results / "runs" / f"{key}.json"
    edit(path, change)
    assert call(key, "--results", str(results)) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1


def test_a_run_without_model_or_record_is_refused(copied, capsys):
    results, key = copied
    shutil.rmtree(results / "models")
    assert call(key, "--results", str(results)) == 2
    assert "holds no weights" in capsys.readouterr().err
    assert call("0" * 16, "--results", str(results)) == 2
    assert "there is no record" in capsys.readouterr().err


def test_a_records_configuration_is_the_runs(trained, smoke):
    config = smoke("method=remora", f"paths.results={trained[0]}")
    again = from_record(json.loads(json.dumps(config.as_dict())))
    assert {**again.as_dict(), "protocol": None} == {**config.as_dict(), "protocol": None}
    with pytest.raises(ConfigError, match=r"method, task, .*, protocol are missing"):
        from_record({})
