"""Peers live in virtual environments of their own, made when first needed."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

ENVIRONMENTS = Path(__file__).parent / ".envs"
RUNTIME = f"onnxruntime=={version('onnxruntime')}"  # the same for every server of a comparison


class Unavailable(SystemExit):
    """A peer cannot run here; the others still can."""


def install(name: str, *packages: str) -> Path:
    """Return the environment `name` with these packages; make it unless it is there."""
    environment, wanted = ENVIRONMENTS / name, " ".join(packages)
    done = environment / ".done"
    if done.exists() and done.read_text() == wanted:
        return environment
    print(f"installing {wanted} into bench/.envs/{name}", file=sys.stderr)
    pip = [str(environment / "bin/pip"), "install", "--quiet", "--disable-pip-version-check"]
    try:
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        subprocess.run([*pip, *packages], check=True)
    except subprocess.CalledProcessError as error:
        raise Unavailable(f"{name} cannot be installed here, see pip above; left out") from error
    done.write_text(wanted)
    return environment
