#!/usr/bin/env python3
"""Set up this clone: `.venv` with the locked requirements, Detectron2 and this package (editable).

Run by every `make` target. It returns at once where nothing changed, and begins again where a run was
interrupted: an environment counts only once its stamp, written last, says so. If FISHER_DETR_ENVS names a
folder, the heavy part lies there under a key of the locked requirements and is shared between clones; each
`.venv` is then a light one that looks into it, and only this clone's package is installed in `.venv` itself.
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path


def python_problem(version):
    """Say what is wrong with a Python version, or return an empty string."""
    if (3, 11) <= tuple(version[:2]) <= (3, 13):
        return ""
    came = ".".join(str(part) for part in version[:2])
    return f"this is Python {came}, expected 3.11 to 3.13: name one, as in `make test PYTHON=python3.12`"


# Here, before anything an older Python trips over, so that this is the line that is read.
if python_problem(sys.version_info):
    sys.exit("set-up: " + python_problem(sys.version_info))

ROOT = Path(__file__).resolve().parents[1]
STAMP = "fisher_detr.json"
SHARED = "FISHER_DETR_ENVS"
MIN_FREE = 8e9  # bytes; the environment takes 5.5e9, and some of its 2.8e9 of downloads lie beside it
PART = 12  # requirements that are fetched together; their downloads are gone before the next ones come
FREE_FOR_CACHE = 12e9  # bytes; with less, the downloads are not kept a second time in pip's cache
PIP_INSTALL = ("-m", "pip", "install", "--no-deps", "--no-build-isolation")
NO_NETWORK = re.compile(
    r"NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|ProxyError|SSLError|name resolution"
    r"|Connection (refused|aborted|reset)|Network is unreachable|No route to host"
)


class SetupError(Exception):
    """The set-up cannot go on; the message is the one line the user reads."""


def digest(*contents: bytes) -> str:
    """Hash a sequence of contents."""
    total = hashlib.sha256()
    for content in contents:
        total.update(hashlib.sha256(content).digest())
    return total.hexdigest()[:16]


def environment_key(root: Path) -> str:
    """Name what the heavy part of an environment depends on, in a form that can be a folder's name."""
    import install_detectron2  # not above: an older Python could not read it

    locks = [(root / "requirements" / name).read_bytes() for name in ("build.txt", "lock.txt")]
    found = digest(*locks, install_detectron2.fingerprint().encode())
    return f"py{platform.python_version()}-{platform.machine()}-{found}"


def package_key(root: Path) -> str:
    """Name what the editable install depends on."""
    return digest(*((root / name).read_bytes() for name in ("setup.py", "pyproject.toml")))


