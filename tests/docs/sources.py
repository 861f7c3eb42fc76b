"""Where tables of pages come from that do not show one row of the results in each of theirs.

A function gets a table and one of its rows and gives what the last cells of the row are to show; the cells
before them are labels, which tell the rows of the results.
"""

from collections.abc import Sequence
from typing import Any

from tests.docs.tables import PageTable, Source, found, numbers, rows_of

SHORT = {"DETR": "detr", "DAB-DETR": "dab", "Deformable DETR": "deformable"}  # in names of results
CONFIGS = {"DETR": "detr_small", "DAB-DETR": "dab_detr_small", "Deformable DETR": "deformable_detr_small"}
ARMS = "^AP and APcrit"  # the table of all arms and widths in a study of arms


def pick(row: dict[str, Any], *columns: str) -> list[Any]:
    """Some cells of a row of the results."""
    return [row[column] for column in columns]


def quickstart(table: PageTable, row: Sequence[str]) -> list[Any]:
    """An arm in each row; what stands behind its name in brackets is a command."""
    return pick(found(table.files[0], row[0].partition(" (")[0]), *table.columns[1:])


def quickstarts(table: PageTable, row: Sequence[str]) -> list[Any]:
    """A model in each row, AP / APcrit of an arm in each column."""
    name = row[0].partition(":")[0].removeprefix("MODEL=")
    file = f"quickstart_{name}" if len(table.files) > 1 else table.files[0]
    return [pick(found(file, arm), "AP", "APcrit_person") for arm in table.columns[1:]]


def two_bits(table: PageTable, row: Sequence[str]) -> list[Any]:
    """Arms in words."""
    arms = {
        "full precision": "full_precision",
        "rounded to nearest": "uniform_nearest",
        "rounded against the Fisher information": "uniform",
        "trained on from there": "uniform, QAT",
    }
    return pick(found(table.files[0], arms[row[0]]), "AP", "APcrit_person")


def widths(_table: PageTable, row: Sequence[str]) -> list[Any]:
    """A model and a width in each row: means over the critical sets."""
    mean = found(f"street_{SHORT[row[0]]}_arms_nearest", "mean", caption=f" uniform {row[1]} bits")
    return pick(mean, "full", "uniform", "overall", "critical", "gain over uniform", "gain over overall")


def all_arms(table: PageTable, row: Sequence[str]) -> list[Any]:
    """A width of one model in each row: means over the critical sets."""
    mean = found(table.files[0], "mean", caption=f" uniform {row[0]} bits")
    gains = (f"gain over {arm}" for arm in ("uniform", "overall", "reweighted"))
    return pick(mean, "uniform_nearest", "uniform", "hawq", "overall", "reweighted", "critical", *gains)


def two_widths(table: PageTable, row: Sequence[str]) -> list[Any]:
    """An arm in each row, at 3 bits and at 4."""
    arm = row[0].partition(",")[0]
    return [cell for bits in "34" for cell in pick(found(table.files[0], arm, bits), "AP", "APcrit")]


def decoder_layers(_table: PageTable, row: Sequence[str]) -> list[Any]:
    """Plans by the losses of all decoder layers and by those of the last are in two files."""
    model, bits, _, losses, *_ = row
    file = f"street_val_{SHORT[model]}{'_aux_loss' if losses == 'all layers' else ''}"
    arms = [("full precision",), *((arm, bits) for arm in ("uniform", "fisher_overall", "fisher_critical"))]
    full, *others = (found(file, *labels, caption=ARMS)["APcrit"] for labels in arms)
    return [full, "", *others]


def street_files(table: PageTable, row: Sequence[str]) -> list[Any]:
    """The results name a model by its config."""
    return pick(found(table.files[0], f"{CONFIGS[row[0]]}_ptq", row[1]), *table.columns[2:])


def photographs(table: PageTable, row: Sequence[str]) -> list[Any]:
    """The results name a model as the zoo does."""
    _, _, *shown = found(table.files[0], f"street_{CONFIGS[row[0]]}").values()
    return shown


def runtimes(table: PageTable, row: Sequence[str]) -> list[Any]:
    """A model in each row, its three precisions beside each other."""
    torch = found(table.files[0], row[0], "PyTorch, float32")
    precisions = ("float32", "W8A8", "plan of 4 bits, A8")
    floats, integers, plan = (found(table.files[0], row[0], f"onnxruntime, {how}") for how in precisions)
    times = [of["median (ms)"] for of in (torch, floats, integers)]
    files = [of["file (MB)"] for of in (floats, integers, plan)]
    return [*times, integers["times as fast as float32"], plan["median (ms)"], *files]


def qat_steps(table: PageTable, row: Sequence[str]) -> list[Any]:
    """A step in each row, beside a plain one or beside QAT, a model in each column."""
    step = row[0].partition(", times")[0]
    name, column = ("QAT", "times plain") if step == "QAT" else (f"QAT + {step}, every 4", "times QAT")
    return [found(table.files[0], name, caption=f"^{model}, ")[column] for model in SHORT]


