"""What the paper's scale needs from the Hugging Face hub, and how it is fetched for machines without a network.

Models go to the cache of the hub's own client (HF_HOME), where transformers finds them. Data sets go to a folder with
copies, which `task.data_dir` names: the client's cache would not hold those that are streamed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .. import files
from ..errors import ConfigError
from . import hub


@dataclass(frozen=True)
class HubSource:
    """A model or a data set of the hub.

    Attributes:
        what: What the project reads from it.
        licence: Its licence, and whether the hub asks for an account that has accepted the licence.
        size: About how much is fetched.
        is_model: Whether it is a model, or the tokenizer of a model.
        patterns: Patterns of the names of the files that are fetched; none: all files.
    """

    what: str
    licence: str
    size: str
    is_model: bool = False
    patterns: tuple[str, ...] = ()


# C4 has 1,024 training files of about 184 million of T5's tokens: the 5.2 billion tokens of the paper's pretraining are
# in the first 29. The Pile has 30 training files with about 0.5 million PubMed abstracts each.
SOURCES = {
    "meta-llama/Llama-2-7b-hf": HubSource(
        "weights and tokenizer: uuid, instruct, math, biomed, finance",
        "LLaMA 2 Community License; gated: accept it on the model's page, then set HF_TOKEN",
        "13.5 GB",
        is_model=True,
        patterns=("*.json", "*.safetensors", "tokenizer.model"),
    ),
    "google-t5/t5-base": HubSource(
        "the tokenizer: pretrain",
        "Apache-2.0",
        "2 MB",
        is_model=True,
        patterns=("config.json", "tokenizer*", "spiece.model"),
    ),
    hub.TULU: HubSource("326,154 conversations: instruct", "ODC-BY; parts have licences of their own", "< 2 GB"),
    hub.METAMATH: HubSource("395,000 solved problems: math", "MIT", "0.4 GB"),
    hub.GSM8K: HubSource("the 1,319 test questions: math", "MIT", "5 MB"),
    hub.MATH: HubSource("the 5,000 test problems: math", "MIT", "10 MB"),
    hub.MMLU: HubSource("14,042 test questions: instruct, biomed", "MIT", "< 1 GB"),
    hub.PILE: HubSource(
        "PubMed abstracts, from two of 30 files: biomed",
        "that of each document; see the page",
        "22 GB",
        patterns=("README.md", "train/0[01].jsonl.zst"),
    ),
    hub.MEDICINE_TASKS: HubSource("PubMedQA, USMLE, RCT: biomed", "those of the data sets; see the page", "< 1 GB"),
    hub.FINANCIAL_NEWS: HubSource("306,242 articles: finance", "see the page", "< 2 GB"),
    hub.FINANCE_TASKS: HubSource(
        "ConvFinQA, FiQA SA, Headline, NER, FPB: finance", "those of the data sets; see the page", "< 1 GB"
    ),
    hub.C4: HubSource(
        "50 of 1,024 training files, and the validation files: pretrain, general text",
        "ODC-BY",
        "16 GB",
        patterns=("README.md", "en/c4-train.000[0-4]*.json.gz", "en/c4-validation.*.json.gz"),
    ),
}


def fetch(name: str, copies: Path) -> None:
    """Fetch a source. Files that are there already are not fetched again.

    Args:
        name: An id of `SOURCES`.
        copies: The folder with copies of data sets; a data set goes to `<copies>/<owner>/<name>`.

    Raises:
        ConfigError: The hub cannot be reached, or does not give the files, or the disk does not take them.
    """
    from huggingface_hub import HfApi, snapshot_download

    source, patterns = SOURCES[name], list(SOURCES[name].patterns) or None
    try:
        if source.is_model:
            snapshot_download(name, allow_patterns=patterns)
            return
        commit, folder = HfApi().dataset_info(name).sha, copies / name
        snapshot_download(name, repo_type="dataset", revision=commit, local_dir=folder, allow_patterns=patterns)
        files.write_json(folder / hub.ORIGIN, {"id": name, "commit": commit, "files": patterns})
    except Exception as error:  # the client raises many unrelated types
        reason = hub.first_line(error)
        gated = f"; {source.licence}: https://huggingface.co/{name}" if "gated" in source.licence else ""
        raise ConfigError(
            f"{name} cannot be fetched ({reason}){gated}; run this where there is a network, and copy "
            f"{'the folder HF_HOME' if source.is_model else copies} here: docs/models-and-data.md"
        ) from error


def state(name: str, copies: Path) -> str:
    """`ready`; `by hand` for a copy that this project has not fetched; or `absent`."""
    from huggingface_hub import snapshot_download

    source = SOURCES[name]
    if not source.is_model:
        if (copies / name / hub.ORIGIN).is_file():
            return "ready"
        return "by hand" if hub.copy_of(name, copies) else "absent"
    try:
        snapshot_download(name, allow_patterns=list(source.patterns), local_files_only=True)
        return "ready"
    except (OSError, ValueError):
        return "absent"
