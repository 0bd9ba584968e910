"""Keys and tokens are in no record, no printed line, no report and no tracked file."""

import json
import os
import re
import shlex
import subprocess
import sys
import urllib.parse
from pathlib import Path

import pytest

from experiments import redact, runner
from experiments.cli import script
from experiments.errors import ConfigError
from experiments.identity import key_of
from experiments.store.records import Store
from experiments.tasks.uuid import UuidTask
from experiments.train import trainer
from scripts import make_report, make_tables

from ..conftest import ROOT
from ..processes import launch

WANDB_KEY = "0123456789abcdef" * 2 + "01234567"  # forty hexadecimal digits, like the name of a commit
HF_TOKEN = "hf_" + "aB3" * 10
LOGIN = "me" + ":pw"
PASSPHRASE = "correct-horse-battery"
COMMIT = "7f7fe13" + "0" * 33


@pytest.fixture
def keys(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", WANDB_KEY)
    monkeypatch.setenv("MY_SECRET", "correct-horse-battery")


@pytest.mark.promise("Keys and tokens reach no record, no line that is printed, and no report.")
def test_a_secret_is_known_by_its_variable_or_its_prefix(keys, monkeypatch):
    monkeypatch.setenv("SHORT_TOKEN", "abc")
    for secret in (WANDB_KEY, HF_TOKEN, "sk-" + "x1" * 12, "ghp_" + "a" * 36, "correct-horse-battery"):
        assert secret not in redact.text(f"refused: {secret}.")
        assert redact.holds_secret({"a": [f"x={secret}"]})
        assert redact.everything({secret: [secret, 1]}) == {redact.HIDDEN: [redact.HIDDEN, 1]}
    assert redact.text(f"pip: https://{LOGIN}@host/simple") == "pip: https://[secret]@host/simple"
    for harmless in (COMMIT, "ab" * 32, "task-uuid-laptop-mora-r8", "hf_datasets/hails/mmlu", "abc", "risk-adjusted-x"):
        assert redact.text(harmless) == harmless


@pytest.mark.promise("Keys and tokens reach no record, no line that is printed, and no report.")
def test_a_secret_in_an_error_reaches_neither_record_nor_report(smoke, keys, monkeypatch, capsys, tmp_path):

    message = f"401 for {WANDB_KEY} and {HF_TOKEN} at https://{LOGIN}@hub/x, MY_SECRET=correct-horse-battery, {COMMIT}"
    monkeypatch.setattr(trainer, "train", lambda trainer: (_ for _ in ()).throw(RuntimeError(message)))
    config = smoke("method=lora", "training.steps=1", "training.warmup_steps=0")

    @redact.streams()
    def main():
        return runner.run(config)

    record = main()
    (path,) = (tmp_path / "results" / "runs").glob("*.json")
    values = json.loads(path.read_text())
    assert (record.status, values["status"]) == ("failed", "failed")
    # A record from another machine that holds the secret.
    identity = values["identity"] | {"seed": 7}
    other = values | {"key": key_of(identity), "identity": identity, "cell": values["cell"] | {"seed": 7}}
    other |= {"name": f"by {HF_TOKEN}", "error": {"type": "E", "message": message}}
    (path.parent / f"{other['key']}.json").write_text(json.dumps(other))
    (path.parent / "broken.json").write_text(f'{{"schema": "{HF_TOKEN}"}}')
    for writer in (make_report, make_tables):
        assert script.guarded(lambda: writer.main(["--results", str(tmp_path / "results")])) == 0  # noqa: B023
    out, err = capsys.readouterr()
    files = [p for p in (tmp_path / "results").rglob("*") if p.suffix in (".html", ".md", ".csv", ".tex", ".txt")]
    assert {tmp_path / "results" / "report.html", Store(tmp_path / "results").failure(record.key)} <= {*files}
    texts = [path.read_text(), out, err, *(p.read_text() for p in files)]
    for text in texts:
        for secret in (WANDB_KEY, HF_TOKEN, LOGIN, "correct-horse-battery"):
            assert secret not in text
    assert redact.HIDDEN in values["error"]["message"]
    assert COMMIT in values["error"]["message"]
    assert "failed: RuntimeError: 401 for [secret]" in err


@pytest.mark.promise("Keys and tokens reach no record, no line that is printed, and no report.")
@pytest.mark.parametrize(
    "name",
    [
        *("TOKEN", "SECRET", "PASSWORD", "PGPASSWORD", "SMTP_PASS", "HUB_TOKENS", "GITHUB_PAT", "API_KEY_ID", "apikey"),
        *("OPENAI_API_KEY", "AWS_ACCESS_KEY_ID", "DB_PASSWD", "KEY_PASSPHRASE", "HF_TOKEN_2", "service_credentials"),
    ],
)
def test_the_name_of_a_variable_tells_a_secret(name, monkeypatch):
    monkeypatch.setenv(name, "correct-horse-battery")
    assert redact.text("at correct-horse-battery.") == "at [secret]."


@pytest.mark.parametrize(
    "name", ["PATH", "PWD", "SSH_ASKPASS", "TOKENIZERS_PARALLELISM", "KEYBOARD", "COMPASS", "PATTERN"]
)
def test_other_variables_hold_no_secret(name, monkeypatch):
    monkeypatch.setenv(name, "correct-horse-battery")
    assert redact.text("at correct-horse-battery.") == "at correct-horse-battery."


LINES = ["-----BEGIN-----", "aZ9" * 9, "it's " + "bY8" * 8, "cX7 " * 6 + "c", "-----END-----"]


@pytest.mark.promise("Keys and tokens reach no record, no line that is printed, and no report.")
@pytest.mark.parametrize(
    "form",
    [
        str,
        repr,
        json.dumps,
        shlex.quote,
        urllib.parse.quote,
        lambda s: " ".join(s.split()),
        lambda s: s.splitlines()[1],
    ],
)
def test_every_form_of_a_key_of_several_lines_is_hidden(form, monkeypatch):
    monkeypatch.setenv("SIGNING_KEY", "\n".join(LINES) + "\n")
    shown = redact.text(f"refused: {form(os.environ['SIGNING_KEY'].strip())}!")
    assert "[secret]" in shown
    assert [part for part in ("aZ9aZ9aZ9aZ9aZ9aZ9aZ9aZ9aZ9", "bY8" * 8, "cX7 " * 6) if part in shown] == []


@pytest.mark.promise("Keys and tokens reach no record, no line that is printed, and no report.")
def test_a_token_in_an_address_is_hidden():
    assert redact.text("https://t0ken@host/x and https://host/a@b") == "https://[secret]@host/x and https://host/a@b"


def print_and_fail() -> None:
    def fail(*_):
        print(PASSPHRASE, flush=True)
        raise RuntimeError(f"401 for {PASSPHRASE}")

    UuidTask.evaluate = fail


@pytest.mark.promise("What a run prints reaches W&B with its secrets hidden.")
def test_a_secret_that_is_printed_is_in_no_file_of_wandb(tmp_path, counted):
    """The run prints a secret while W&B listens, and fails with the secret in its error."""
    environment = {"WANDB_API_KEY": "", "WANDB_MODE": "offline", "HOME": str(tmp_path)}
    environment["MY_" + "SECRET"] = PASSPHRASE
    arguments = ["method=none", "scale=smoke", "hardware=cpu", "logger=wandb", f"paths.results={tmp_path / 'results'}"]
    done = launch(*arguments, log=tmp_path / "log", before=print_and_fail, environment=environment)
    assert done.code == 1, done.err
    assert "failed: RuntimeError: 401 for [secret]" in done.err
    files = [p for p in (tmp_path / "results").rglob("*") if p.is_file()]
    assert any(p.suffix == ".wandb" and b"401 for [secret]" in p.read_bytes() for p in files)
    assert [p for p in files if PASSPHRASE.encode() in p.read_bytes()] == []
    counted(len(files), "files of W&B and the store")


@pytest.mark.promise("Keys and tokens reach no record, no line that is printed, and no report.")
def test_an_interpolated_secret_is_refused(smoke, keys):
    with pytest.raises(ConfigError, match=r"^paths\.cache holds a key or a token"):
        smoke("paths.cache=${oc.env:WANDB_API_KEY}")
    with pytest.raises(ConfigError, match=r"^model holds a key or a token"):
        smoke("model=/models/${oc.env:MY_SECRET}")


def test_a_traceback_hides_secrets_too(keys):
    probe = (
        "from experiments import redact\n@redact.streams()\ndef main():\n raise ValueError('" + HF_TOKEN + "')\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "ValueError: [secret]" in done.stderr
    assert HF_TOKEN not in done.stderr


# The forms of keys. The patterns are put together from parts, so that this file holds no key. Checksums and names of
# commits are not keys.
SHAPES = re.compile(
    "|".join(
        [
            redact.PREFIXES.pattern,
            "-----BEGIN [A-Z ]*PRIVATE" + " KEY-----",
            r"(?i:api_?key|token|secret|passw(?:or)?d)[\"']?\s*[:=]\s*[\"'][A-Za-z0-9/+_-]{20,}[\"']",
        ]
    )
)


def tracked():
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_the_scan_sees_what_it_looks_for():
    for line in (f"x = '{HF_TOKEN}'", "-----BEGIN RSA PRIVATE" + " KEY-----", "api_key: '" + "aZ9" * 8 + "'"):
        assert SHAPES.search(line), line
    for line in (f"commit {COMMIT}", 'sha256 = "' + "ab" * 32 + '"', "token = tokenizer.eos_token_id"):
        assert not SHAPES.search(line), line


def test_the_scan_of_make_check_finds_a_key_and_takes_no_sum_for_one(tmp_path):
    """`make scan` and the pattern above do not know the same kinds of keys."""
    (options,) = re.findall(r"^SCAN := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    scan = [str(Path(sys.executable).parent / "detect-secrets-hook"), "-c", "1", *options.split()]
    (tmp_path / "a.py").write_text(f"gh = '{'ghp_' + 'aZ9' * 12}'\n")
    assert subprocess.run([*scan, str(tmp_path / "a.py")], capture_output=True).returncode == 1
    (tmp_path / "b.py").write_text(f"commit = '{COMMIT}'\nsha256 = '{'ab' * 32}'\n")
    assert subprocess.run([*scan, str(tmp_path / "b.py")], capture_output=True).returncode == 0


@pytest.mark.promise("No tracked file holds a key.")
def test_no_tracked_file_holds_a_key(counted):
    files = tracked()
    for path in files:
        match = SHAPES.search(path.read_bytes().decode(errors="replace"))
        assert not match, f"{path.relative_to(ROOT)}: {match[0][:12]}..."
    counted(len(files), "files scanned")
