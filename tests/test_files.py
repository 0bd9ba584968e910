"""Files and folders that appear whole or not at all."""

import os
import subprocess
import sys

import pytest

from experiments import files
from experiments.identity import fingerprint
from experiments.spec.run_config import Paths

from .conftest import ROOT

KEPT = "A value that the cache keeps has a sum. If the file is damaged, the value is computed again."
MODELS = "Two models that differ in one byte have different keys."


@pytest.fixture
def flushed(monkeypatch):
    """The flushed paths in order, each with the names that its folder holds at that moment."""
    paths, flush = [], files.flush

    def record(path):
        paths.append((path, sorted(os.listdir(path if path.is_dir() else path.parent))))
        flush(path)

    monkeypatch.setattr(files, "flush", record)
    return paths


def test_a_folder_is_there_whole_or_not_at_all_if_its_removal_is_cut_short(tmp_path, monkeypatch):
    folder = tmp_path / "checkpoint-8"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).write_text(name)

    def cut_short(path, ignore_errors):
        if path.exists():
            (path / "a").unlink()
            raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(files.shutil, "rmtree", cut_short)
        with pytest.raises(SystemExit):
            files.remove(folder)
    assert not folder.exists()
    assert [p.name for p in tmp_path.iterdir()] == [".checkpoint-8.removed"]
    files.remove(folder)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_flushed_before_it_appears_and_its_name_after(tmp_path, flushed):
    files.write(tmp_path / "a.json", b"new")
    (content, before), (folder, after) = flushed
    assert (content.parent, folder) == (tmp_path, tmp_path)
    assert before == [content.name]
    assert after == ["a.json"]
    assert (tmp_path / "a.json").read_bytes() == b"new"
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o644


@pytest.mark.promise("Files and folders of results have the permissions that the umask allows.")
def test_files_and_folders_follow_the_umask(tmp_path, counted):
    code = (
        "import os; os.umask(0o077); from pathlib import Path; from experiments import files\n"
        f"folder = Path({str(tmp_path)!r}) / 'sub'; files.write(folder / 'a.json', b'')\n"
        "with files.new_folder(folder / 'model') as model: (model / 'weights').write_bytes(b'')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes == {"sub": 0o700, "a.json": 0o600, "model": 0o700, "weights": 0o600}
    counted(len(modes), "files and folders")


def test_a_folder_is_flushed_with_all_that_is_in_it(tmp_path, flushed):
    with files.new_folder(tmp_path / "model") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "weights").write_text("1")
    assert [path.name for path, _ in flushed] == [folder.name, "sub", "weights", tmp_path.name]
    assert flushed[-1][1] == ["model"]


@pytest.mark.parametrize("new", [files.new_file, files.new_folder])
def test_what_breaks_off_leaves_nothing(new, tmp_path):
    def interrupted():
        with new(tmp_path / "sub" / "out") as temporary:
            (temporary / "part" if temporary.is_dir() else temporary).write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list((tmp_path / "sub").iterdir())


def test_what_a_killed_process_left_does_not_get_into_the_folder(tmp_path):
    (tmp_path / ".model.incomplete").mkdir()
    (tmp_path / ".model.incomplete" / "old").write_text("half")
    with files.new_folder(tmp_path / "model") as folder:
        (folder / "new").write_text("whole")
    assert os.listdir(tmp_path / "model") == ["new"]


def test_a_folder_that_exists_is_left_as_it_is(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine").write_text("precious")
    with pytest.raises(OSError, match="not empty"), files.new_folder(tmp_path / "model"):
        pass
    assert os.listdir(tmp_path) == ["model"]
    assert (tmp_path / "model" / "mine").read_text() == "precious"


@pytest.fixture
def settled(monkeypatch):
    """Files count as unchanged from the start, not only after two seconds."""
    monkeypatch.setattr(files, "SETTLED", -1.0)
    monkeypatch.setattr(files, "_sums", {})


def test_a_sum_is_computed_once_and_remembered_for_later_processes(tmp_path, settled, monkeypatch):
    (tmp_path / "a").write_bytes(b"one")
    memory = tmp_path / "memory" / "sums.json"
    first = files.sums([tmp_path / "a"], memory)
    monkeypatch.setattr(files, "_sums", {})  # a later process
    monkeypatch.setattr(files, "sha256", lambda path: pytest.fail("computed again"))
    assert files.sums([tmp_path / "a"], memory) == first


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": 3}', "[" * 100_000])
def test_a_damaged_memory_of_sums_is_ignored(tmp_path, settled, content):
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "sums.json").write_text(content)
    assert files.sums([tmp_path / "a"], tmp_path / "sums.json") == {tmp_path / "a": files.sha256(tmp_path / "a")}


@pytest.mark.promise(KEPT)
def test_no_other_value_is_read_from_a_file_with_its_sum(tmp_path, counted):
    """In each case one character of the file is another: a digit of a number or of the sum, or a letter of a name."""
    path, value = tmp_path / "answer.json", {"settings": {"r": 12, "alpha": 0.5}, "names": ["q_proj"]}
    files.write_summed(path, value)
    assert files.read_summed(path) == value
    content = path.read_text()
    for i, character in enumerate(content):
        path.write_text(f"{content[:i]}{'8' if character != '8' else '9'}{content[i + 1 :]}")
        assert files.read_summed(path) in (None, value)
    counted(len(content), "damaged cache files")
    path.write_text('{"settings": {"r": 12}}')
    assert files.read_summed(path) is None


def test_a_sum_that_changed_in_the_memory_is_computed_again(tmp_path, settled, monkeypatch):
    """With another sum, a model would have the key of another model."""
    path, memory = tmp_path / "a", tmp_path / "sums.json"
    path.write_bytes(b"one")
    digest = files.sums([path], memory)[path]
    memory.write_text(memory.read_text().replace(digest, digest[:-1] + ("0" if digest[-1] != "0" else "1")))
    monkeypatch.setattr(files, "_sums", {})  # a later process
    assert files.sums([path], memory) == {path: digest}


@pytest.mark.promise(MODELS)
def test_a_change_of_equal_size_gives_another_sum(tmp_path, settled):
    path = tmp_path / "a"
    path.write_bytes(b"one")
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    first = files.sums([path], tmp_path / "sums.json")
    path.write_bytes(b"two")
    os.utime(path, ns=times)  # the time of the change of the file's data on the disk, ctime, cannot be set
    assert files.sums([path], tmp_path / "sums.json") != first


@pytest.mark.promise(MODELS)
def test_the_fingerprint_of_a_model_covers_all_bytes(tmp_path):
    """Two models that differ in one byte in the middle of the weights are two models, wherever their folders lie."""
    paths = Paths(results="results", cache=str(tmp_path / "cache"))
    weights = bytes(5 << 20)
    prints = []
    for name, content in (("a", weights), ("b", weights), ("c", weights[: 2 << 20] + b"x" + weights[(2 << 20) + 1 :])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(content)
        prints.append(fingerprint(str(tmp_path / name), paths))
    assert prints[0] == prints[1] != prints[2]
