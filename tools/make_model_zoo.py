#!/usr/bin/env python
"""Write MODEL_ZOO.md from the entries of the model zoo and the studies in benchmarks/results.

tools/make_model_zoo.py
tools/make_model_zoo.py --check    (writes nothing; exits with 1 where the page differs)
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fisher_detr.files import write_text
from fisher_detr.model_zoo import PAPER_TABLES, entries, read_studies, render_page

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "MODEL_ZOO.md"
STUDIES = REPOSITORY / "benchmarks" / "results"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write or check the page; a broken entry or study ends in one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit with 1 where the page differs")
    check = parser.parse_args(arguments).check
    try:
        unmeasured = [x for x in PAPER_TABLES.values() if not (STUDIES / x.results_file).exists()]
        studies = [study for study in read_studies(STUDIES) if not study.is_benchmark]
        text = render_page(entries(), studies, unmeasured)
        if not check:
            write_text(PAGE, text)
    except (ValueError, OSError) as error:
        sys.exit(f"make_model_zoo: {error}")
    if check and (not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text):
        sys.exit(f"make_model_zoo: {PAGE.name} differs from the entries and studies: run `make zoo`")


if __name__ == "__main__":
    main()
