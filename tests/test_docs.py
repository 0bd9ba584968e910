"""What the documentation shows works."""

import os
import re
import subprocess
import sys

from .conftest import ROOT


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def test_the_ninth_method_of_the_page_runs(tmp_path):
    """Put the page's two blocks where it says, in a copy of the configuration, and run the new method."""
    (yaml,) = blocks("docs/adding.md", "yaml")
    (code,) = blocks("docs/adding.md", "python")
    folder = tmp_path / "conf" / "method"
    folder.mkdir(parents=True)
    (folder / "rslora.yaml").write_text(yaml)
    probe = f"import sys, run; from experiments import methods;exec({code!r}, vars(methods)); sys.exit(run.main())"
    arguments = [
        "method=rslora",
        "scale=smoke",
        "logger=none",
        "hardware=cpu",
        f"paths.results={tmp_path / 'results'}",
        f"hydra.searchpath=[file://{tmp_path / 'conf'}]",
    ]
    done = subprocess.run([sys.executable, "-c", probe, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "uuid-smoke-rslora-r8" in done.stdout


def test_the_plot_of_the_schedules_is_what_the_script_draws(tmp_path):
    sys.path.insert(0, str(ROOT))
    from scripts.plot_schedules import main

    main(tmp_path / "schedules.svg")
    assert (tmp_path / "schedules.svg").read_bytes() == (ROOT / "docs" / "schedules.svg").read_bytes()
    assert os.listdir(tmp_path) == ["schedules.svg"]
