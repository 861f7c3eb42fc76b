"""Small and read-only disks: a tmpfs in a mount namespace of one command, gone with it."""

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools.driver import REPOSITORY, environment

# What is on the disk in the end is copied to where it can be looked at.
SCRIPT = """
mount -t tmpfs -o size={size}k tmpfs {disk} && cp -r {content}/. {disk} || exit 99
room=$(df -k --output=avail {disk} | tail -1)
[ {room} -ge 0 ] && head -c $(( (room - {room}) * 1024 )) /dev/zero > {disk}/filler
{read_only} && mount -o remount,ro {disk}
"$@"
status=$?
cp -r {disk}/. {kept} && rm -f {kept}/filler
exit $status
"""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a command has said, and the files that were left."""

    status: int
    stderr: str
    kept: Path


def run(tmp_path, content: Path, tool: str, *words, room: int = -1, read_only: bool = False) -> Outcome:
    """Run a tool on a disk of its own.

    Args:
        tmp_path: the test's.
        content: folder whose files are on the disk before.
        tool: its name.
        words: arguments, in which DISK stands for the disk.
        room: KB that are left; -1: enough.
        read_only: nothing can be written at all.
    """
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    kept.mkdir()
    size = 20_000 if room < 0 else room + 64 + 2 * sum(x.stat().st_size for x in content.rglob("*")) // 1024
    script = SCRIPT.format(
        size=size,
        disk=disk,
        content=content,
        kept=kept,
        room=room,
        read_only="true" if read_only else "false",
    )
    command = [sys.executable, REPOSITORY / "tools" / f"{tool}.py", *words]
    command = [str(word).replace("DISK", str(disk)) for word in command]
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh", *command],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    return Outcome(done.returncode, done.stderr, kept)


def need_disks() -> None:
    """Skip where a user may not mount in a namespace of their own."""
    probe = ["unshare", "--map-root-user", "--mount", "sh", "-c", "mount -t tmpfs tmpfs /mnt"]
    if not shutil.which("unshare") or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("this machine gives no mount namespace: no small disk can be made")
