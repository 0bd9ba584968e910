"""The file with the traceback of a failed run."""

import errno

import pytest

from experiments import runner
from experiments.errors import ConfigError
from experiments.store import failures
from experiments.store.records import Store
from experiments.train import trainer


def raises(error):
    def act(*_):
        raise error

    return act


def test_a_wrong_setting_that_shows_late_leaves_one_line_and_no_file(smoke, monkeypatch, capsys):
    config = smoke("method=lora")
    monkeypatch.setattr(trainer, "train", raises(ConfigError("model is too small")))
    record = runner.run(config)
    assert (record.status, record.error) == ("failed", {"type": "ConfigError", "message": "model is too small"})
    assert not Store(config.paths.results).failure(record.key).parent.exists()
    assert "failed: ConfigError: model is too small\n" in capsys.readouterr().err


def test_a_disk_without_room_for_the_traceback_is_said_in_the_line(smoke, monkeypatch, capsys):
    config = smoke("method=lora")
    monkeypatch.setattr(trainer, "train", raises(RuntimeError("a fault")))
    monkeypatch.setattr("experiments.files.write", raises(OSError(errno.ENOSPC, "No space left on device")))
    monkeypatch.setattr(Store, "write", lambda *_: None)
    record = runner.run(config)
    assert record.error == {"type": "RuntimeError", "message": "a fault"}
    assert "failed: RuntimeError: a fault; its traceback cannot be written\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "named", "left_out"),
    [
        (
            ["method=lora", "training.batch_size=8", "hardware.processes=2"],
            "device_batch_size below 4 or",
            "device_batch_size below 8",
        ),
        (["method=lora"], "quantization=nf4", "quantization=none"),
        (["method=vera"], "method.rank below", "quantization"),
        (["method=lora", "method.train_rest=true"], "method.rank below", "quantization"),
    ],
)
def test_out_of_memory_names_settings_that_help_and_that_are_allowed(arguments, named, left_out, smoke):
    text = failures.remedies(smoke(*arguments))
    assert named in text
    assert left_out not in text


def test_a_traceback_holds_text_that_is_not_unicode(tmp_path):
    assert failures.write_traceback(tmp_path / "a.txt", "a run", ValueError("\ud800"))
    assert (tmp_path / "a.txt").read_text().endswith("ValueError: \\ud800\n")
