"""Names of what can be chosen, as configs and files spell them."""

import enum

# What arms are compared with: the model as it was trained, and what is had without Fisher information.
FULL_PRECISION, NEAREST = "full_precision", "uniform_nearest"


class ScaleMethod(enum.StrEnum):
    """How the scale of a weight quantizer is chosen."""

    MAX = "max"
    MSE = "mse"
    FISHER = "fisher"


class SensitivityForm(enum.StrEnum):
    """How the loss increase of a layer is predicted (method.md section 3)."""

    DIAGONAL = "diagonal"  # quadratic form of the Fisher diagonal
    BLOCK = "block"  # quadratic form of the Fisher information within the layer
    MEASURED = "measured"  # the increase itself, one layer quantized at a time
    HAWQ_TRACE = "hawq_trace"  # mean Hessian trace times the squared error


class Combination(enum.StrEnum):
    """How the overall and the critical Fisher information become one (method.md section 3)."""

    SQUARE_OF_SUM = "square_of_sum"
    SUM_OF_NORMALIZED = "sum_of_normalized"


class ClassLoss(enum.StrEnum):
    """The loss of the class head, which decides the head's form."""

    CROSS_ENTROPY = "cross_entropy"  # softmax over the categories and no-object
    FOCAL = "focal"  # a sigmoid for each category


class Arm(enum.StrEnum):
    """How the bits are spent."""

    UNIFORM = "uniform"
    FISHER_OVERALL = "fisher_overall"
    FISHER_CRITICAL = "fisher_critical"
    HAWQ = "hawq"  # by the mean of the Hessian's diagonal (HAWQ-V2), with the scales of FISHER_OVERALL
    REWEIGHTED = "reweighted"  # FISHER_OVERALL of a loss in which critical objects count more
