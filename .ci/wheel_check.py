"""Build wheel and sdist, compare them with `git ls-files`, and test the wheel in a new environment.

    python .ci/wheel_check.py            everything
    python .ci/wheel_check.py --files    only build and compare

The wheel is installed into a new environment and run outside the checkout without network access: version, training of
ten steps on the synthetic world, index, locate, evaluate, service and web page. The exported checkpoint is loaded with
its remote code in a Python process that cannot import this package.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = "world,app"  # app includes serve
TRAINING = (
    "--config world_small data.train.num_pairs=160 data.validation.num_pairs=32 optimisation.epochs=1 "
    "sampling.batch_size=16 sampling.neighbours=4 sampling.pool=16 sampling.gps_epochs=1 "
    "evaluate_every=1 save_every=1 output=run"
)
REMOTE_CODE = """
import sys
sys.modules["gengeo_hf"] = None  # as if it were not installed
import numpy as np
from transformers import AutoImageProcessor, AutoModel
model = AutoModel.from_pretrained("exported", trust_remote_code=True)
processor = AutoImageProcessor.from_pretrained("exported", trust_remote_code=True)
pixels = processor(np.zeros((90, 90, 3), np.uint8), view="aerial", return_tensors="pt")["pixel_values"]
print("descriptor", tuple(model(pixels).pooler_output.shape))
"""


def main() -> None:
    """Run the check; exit with status 1 on a difference or a failed command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", action="store_true", help="only build and compare the files")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wheel-check-") as folder:
        work = Path(folder)
        files = tracked()
        wheel, sdist = build(files, work)
        compare(files, wheel, sdist)
        if not given.files:
            use(install(wheel, work / "env"), work / "away")


def tracked() -> set[str]:
    """Return the tracked files of the checkout."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {name for name in listed.split("\0") if name and (ROOT / name).is_file()}


def build(files: set[str], work: Path) -> tuple[Path, Path]:
    """Build the sdist of the tracked files and the wheel of that sdist; return wheel and sdist."""
    source = work / "source"
    for name in files:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    run([sys.executable, "-m", "build", "--outdir", work / "dist", source], quiet=True)
    return next((work / "dist").glob("*.whl")), next((work / "dist").glob("*.tar.gz"))


def compare(files: set[str], wheel: Path, sdist: Path) -> None:
    """Exit if the files of the wheel or of the sdist differ from the tracked files."""
    with tarfile.open(sdist) as archive:
        packed = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    made = {name for name in packed if name in ("PKG-INFO", "setup.cfg") or ".egg-info/" in name} - files
    report("sdist", files, packed - made)
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    report("wheel", {name for name in files if name.startswith("gengeo_hf/")}, packed)


def report(kind: str, expected: set[str], found: set[str]) -> None:
    """Print the number of files, or exit with the differences."""
    lacking, more = sorted(expected - found), sorted(found - expected)
    if lacking or more:
        sys.exit(f"the {kind} lacks {lacking} and has {more}, which git does not track: see MANIFEST.in")
    print(f"{kind}: {len(found)} files, as in git", flush=True)


def install(wheel: Path, env: Path) -> Path:
    """Install the wheel into a new environment; return its directory of programs."""
    venv.create(env, with_pip=True)
    programs = env / ("Scripts" if os.name == "nt" else "bin")
    pip = [programs / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run([*pip, "-c", ROOT / "constraints.txt", f"{wheel}[{EXTRAS}]"])
    return programs


def use(programs: Path, away: Path) -> None:
    """Run the commands of users in a directory outside the checkout."""
    away.mkdir()
    gengeo = programs / "gengeo"
    assert "0." in run([gengeo, "--version"], away)
    run(
        [
            programs / "accelerate",
            "launch",
            "--cpu",
            "--num_processes",
            "1",
            "--num_machines",
            "1",
            "--mixed_precision",
            "no",
            "--dynamo_backend",
            "no",
            "-m",
            "gengeo_hf.training",
            *TRAINING.split(),
        ],
        away,
    )
    run([programs / "python", "-c", TILES], away)
    run([gengeo, "index", "tiles", "--out", "x.gengeo", "--model", "run/model", "--tile-size-m", "30m"], away)
    again = run([gengeo, "info", "x.gengeo", "--json"], away)
    assert json.loads(again)["tiles"] == 4, again
    query = ["--index", "x.gengeo", "--model", "run/model"]
    answer = json.loads(run([gengeo, "locate", "tiles/2.png", *query, "--json"], away))
    assert answer["error"] is None and len(answer["places"]) > 0, answer
    evaluate = [gengeo, "evaluate", "--model", "run/model", "--json", "--data", "world-urban:test num_pairs=40"]
    assert "R@1" in json.loads(run(evaluate, away))
    run([gengeo, "export", "run/model", "exported"], away)
    assert "descriptor" in run([programs / "python", "-c", REMOTE_CODE], away)
    photo = (away / "tiles" / "2.png").read_bytes()
    with running([gengeo, "serve", *query], away) as address:
        assert json.loads(fetch(f"{address}/locate?fov=60", photo))["places"]
        fetch(f"{address}/health")
    with running([gengeo, "app", *query], away) as address:
        assert b"<html" in fetch(address).lower()
    print("the wheel works outside the checkout")


TILES = """
from pathlib import Path
from PIL import Image
Path("tiles").mkdir()
lines = ["image,lat,lon"]
for number in range(4):
    Image.effect_noise((90, 90), 40 + 30 * number).convert("RGB").save(f"tiles/{number}.png")
    lines.append(f"{number}.png,60.{number},25.0")
Path("tiles/tiles.csv").write_text("\\n".join(lines) + "\\n")
"""


def run(command: list, folder: Path | None = None, quiet: bool = False) -> str:
    """Run a command and return its stdout; exit with its output if it fails."""
    command = [str(argument) for argument in command]
    started = time.monotonic()
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\nexit code {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}")
    if not quiet:
        print(
            f"{time.monotonic() - started:6.1f} s  {' '.join(Path(command[0]).name.split() + command[1:])[:110]}",
            flush=True,
        )
    return done.stdout


def environment() -> dict[str, str]:
    """Return the environment without the checkout on its path and without the Hub."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return kept | {"HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False", "TOKENIZERS_PARALLELISM": "false"}


class running:  # lower case, because it is used as: with running(...)
    """Run a server on a free port during the block; return its address once it answers."""

    def __init__(self, command: list, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.address = f"http://127.0.0.1:{probe.getsockname()[1]}"
        self.command = [str(argument) for argument in [*command, "--port", self.address.rpartition(":")[2]]]
        self.folder = folder

    def __enter__(self) -> str:
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            self.command, cwd=self.folder, env=environment(), stdout=self.errors, stderr=self.errors
        )
        for _ in range(600):
            if self.process.poll() is not None:
                break
            try:
                fetch(self.address)
                return self.address
            except OSError as error:
                if getattr(error, "code", None) is not None:  # it answers with an error at the root
                    return self.address
                time.sleep(0.5)
        self.errors.seek(0)
        sys.exit(f"{' '.join(self.command)} does not answer\n{self.errors.read()[-5000:]}")

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.errors.close()
        print(f"          {Path(self.command[0]).name} {self.command[1]} answered", flush=True)


def fetch(address: str, body: bytes | None = None) -> bytes:
    """Send GET, or POST if there is a body; return the response."""
    request = urllib.request.Request(address, data=body, headers={"Content-Type": "application/octet-stream"})
    with urllib.request.urlopen(request, timeout=120) as response:
        found: bytes = response.read()
    return found


if __name__ == "__main__":
    main()
