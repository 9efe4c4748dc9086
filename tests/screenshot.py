"""Makes the README's picture of the review page from a run over the sample photographs.

python -m tests.screenshot
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.conftest import ROOT

PICTURE = ROOT / "docs" / "review_page.png"
_SIZE = "1200,1000"


def main() -> None:
    """Captions the samples and takes a screenshot of the page in headless Chromium."""
    with tempfile.TemporaryDirectory() as output:
        subprocess.run([ROOT / "run_local.sh"], cwd=output, check=True)
        [page] = Path(output).glob("demo-output/runs/*/index.html")
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={_SIZE}"]
        subprocess.run(
            [shutil.which("chromium") or "chromium", *options, f"--screenshot={PICTURE}", page.as_uri()], check=True
        )


if __name__ == "__main__":
    main()
