"""Make the environment `.venv`: standard library only, safe to run again.

Usage: python pyfiles/house.py

Torch is installed first and alone, from TORCH_INDEX if set, else from the configured index;
then the package with what builds and tests the book, at the versions of constraints.txt.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "enough-environment"
LOG = VENV / "install.log"
OLDEST = (3, 11)
NETWORK_SIGNS = (
    "Temporary failure in name resolution",
    "Name or service not known",
    "nodename nor servname",
    "Network is unreachable",
    "Connection refused",
    "Failed to establish a new connection",
    "NewConnectionError",
    "ConnectTimeoutError",
    "Read timed out",
    "ProxyError",
    "SSLError",
    "(from versions: none)",
)


class Stop(Exception):
    """A failure that one sentence explains."""


def main() -> int:
    """Make the environment if it is not there or out of date; return the exit status."""
    started = time.monotonic()
    try:
        if sys.version_info < OLDEST:
            raise Stop(
                f"this book needs Python 3.11 or newer, and {sys.executable} is "
                f"{sys.version.split()[0]}: name a newer one with 'make PYTHON=python3.12'"
            )
        fresh = make_environment()
    except Stop as stop:
        print(f"error: {stop}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on", file=sys.stderr)
        return 130
    word = "made" if fresh else "ready"
    build = STAMP.read_text().split("|")[1]
    print(f"environment {word} in {time.monotonic() - started:.1f} s: {build}")
    return 0


def make_environment() -> bool:
    """Install what is missing; return whether anything was installed."""
    key = environment_key()
    if STAMP.exists() and STAMP.read_text().startswith(key + "|") and venv_python().exists():
        return False
    create_venv()
    pip = [str(venv_python()), "-m", "pip", "install", "--disable-pip-version-check"]
    torch = next(
        line
        for line in (ROOT / "constraints.txt").read_text().split()
        if line.startswith("torch==")
    )
    index = os.environ.get("TORCH_INDEX")
    print(
        f"installing {torch} from {'TORCH_INDEX' if index else 'the configured index'}", flush=True
    )
    run([*pip, torch, *(["--index-url", index] if index else [])], "install " + torch)
    print("installing the package and what builds and tests the book", flush=True)
    run([*pip, "-c", "constraints.txt", "-e", ".[book,test]"], "install the book's packages")
    probe = "import torch, enough; cuda = torch.version.cuda or 'absent'\n"
    probe += "print('torch', torch.__version__, 'with CUDA', cuda)"
    done = subprocess.run([venv_python(), "-c", probe], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Stop(f"the environment does not work: {done.stderr.strip().splitlines()[-1]}")
    STAMP.write_text(f"{key}|{done.stdout.strip()}")
    return True


def environment_key() -> str:
    """Hash what the environment is made from."""
    digest = hashlib.sha256(f"{sys.version_info[:2]}{os.environ.get('TORCH_INDEX')}{ROOT}".encode())
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()[:16]


def create_venv() -> None:
    """Create `.venv`, anew when it is broken or of another Python."""
    wanted = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if venv_python().exists():
        probe = "import sys, pip; print('%d.%d' % sys.version_info[:2])"
        done = subprocess.run(
            [venv_python(), "-c", probe], capture_output=True, text=True, check=False
        )
        if done.stdout.strip() == wanted:
            return
    if VENV.exists():
        shutil.rmtree(VENV)
    print(f"creating .venv with Python {wanted}", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "venv", VENV], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Stop(
            f"{sys.executable} cannot create a virtual environment (on Debian and Ubuntu install "
            f"python{wanted}-venv): {(done.stdout + done.stderr).strip().splitlines()[-1]}"
        )


def run(command: list, what: str) -> None:
    """Run pip, show a line for each package, keep the whole output in a log."""
    lines = []
    with LOG.open("a", encoding="utf-8") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for line in process.stdout:
            log.write(line)
            lines.append(line.strip())
            if line.startswith(("Collecting ", "Installing collected")):
                print("  " + line.strip()[:96], flush=True)
    if process.wait() == 0:
        return
    if any(sign in line for line in lines for sign in NETWORK_SIGNS):
        raise Stop(
            f"could not {what}: the package index cannot be reached (is the network up?); "
            f"log: {LOG}"
        )
    errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:] or ["no output"]
    raise Stop(f"could not {what}: {errors[0]}; log: {LOG}")


def venv_python() -> Path:
    """Return the environment's interpreter."""
    return VENV / "bin" / "python"


if __name__ == "__main__":
    sys.exit(main())
