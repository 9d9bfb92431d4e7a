"""The picture in README.md: the first screen of a run's report, taken by headless Chromium.

python scripts/screenshots.py                                        # of runs/quickstart: .github/report.png
python scripts/screenshots.py --run runs/NAME --output report.png
"""

import shutil
import subprocess
import tempfile
from argparse import Namespace
from pathlib import Path

from data_prep import InputError
from finetune.command import CommandParser, guarded
from finetune.runs import REPORT

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDTH, HEIGHT = 1100, 730  # pixels


def run(given: Namespace) -> None:
    """Take the picture."""
    page = given.run / REPORT
    if not page.is_file():
        raise InputError(f"{page} is missing", "run scripts/evaluate.py with the run's --config first")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise InputError(f"none of {', '.join(BROWSERS)} is installed", "install one, as by apt-get install chromium")
    output = given.output.resolve()
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as profile, tempfile.TemporaryDirectory(dir=output.parent) as beside:
        taken = Path(beside) / "taken.png"  # beside the old picture, which stays where the browser fails
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        command += ["--hide-scrollbars", f"--window-size={WIDTH},{HEIGHT}", f"--user-data-dir={profile}"]
        command += [f"--screenshot={taken}", page.resolve().as_uri()]
        done = subprocess.run(command, capture_output=True, text=True)
        if not taken.is_file():
            said = (done.stderr.strip().splitlines() or ["it does not say why"])[-1]
            raise InputError(f"{browser} took no picture ({said})", "start it by hand")
        taken.replace(output)
    print(f"{given.output}: {WIDTH} x {HEIGHT} pixels, {output.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    parser = CommandParser(__doc__ or "")
    parser.add_argument("--run", type=Path, default=Path("runs/quickstart"), help="The folder of an evaluated run.")
    parser.add_argument("--output", type=Path, default=Path(".github/report.png"), help="The PNG file that is written.")
    arguments = parser.parse_args()
    guarded(lambda: run(arguments))