def lambdas(table: PageTable, row: Sequence[str]) -> list[Any]:
    """The last column is of another training."""
    arm = "qat" if row[0] == "0" else f"qat_critical_{row[0]}"
    all_images, few = (
        found(table.files[0], arm, caption=f"^{run}, ") for run in ("deformable", "few_images")
    )
    losses = pick(all_images, "L_F on train", "gap of L_F", "tr I_F on train", "tr I_F evaluated")
    return [*losses, all_images["APcrit"], few["APcrit"]]


def paired_runs(_table: PageTable, row: Sequence[str]) -> list[Any]:
    """A training in each row, its arms and the difference of two of them beside each other."""
    run = SHORT.get(row[0], "few_images")
    arms = ("full_precision", "ptq", "qat", "qat_critical")
    gain = found("street_qat", "qat_critical", "qat", caption=f"^{run}: differences")
    return [*(found("street_qat", arm, caption=f"^{run}, ")["APcrit"] for arm in arms), gain["APcrit"]]


def qat_arms(_table: PageTable, row: Sequence[str]) -> list[Any]:
    """Arms in words, each beside its difference to plain QAT."""
    arms = {
        "penalty on the overall Fisher information": "qat_overall",
        "penalty on the critical one": "qat_critical",
        "distillation": "qat_distill",
        "critical loss re-weighted (1.0)": "qat_reweighted",
    }
    arm = found("street_qat", arms[row[0]], caption="^deformable, ")
    gain = found("street_qat", arms[row[0]], "qat", caption="^deformable: differences")
    return [arm["APcrit"], gain["APcrit"], arm["AP"], arm["APcrit of the others"]]


def low_bits(table: PageTable, row: Sequence[str]) -> list[Any]:
    """A width in each row, its arms beside each other."""
    run = {"3 bits everywhere": "uniform", "2 bits on average": "two_bits"}[row[0]]
    arms = ("full_precision", "ptq", "qat")
    return [found(table.files[0], arm, caption=f"^{run}, ")["APcrit"] for arm in arms]


def radii(_table: PageTable, row: Sequence[str]) -> list[Any]:
    """Cosine of one image and ratio of norms: the first and the last of three numbers, in three settings."""
    detectors = [("radius", "DETR,"), ("radius_dab", "DAB-DETR,"), ("radius", "Deformable DETR,")]
    networks = [("radius", "network of GELU"), ("radius", "network of ReLU")]
    cells = [
        found(file, row[0], caption=f"^{network}")[setting]
        for places, setting in (
            ([*networks, *detectors], "4 bits, float32"),
            (detectors, "4 bits, float32, units free"),
            (detectors, "full precision, float64"),
        )
        for file, network in places
    ]
    return [[cosine, ratio] for cosine, _, ratio in map(numbers, cells)]


def scaling(table: PageTable, row: Sequence[str]) -> list[Any]:
    """What is varied in each row, all its values in a cell."""
    varied = rows_of(table.files[0], row[0], caption="^Seconds")
    exponents = found(table.files[0], row[0], caption="^Exponents")
    values, seconds, memory = ([of[name] for of in varied] for name in ("value", "seconds", "memory (GiB)"))
    return [values, seconds, exponents["of the time"], memory, exponents["of the memory"]]


# By page and by how the header begins; of a table that has no link above it the function knows the file.
SOURCES: dict[tuple[str, str], Source] = {
    ("README.md", "| arm | AP |"): quickstart,
    ("README.md", "| | full_precision | uniform_nearest |"): quickstarts,
    ("README.md", "| | bits | full |"): widths,
    ("docs/deploy.md", "| model | precision | AP |"): street_files,
    ("docs/deploy.md", "| | detections of score"): photographs,
    ("docs/deploy.md", "| | PyTorch | onnxruntime, float32 |"): runtimes,
    ("docs/method.md", "| | bits | full | losses |"): decoder_layers,
    ("docs/method.md", "| | AP, 3 bits | APcrit |"): two_widths,
    ("docs/method.md", "| bits | uniform_nearest |"): all_arms,
    ("docs/qat.md", "| | DETR, 512 pixels, batch 2 |"): qat_steps,
    ("docs/qat.md", "| lambda |"): lambdas,
    ("docs/qat.md", "| APcrit of person | full precision |"): paired_runs,
    ("docs/qat.md", "| arm | APcrit of person | gain |"): qat_arms,
    ("docs/qat.md", "| APcrit of person, Deformable DETR, one seed |"): low_bits,
    ("docs/qat.md", "| | AP | APcrit of person"): two_bits,
    ("docs/qat.md", "| radius |"): radii,
    ("docs/scaling.md", "| varied | values |"): scaling,
}


def source_of(table: PageTable) -> Source | None:
    """None: each row is one of the results."""
    return next(
        (
            source
            for (page, header), source in SOURCES.items()
            if page == table.page and table.header.startswith(header)
        ),
        None,
    )
