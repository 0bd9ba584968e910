"""Files and folders that appear whole or not at all."""

import os

import pytest

from experiments import files


@pytest.fixture
def flushed(monkeypatch):
    """The flushed paths in order, each with the names that its folder holds at that moment."""
    paths, flush = [], files.flush

    def record(path):
        paths.append((path, sorted(os.listdir(path if path.is_dir() else path.parent))))
        flush(path)

    monkeypatch.setattr(files, "flush", record)
    return paths


def test_a_file_is_flushed_before_it_appears_and_its_name_after(tmp_path, flushed):
    files.write(tmp_path / "a.json", b"new")
    (content, before), (folder, after) = flushed
    assert (content.parent, folder) == (tmp_path, tmp_path)
    assert before == [content.name]
    assert after == ["a.json"]
    assert (tmp_path / "a.json").read_bytes() == b"new"
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o644


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
