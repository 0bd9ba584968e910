"""Fetching pinned files, with the real clients and packages that the tests make."""

import errno
import hashlib
import io
import shutil
import tarfile
import zipfile
from dataclasses import replace

import pytest

from experiments import sources
from experiments.errors import ConfigError

METADATA = "Metadata-Version: 2.1\nName: corpus-of-two\nVersion: 1.0\n"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A wheel that pip finds in a folder and nowhere else, registered as the source `two`."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    wheel = shelf / "corpus_of_two-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("corpus_of_two/data/a.txt", "first\n")
        file.writestr("corpus_of_two/data/sub/b.txt", "second\n")
        file.writestr("corpus_of_two/data/run_me.py", "raise SystemExit\n")
        file.writestr("corpus_of_two-1.0.dist-info/METADATA", METADATA)
        file.writestr(
            "corpus_of_two-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr("corpus_of_two-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    source = sources.Source(
        "corpus-of-two", "1.0", "wheel", digest, 1000, "corpus_of_two/data", ("*.txt",), "two texts", "CC0", "nobody"
    )
    monkeypatch.setitem(sources.SOURCES, "two", source)
    return shelf


def left_in(cache):
    return [p for p in cache.rglob("*") if p.is_file() and not p.name.endswith(".lock")]


def test_a_source_is_fetched_once_and_then_needs_no_network(package, tmp_path):
    cache = tmp_path / "cache"
    assert sources.state("two", cache) == "absent"
    files = sources.fetch("two", cache)
    assert {name: path.read_text() for name, path in files.items()} == {"a.txt": "first\n", "sub/b.txt": "second\n"}
    assert sources.state("two", cache) == "ready"
    shutil.rmtree(package)
    assert sources.fetch("two", cache) == files


def test_a_truncated_file_is_fetched_again(package, tmp_path):
    files = sources.fetch("two", tmp_path / "cache")
    files["a.txt"].write_text("")
    assert sources.fetch("two", tmp_path / "cache")["a.txt"].read_text() == "first\n"


def test_a_wrong_sum_is_refused(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sources.SOURCES, "two", replace(sources.SOURCES["two"], sha256="0" * 64))
    with pytest.raises(ConfigError, match=r"^source two: .* has sha256 [0-9a-f]{64}, expected 0{64}.*$"):
        sources.fetch("two", tmp_path / "cache")
    assert not left_in(tmp_path / "cache")


def test_without_a_network_there_is_one_clear_line(package, tmp_path):
    shutil.rmtree(package)
    package.mkdir()
    with pytest.raises(ConfigError) as caught:
        sources.fetch("two", tmp_path / "cache")
    assert "corpus-of-two 1.0 cannot be downloaded; is there a network?" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not left_in(tmp_path / "cache")


def test_a_full_disk_leaves_nothing_behind(package, tmp_path, monkeypatch):
    def full(stream, file):
        file.write(b"fir")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sources.shutil, "copyfileobj", full)
    with pytest.raises(ConfigError, match=r"cannot be stored below paths.cache .*: No space left on device"):
        sources.fetch("two", tmp_path / "cache")
    assert not left_in(tmp_path / "cache")


def test_without_npm_it_says_so(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sources.SOURCES, "two", replace(sources.SOURCES["two"], client="npm"))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="npm is needed to download corpus-of-two, and is not installed"):
        sources.fetch("two", tmp_path / "cache")


def test_a_named_file_that_is_absent_is_an_error(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sources.SOURCES, "two", replace(sources.SOURCES["two"], files=("*.txt", "c.txt")))
    with pytest.raises(ConfigError, match=r"has no file corpus_of_two/data/c\.txt"):
        sources.fetch("two", tmp_path / "cache")
    assert not left_in(tmp_path / "cache")


@pytest.mark.parametrize("name", ["root/../../escaped.txt", "root/sub/../../../escaped.txt"])
def test_no_path_leaves_the_folder(tmp_path, name):
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as tape:
        member = tarfile.TarInfo(name)
        member.size = 1
        tape.addfile(member, io.BytesIO(b"x"))
    source = replace(sources.SOURCES["brown"], root="root", files=("*",))
    with pytest.raises(ConfigError, match="leaves the folder"):
        sources._unpack("brown", source, archive, tmp_path / "out")
    assert not list(tmp_path.rglob("escaped.txt"))


def test_links_are_not_unpacked(tmp_path):
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as tape:
        link = tarfile.TarInfo("root/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tape.addfile(link)
        member = tarfile.TarInfo("root/plain")
        member.size = 1
        tape.addfile(member, io.BytesIO(b"x"))
    source = replace(sources.SOURCES["brown"], root="root", files=("*",))
    assert sources._unpack("brown", source, archive, tmp_path / "out") == {"plain": 1}


def test_what_would_fill_the_disk_is_not_unpacked(tmp_path, monkeypatch):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("root/a", "x" * 100)
    monkeypatch.setattr(sources, "UNPACKED_LIMIT", 99)
    with pytest.raises(ConfigError, match="too large"):
        sources._unpack(
            "brown", replace(sources.SOURCES["brown"], root="root", files=("*",)), archive, tmp_path / "out"
        )