def read_stamp(env: Path) -> dict:
    """Read the stamp of an environment; empty if there is none or it is not whole."""
    try:
        return json.loads((env / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def write_stamp(env: Path, **content: str) -> None:
    """Write the stamp of an environment in one step."""
    unfinished = env / (STAMP + ".new")
    unfinished.write_text(json.dumps(content), encoding="utf-8")
    os.replace(unfinished, env / STAMP)


def is_built(env: Path, key: str) -> bool:
    """Tell whether `env` is a finished environment for `key` that still lies where it was made."""
    stamp = read_stamp(env)
    if stamp.get("key") != key or stamp.get("path") != str(env) or not (env / "bin/python").exists():
        return False
    return "shared" not in stamp or is_built(Path(stamp["shared"]), key)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, so that two set-ups do not write to the same place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        # A pip that outlives a killed set-up keeps the lock: nobody builds where it still writes.
        os.set_inheritable(handle.fileno(), True)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"set-up: waiting for another set-up, which holds {path}", flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def clear(env: Path) -> None:
    """Make `env` an empty folder marked as this script's own, or refuse if somebody else made it."""
    ours = env.is_dir() and not env.is_symlink() and ((env / STAMP).exists() or not any(env.iterdir()))
    if os.path.lexists(env) and not ours:
        raise SetupError(f"{env} was not made by this script: move it away and run this again")
    env.mkdir(parents=True, exist_ok=True)
    write_stamp(env)  # not finished, but ours, even if what follows is cut short
    for entry in env.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != STAMP:
            entry.unlink()


def check_disk(env: Path) -> float:
    """Return the bytes free where `env` will lie; `SetupError` if they are too few."""
    place = next(parent for parent in env.parents if parent.exists())
    free = shutil.disk_usage(place).free
    if free < MIN_FREE:
        raise SetupError(
            f"{free / 1e9:.1f} GB free in {place}, expected at least {MIN_FREE / 1e9:.0f} GB: make room, "
            f"or set {SHARED} to a folder on a larger disk"
        )
    return free


def explain(output: str) -> str:
    """Turn what a failing step wrote into one line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["no output"]
    last = next((line for line in reversed(lines) if line.startswith("ERROR:")), lines[-1])
    if "No space left on device" in output:
        return f"the disk is full: make room, or set {SHARED} to a folder on a larger disk"
    if "DO NOT MATCH THE HASHES" in output:
        return "the package index serves other files than the lock names: use another index (PIP_INDEX_URL)"
    if NO_NETWORK.search(output):
        return (
            "the package index cannot be reached: connect to the network, or tell pip of an index, a proxy "
            f"or a certificate (PIP_INDEX_URL, HTTPS_PROXY, PIP_CERT), and run this again ({last})"
        )
    return f"a step failed: {last}"


def step_settings(temporary: Path) -> dict[str, str]:
    """Return the variables for a step: the user's, except those that contradict a locked environment.

    What says how to reach an index (address, proxy, certificate) stays as the user set it up for pip.
    """
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    return kept | {
        "PIP_CONSTRAINT": os.devnull,  # an empty value would let that of pip's configuration file stand
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INPUT": "1",
        "PIP_PROGRESS_BAR": "off",
        "PIP_USER": "0",
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": str(temporary),  # on the disk that was checked; /tmp may be a small one
    }


def run(env: Path, *arguments: object) -> None:
    """Run the Python of `env`; show its large downloads, raise `SetupError` with one line if it fails."""
    temporary = env / "tmp"
    temporary.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [env / "bin/python", *map(str, arguments)],
        env=step_settings(temporary),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        close_fds=False,  # hands down the lock
    )
    output = []
    for line in process.stdout:
        output.append(line)
        if re.search(r"Downloading .* \(\d{2,}[.\d]* MB\)", line):
            print("  " + line.strip(), flush=True)
    if process.wait():
        raise SetupError(explain("".join(output)))
    shutil.rmtree(temporary)


def parts(lock: Path) -> list[str]:
    """Cut a lock file into parts of `PART` requirements each, every one with its hashes."""
    entries = re.split(r"\n(?=\w)", lock.read_text(encoding="utf-8").strip())
    return ["\n".join(entries[start : start + PART]) + "\n" for start in range(0, len(entries), PART)]


def build(env: Path, key: str, root: Path) -> None:
    """Make a complete environment in `env`: locked requirements and Detectron2, without this package."""
    if importlib.util.find_spec("ensurepip") is None:
        raise SetupError(
            "this Python cannot make environments: install python3-venv, or name another (PYTHON=)"
        )
    clear(env)
    options = [] if check_disk(env) > FREE_FOR_CACHE else ["--no-cache-dir"]
    print(f"set-up: environment in {env}: about 5.5 GB, 2 to 4 minutes", flush=True)
    venv.create(env, with_pip=True, symlinks=True)
    # The small one first, with little patience: without a network it says so soon.
    quick = ["--retries", 2, "--timeout", 20]
    run(env, *PIP_INSTALL, *options, *quick, "--require-hashes", "-r", root / "requirements/build.txt")
    for part in parts(root / "requirements/lock.txt"):
        (env / "part.txt").write_text(part, encoding="utf-8")
        run(env, *PIP_INSTALL, *options, "--require-hashes", "-r", env / "part.txt")
    print("  Detectron2", flush=True)
    run(env, root / "tools/install_detectron2.py")
    write_stamp(env, key=key, path=str(env))


def link(env: Path, shared: Path, key: str) -> None:
    """Make a light environment in `env` that finds the packages and the commands of `shared`."""
    clear(env)
    venv.create(env, symlinks=True)
    packages = "lib/python{}.{}/site-packages".format(*sys.version_info)
    # addsitedir, unlike a bare path, also reads the .pth files it finds there.
    (env / packages / "fisher_detr_shared.pth").write_text(
        f"import site; site.addsitedir({str(shared / packages)!r})\n", encoding="utf-8"
    )
    for command in (shared / "bin").iterdir():
        mine = env / "bin" / command.name
        if mine.exists() or mine.is_symlink():
            continue
        if command.read_bytes().startswith(b"#!"):
            mine.write_text(command.read_text().replace(f"{shared}/bin/python", f"{env}/bin/python"))
            mine.chmod(0o755)
        else:
            mine.symlink_to(command)
    write_stamp(env, key=key, path=str(env), shared=str(shared))


def set_up(root: Path, shared_folder: str) -> None:
    """Bring `root/.venv` up to date; `shared_folder` may be empty."""
    env, key, package = root / ".venv", environment_key(root), package_key(root)
    if is_built(env, key) and read_stamp(env).get("package") == package:
        return
    with locked(root / ".venv.lock"):
        if not is_built(env, key):
            if shared_folder:
                shared = Path(shared_folder).expanduser().resolve() / key
                with locked(shared.with_name(key + ".lock")):
                    if not is_built(shared, key):
                        build(shared, key, root)
                link(env, shared, key)
            else:
                build(env, key, root)
        if read_stamp(env).get("package") != package:
            run(env, *PIP_INSTALL, "--no-index", "--editable", root)
            write_stamp(env, **read_stamp(env) | {"package": package})
            print("set-up: done", flush=True)


def main() -> int:
    """Set up the clone this file lies in; returns the exit status."""
    try:
        set_up(ROOT, os.environ.get(SHARED, ""))
    except (SetupError, OSError) as error:
        print(f"set-up: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("set-up: interrupted; run it again to begin afresh", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
