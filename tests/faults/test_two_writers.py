"""Two processes that work in one folder, or ask for one file."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from fisher_detr import files
from fisher_detr.files import only_writer, read_json, write_json
from fisher_detr.model_zoo import download
from tests.model_zoo.server import serving
from tests.tools.driver import QUANTIZE, contents, environment

# Without the package, whose import takes seconds.
LOAD = f"""
import importlib.util, sys, time
spec = importlib.util.spec_from_file_location("files", {files.__file__!r})
files = importlib.util.module_from_spec(spec)
spec.loader.exec_module(files)
"""
HOLD = """
with files.only_writer(sys.argv[1]):
    print("in", flush=True)
    time.sleep(300)
"""
WRITE = """
for number in range(60):
    files.write_json(sys.argv[1], {"by": sys.argv[2], "numbers": [number] * 2000})
"""


def start(code, *words):
    command = [sys.executable, "-c", LOAD + code, *map(str, words)]
    return subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)


@pytest.fixture
def held(tmp_path):
    """A folder in which another process works, and that process."""
    process = start(HOLD, tmp_path / "output")
    assert process.stdout.readline() == "in\n"
    yield tmp_path / "output", process
    process.kill()
    process.wait()


def test_readers_see_one_or_the_other_and_never_a_mixture(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"by": "first", "numbers": [0] * 2000})
    writers = [start(WRITE, path, name) for name in "ab"]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        found = read_json(path, "file")
        assert len(found["numbers"]) == 2000 and len(set(found["numbers"])) == 1
        seen.add(found["by"])
    assert [writer.returncode for writer in writers] == [0, 0]
    assert {"a", "b"} <= seen | {read_json(path, "file")["by"]}
    assert os.listdir(tmp_path) == ["file.json"]


def test_a_folder_is_for_one(held):
    folder, process = held
    refused = rf"another process works in {folder}: wait for its end, or name another OUTPUT_DIR"
    with pytest.raises(ValueError, match=refused), only_writer(folder, wait=0.1):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    with only_writer(folder, wait=0.1):  # the lock has ended with the process
        pass
    assert not list(folder.iterdir())


def test_a_folder_is_waited_for(held):
    """Workers of a killed process hold its lock until they notice."""
    folder, process = held
    threading.Timer(0.5, process.kill).start()
    begin = time.monotonic()
    with only_writer(folder, wait=60):
        assert 0.3 < time.monotonic() - begin < 30


def test_without_locks_a_folder_is_used_all_the_same(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(files.fcntl, "flock", flock)
    with only_writer(tmp_path):
        pass


@pytest.mark.parametrize("options", [["--resume"], QUANTIZE], ids=["training", "quantization"])
def test_the_driver_does_not_work_where_another_one_does(trained, output, monkeypatch, options):
    """A second training would write over the checkpoints of the first, and clear away what it is writing."""
    monkeypatch.setattr(files, "_WAIT", 0.0)
    before = contents(output)
    words = [*options, "MODEL.WEIGHTS", output / "model_final.pth", "OUTPUT_DIR", output]
    with only_writer(output):
        assert f"another process works in {output}" in trained.error(*words)
        assert contents(output) == before
        metrics = trained.run(
            "--eval-only", "MODEL.WEIGHTS", output / "model_final.pth", "OUTPUT_DIR", output
        )
    assert "AP" in metrics["bbox"]
    trained.run(*words)


def test_one_of_two_fetches_the_other_takes(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "SCHEMES", ("http",))
    monkeypatch.setitem(os.environ, "no_proxy", "127.0.0.1")
    content = bytes(range(256)) * 4000
    path, digest = tmp_path / "cache" / "model.pth", hashlib.sha256(content).hexdigest()
    with serving() as server:
        server.files["/model.pth"] = content
        arguments = (f"{server.address}/model.pth", path, digest)
        threads = [threading.Thread(target=download.fetch, args=arguments) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert path.read_bytes() == content and server.ranges == [None]
