"""What the logs of runs tell of the time they took."""

import pytest

from fisher_detr.model_zoo import read_run

TRAINED = """\
[11/27 14:43:19] fisher_detr.engine.defaults INFO: Environment:
[11/27 14:53:19] d2.engine.hooks INFO: Total training time: 0:09:50 (0:00:05 on hooks)
[11/27 15:00:00] fisher_detr.engine.defaults INFO: Environment:
[11/27 16:00:00] d2.engine.hooks INFO: Total training time: 1 day, 1:00:10 (0:00:05 on hooks)
"""
QUANTIZED = """\
[12/30 10:00:00] fisher_detr.engine.defaults INFO: Environment:
[12/30 10:00:01] fvcore.common.checkpoint INFO: Saving checkpoint to output/x/model_quantized.pth
[12/31 23:59:50] fisher_detr.engine.defaults INFO: Environment:
[12/31 23:59:55] fvcore.common.checkpoint INFO: [Checkpointer] Loading from start.pth ...
{end} fvcore.common.checkpoint INFO: Saving checkpoint to output/x/model_quantized.pth
"""


@pytest.fixture
def folder(tmp_path):
    """A run with all of its files, and a writer of its log."""

    def write(log, *names):
        for name in names:
            (tmp_path / name).write_text("")
        (tmp_path / "log.txt").write_text(log)
        return tmp_path

    return write


def test_time_of_all_runs_of_a_training(folder):
    run = read_run(folder(TRAINED, "model_final.pth", "config.yaml", "model_quantized.pth"))
    assert run.seconds == 590 + 25 * 3600 + 10
    assert (run.weights.name, run.config.name) == ("model_final.pth", "config.yaml")


@pytest.mark.parametrize(("end", "seconds"), [("[12/31 23:59:58]", 8), ("[01/01 00:00:10]", None)])
def test_time_of_the_last_quantization(folder, end, seconds):
    """Over New Year's Eve the log, which has no year, does not tell."""
    run = read_run(folder(QUANTIZED.format(end=end), "model_quantized.pth", "model_quantized.yaml"))
    assert run.seconds == seconds
    assert run.config.name == "model_quantized.yaml"


def test_a_log_that_tells_nothing(folder):
    assert read_run(folder("", "model_final.pth", "config.yaml")).seconds is None


def test_a_file_that_is_named(folder):
    run = read_run(folder(TRAINED, "model_final.pth", "model_best.pth", "config.yaml"), "model_best.pth")
    assert run.weights.name == "model_best.pth" and run.seconds
