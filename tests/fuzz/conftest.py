"""The one profile of all fuzzing: nothing left to chance, and nothing written into the repository.

Hypothesis also tries the constants of the modules that are loaded: other examples may come where tests run
together with others.
"""

import atexit
import shutil
import tempfile

from hypothesis import HealthCheck, configuration, settings

_HOME = tempfile.mkdtemp(prefix="hypothesis")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
configuration.set_hypothesis_home_dir(_HOME)
settings.register_profile(
    "fixed",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=200,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("fixed")
