"""Every configuration key: what it means, its unit, its symbol in the method, what 0 or empty means."""

from detectron2.config import CfgNode as CN


def add_fisher_detr_config(cfg: CN) -> None:
    """Add this project's keys to a Detectron2 config, in place.

    Args:
        cfg: from `detectron2.config.get_cfg()`.
    """
    _add_data(cfg)
    _add_backbone(cfg)
    _add_detr(cfg)
    _add_solver(cfg)
    _add_critical(cfg)
    _add_quantization(cfg)
    _add_allocation(cfg)
    _add_fisher(cfg)


def _add_data(cfg: CN) -> None:
    # COCO-format data sets to register, each "name:annotations.json:image_root"; $DETECTRON2_DATASETS stands
    # for the folder of all data sets (default: datasets).
    cfg.DATASETS.REGISTER = ()
    # In those sets, leave out boxes that are empty or outside their image (COCO train2017 has two), in
    # training and evaluation; else refuse the file. What is known by name needs no such care.
    cfg.DATASETS.DROP_BAD_BOXES = False
    cfg.INPUT.DETR_AUG = CN()
    # Images for each forward pass of an evaluation. Batches of different image sizes are padded, which
    # changes the results a little (the padding leaks through convolutions behind a norm): keep 1 where sizes
    # differ.
    cfg.TEST.IMS_PER_BATCH = 1
    # Evaluate boxes by faster-coco-eval (extra [fast-eval]), which is compiled: the same numbers, sooner.
    cfg.TEST.FAST_EVAL = False
    # Metric of DATASETS.TEST by which the best model of a training is kept in model_best.pth, such as
    # "bbox/APcrit_person"; of the averaged weights with "ema/" in front; of several data sets with the set's
    # name, "street_val/bbox/AP". Empty: none is kept.
    cfg.TEST.BEST_METRIC = ""
    # Probability with which a training image is cropped before it is resized.
    cfg.INPUT.DETR_AUG.CROP_PROB = 0.5
    # "relative": crop sides of at least CROP_MIN of the image's, and drop objects whose centre is cut off.
    # "absolute", as in the originals: resize the shorter side to one of CROP_RESIZE, then crop to sides
    # within CROP_SIZE (or the image's, where that is smaller), and keep what is left of every object.
    cfg.INPUT.DETR_AUG.CROP_TYPE = "relative"
    # The relative crop's smallest side as a part of the image's.
    cfg.INPUT.DETR_AUG.CROP_MIN = 0.5
    # Lengths of the shorter side before an absolute crop, in pixels; one is drawn.
    cfg.INPUT.DETR_AUG.CROP_RESIZE = (400, 500, 600)
    # Smallest and largest side of an absolute crop, in pixels.
    cfg.INPUT.DETR_AUG.CROP_SIZE = (384, 600)
    # Strength of random brightness, contrast and saturation: factors in [1 - s, 1 + s]. 0: none.
    cfg.INPUT.DETR_AUG.COLOR = 0.0


def _add_backbone(cfg: CN) -> None:
    # Checkpoint of a detector whose backbone a training starts from, whatever else it holds. Empty: none.
    cfg.MODEL.BACKBONE.WEIGHTS = ""
    cfg.MODEL.SMALL_RESNET = CN()
    # Output channels of res2 (stride 4), res3, res4 and res5: one stage for each entry, at most four.
    cfg.MODEL.SMALL_RESNET.CHANNELS = (32, 64, 128)
    # Residual blocks of each stage.
    cfg.MODEL.SMALL_RESNET.BLOCKS = (1, 2, 2)
    # Channels of the stem convolution.
    cfg.MODEL.SMALL_RESNET.STEM_CHANNELS = 32
    # Norm of the convolutions: "BN" to train from scratch, "FrozenBN" to fine-tune and quantize.
    cfg.MODEL.SMALL_RESNET.NORM = "BN"


def _add_detr(cfg: CN) -> None:
    detr = cfg.MODEL.DETR = CN()
    # Number n of categories without no-object. 0: taken from the data sets.
    detr.NUM_CLASSES = 0
    # Queries Q, each of which finds one object at most (DAB-DETR: anchors).
    detr.NUM_QUERIES = 100
    # Width d of the transformer.
    detr.HIDDEN_DIM = 256
    # Heads of every attention; they divide HIDDEN_DIM.
    detr.NHEADS = 8
    # Width of the hidden layer of the feed-forward networks.
    detr.DIM_FEEDFORWARD = 2048
    # Layers of the encoder and of the decoder.
    detr.ENC_LAYERS = 6
    detr.DEC_LAYERS = 6
    # Probability of dropout in the transformer, in training.
    detr.DROPOUT = 0.1
    # Feature map of the backbone that feeds the encoder.
    detr.IN_FEATURE = "res5"
    # Losses on every decoder layer, not only on the last.
    detr.DEEP_SUPERVISION = True
    # Groups of queries in training, each matched on its own (Group DETR, arXiv 2207.13085); inference uses
    # the first.
    detr.QUERY_GROUPS = 1
    # Weights of the terms of the matching cost.
    detr.CLASS_COST = 1.0
    detr.L1_COST = 5.0
    detr.GIOU_COST = 2.0
    # Weights of the terms of the loss L_A.
    detr.CLASS_WEIGHT = 1.0
    detr.L1_WEIGHT = 5.0
    detr.GIOU_WEIGHT = 2.0
    # "cross_entropy": softmax over the categories and no-object. "focal": a sigmoid for each category.
    detr.CLASS_LOSS = "cross_entropy"
    # Weight of the no-object class in the cross entropy.
    detr.NO_OBJECT_WEIGHT = 0.1
    # Weight of positives and focusing exponent of the focal loss.
    detr.FOCAL_ALPHA = 0.25
    detr.FOCAL_GAMMA = 2.0
    # Detections kept for each image: the best queries (cross_entropy) or pairs of query and category (focal).
    detr.TOP_K = 100
    _add_deformable_detr(cfg)
    _add_dab_detr(cfg)


def _add_deformable_detr(cfg: CN) -> None:
    deformable = cfg.MODEL.DEFORMABLE_DETR = CN()
    # Feature maps of the backbone that feed the encoder, fine to coarse; MODEL.DETR.IN_FEATURE has no effect.
    deformable.IN_FEATURES = ("res3", "res4", "res5")
    # Levels; those beyond the feature maps are convolutions of stride 2 on the last one.
    deformable.NUM_LEVELS = 4
    # Points that a head reads on each level, in the encoder and in the decoder.
    deformable.ENC_POINTS = 4
    deformable.DEC_POINTS = 4
    # A decoder layer's boxes are the reference of the next one; each layer has heads of its own.
    deformable.BOX_REFINEMENT = False
    # Queries from the encoder's best proposals; needs BOX_REFINEMENT.
    deformable.TWO_STAGE = False


def _add_dab_detr(cfg: CN) -> None:
    dab = cfg.MODEL.DAB_DETR = CN()
    # Contents that every anchor is combined with: patterns x MODEL.DETR.NUM_QUERIES queries. 0: none.
    dab.NUM_PATTERNS = 0
    # Temperature of the tokens' position encoding.
    dab.TEMPERATURE = 20.0


def _add_solver(cfg: CN) -> None:
    # "ADAMW" or "SGD".
    cfg.SOLVER.OPTIMIZER = "ADAMW"
    # Learning rate of the backbone as a part of BASE_LR.
    cfg.SOLVER.BACKBONE_MULTIPLIER = 0.1
    # Learning rate of the sampling offsets and reference points of Deformable DETR, as a part of BASE_LR.
    cfg.SOLVER.SAMPLING_MULTIPLIER = 1.0
    # Learning rate of learned quantizer scales, as a part of BASE_LR: Adam moves every parameter by about the
    # learning rate a step, whatever its size, and a scale is some hundredth.
    cfg.SOLVER.SCALE_MULTIPLIER = 0.1
    # Micro-batches that the images of an iteration are split into, on every rank: as many passes, which need
    # less memory, for one step of the optimizer. SOLVER.IMS_PER_BATCH stays the number of images of an
    # iteration.
    cfg.SOLVER.ACCUMULATION_STEPS = 1
    ema = cfg.MODEL_EMA = CN()
    # Keep an exponential moving average of the weights, evaluate it beside them, and write it to
    # model_final_ema.pth.
    ema.ENABLED = False
    # Part of the average that an iteration keeps: it is over about the last 1 / (1 - DECAY) iterations.
    ema.DECAY = 0.999


def _add_critical(cfg: CN) -> None:
    critical = cfg.CRITICAL = CN()
    # Critical sets C to evaluate: "supercategories" (each is a set), the name of a category or
    # super-category, or "name=member+member" with members by name, super-category or data set id.
    critical.SETS = ("supercategories",)
    # The set C of the critical objective L_F: a name that SETS defines, or in the same form. Empty: no
    # critical objective.
    critical.TARGET = ""
    # Weight of L_F as one more loss in training (re-weighting). 0: none.
    critical.TRAIN_WEIGHT = 0.0
    # Factor of the terms of critical objects in the loss of ALLOCATION.ARM reweighted.
    critical.REWEIGHT = 5.0
    # Box losses of L_F (open in the paper): those of objects of the "critical" categories, or of "all". Boxes
    # weigh most in the loss: with all of them L_F differs little from L_A, and so do the plans.
    critical.BOX_LOSS = "critical"


def _add_quantization(cfg: CN) -> None:
    quant = cfg.QUANT = CN()
    # Quantize MODEL.WEIGHTS as ALLOCATION says and evaluate it; with --eval-only it is quantized already.
    quant.ENABLED = False
    # Module paths (prefixes) that stay in full precision: the output heads.
    quant.SKIP_LAYERS = ("class_embed", "bbox_embed")
    # Fold frozen batch norm into the convolution before it is quantized; otherwise it stays behind it.
    quant.FOLD_NORM = True
    # Fake-quantize both operands of attention's two matrix products.
    quant.ATTENTION_PRODUCTS = False
    quant.WEIGHT = CN()
    # One scale for each output channel; otherwise one for the tensor.
    quant.WEIGHT.PER_CHANNEL = True
    # Scale from "max" of |w|, least squared error "mse", or least Fisher-weighted squared error "fisher", of
    # the weights as they are rounded.
    quant.WEIGHT.SCALE = "fisher"
    # Rounding to "nearest", or against the "fisher" information: errors within an output channel then make up
    # for each other, and the bias for what they leave on average ("fisher_weights": without the bias).
    quant.WEIGHT.ROUNDING = "fisher"
    # For those: part of the mean interaction of a weight with itself that is added to each.
    quant.WEIGHT.DAMPING = 0.01
    # Bring the mean output of quantized layers back by their biases: "none"; "own" (what the float layer
    # makes of the same inputs); "sequential" (what it gives in the float model, a pass for each layer).
    quant.BIAS_CORRECTION = "none"
    quant.ACTIVATION = CN()
    # Width in bits of the input of every quantized layer (affine, per tensor). 0: not quantized.
    quant.ACTIVATION.BITS = 8
    # Range from "max", "percentile" or least squared error "mse" of the calibration sample.
    quant.ACTIVATION.RANGE = "mse"
    # Percentile of the values for RANGE "percentile".
    quant.ACTIVATION.PERCENTILE = 99.99
    quant.CALIBRATION = CN()
    # Images sampled from DATASETS.TRAIN, for activation ranges and for the Fisher information.
    quant.CALIBRATION.NUM_IMAGES = 256
    # Seed of that sample.
    quant.CALIBRATION.SEED = 0
    _add_training(quant)


def _add_training(quant: CN) -> None:
    qat = quant.QAT = CN()
    # Train the quantized model: it starts from MODEL.WEIGHTS, quantized as ALLOCATION says.
    qat.ENABLED = False
    # What becomes of scales in training: "fixed" as calibrated, "minmax", learned steps "lsq"; of activations
    # also learned clipping bounds "pact".
    qat.WEIGHT_SCALE = "lsq"
    qat.ACTIVATION_SCALE = "lsq"
    # Let LSQ's weight scales start at 2 mean|w| / sqrt(qmax) as in its paper, not as they were calibrated.
    qat.START_STEPS = False
    # Part of the newest batch in the moving average of "minmax" activations.
    qat.RANGE_MOMENTUM = 0.01
    # Iterations that only record activations and set their ranges anew; 0: those of the calibration.
    qat.OBSERVE_ITERS = 0
    # Iteration from which all scales stay as they are; 0: never.
    qat.FREEZE_RANGES_ITER = 0
    penalty = qat.PENALTY = CN()
    # lambda of lambda tr(I_F). 0: no penalty.
    penalty.WEIGHT = 0.0
    # The Fisher information of the "critical" objective of CRITICAL.TARGET, or of the "overall" one.
    penalty.OBJECTIVE = "critical"
    # "exact" (double backward) or "finite_difference".
    penalty.METHOD = "finite_difference"
    # "per_image": the trace. "minibatch": the squared norm of the mean gradient, which is not the trace.
    penalty.ESTIMATE = "per_image"
    # Iterations k between two evaluations; the gradient is multiplied by k.
    penalty.INTERVAL = 4
    # Step of the finite difference: by which part of itself the slope alone would raise the loss.
    penalty.RADIUS = 0.001
    # Paths of modules: the weights of the trained layers at or below them count. Empty: all.
    penalty.PARAMS = ()
    # Iterations over which lambda grows from 0.
    penalty.WARMUP_ITERS = 0
    # Divide by the mean trace of the warm-up: lambda is then the penalty of the model at the start, in the
    # loss' unit, whatever the model.
    penalty.NORMALIZE = True
    # Greatest norm of the penalty's gradient, before the factor k; 0: any. SOLVER.CLIP_GRADIENTS leaves the
    # penalty out.
    penalty.CLIP_NORM = 0.1
    distill = qat.DISTILL = CN()
    # Distil from the model in full precision.
    distill.ENABLED = False
    # Checkpoint of the teacher. Empty: MODEL.WEIGHTS.
    distill.TEACHER = ""
    # Weights of the divergence of the class probabilities and of the L1 distance of the boxes.
    distill.CLASS_WEIGHT = 1.0
    distill.BOX_WEIGHT = 1.0
    # Logits are divided by it, and the divergence multiplied by its square.
    distill.TEMPERATURE = 1.0


def _add_allocation(cfg: CN) -> None:
    allocation = cfg.ALLOCATION = CN()
    # "uniform", "fisher_overall" (a_F = 0) or "fisher_critical". To compare with: "hawq" (HAWQ-V2's average
    # Hessian trace) and "reweighted" (fisher_overall of a loss in which critical objects count more).
    allocation.ARM = "fisher_critical"
    # The budget is the size of all quantized layers at this width in bits, scales included.
    allocation.AVERAGE_BITS = 4.0
    # Candidate widths in bits.
    allocation.WIDTHS = (2, 3, 4, 5, 6, 7, 8)
    # "diagonal" (sum F_ii d_i^2), "block" (E[(g'd)^2]), "hawq_trace" (HAWQ-V2: mean of the Hessian's diagonal
    # times the squared error) or "measured" (the losses with one layer quantized at a time).
    allocation.SENSITIVITY = "block"
    # Whether the losses of the decoder layers before the last, which do not detect, are part of L_A and L_F.
    allocation.AUX_LOSS = False
    # a_A and a_F.
    allocation.OVERALL_WEIGHT = 1.0
    allocation.CRITICAL_WEIGHT = 1.0
    # Critical sets that one plan of fisher_critical serves, in the form of CRITICAL.SETS. Empty: that of
    # CRITICAL.TARGET alone.
    allocation.CRITICAL_SETS = ()
    # How much each of them counts. Empty: all the same.
    allocation.SET_WEIGHTS = ()
    # Their weighted costs as one: the "weighted_sum", or the largest, "worst_case".
    allocation.AGGREGATE = "weighted_sum"
    # "square_of_sum": E[(a_A g_A + a_F g_F)^2]; "sum_of_normalized": a_A I_A / tr I_A + a_F I_F / tr I_F.
    allocation.COMBINE = "sum_of_normalized"
    # Limits of a plan beside the bytes of AVERAGE_BITS; uniform keeps to none. 0: no limit.
    # Bytes where a weight of 2 bits takes 2, one of 3 or 4 takes 4, one of 5 to 8 takes 8; with scales.
    allocation.MAX_CONTAINER_BYTES = 0
    # Billions of bit operations of one image (the first of the calibration): multiply-accumulates x bits of
    # the weight x bits of the activation, 32 where it is a float.
    allocation.MAX_BIT_OPERATIONS = 0.0
    # Sum of what the layers take by LATENCY_TABLE, a JSON file {layer: {"4": time}}, in its unit.
    allocation.MAX_LATENCY = 0.0
    allocation.LATENCY_TABLE = ""
    # Layers that share one width, each entry their names, or ends of names in one module: "q_proj+k_proj".
    allocation.TIES = ()
    # Layers with a given width, each entry a path and bits: "backbone.stem:8" is all that is at or below it.
    allocation.FIXED = ()
    # Relative optimality gap and time limit (seconds) of the integer program.
    allocation.MIP_GAP = 1e-4
    allocation.TIME_LIMIT = 60.0
    # Files of an earlier run to take instead of computing. Empty: compute.
    allocation.SENSITIVITY_FILE = ""
    allocation.ALLOCATION_FILE = ""


def _add_fisher(cfg: CN) -> None:
    fisher = cfg.FISHER = CN()
    # Most calibration images of one forward and backward pass, which have one size, and most of their pixels
    # together (one image may have more); also of a forward pass that observes activations. On a CPU larger
    # passes are no faster, and memory follows the pixels.
    fisher.BATCH_SIZE = 16
    fisher.BATCH_PIXELS = 512 * 512
    # "batched": gradients of the images of a batch from what goes into each layer and what comes back.
    # "single": by autograd, one image at a time.
    fisher.METHOD = "batched"
    # Labels of the losses: those of the "data" (the empirical Fisher information), or drawn from the "model":
    # a category or none for every query by its scores, and a box around its own, off by LABEL_NOISE of the
    # image on average in each number. What is measured has the labels of the data.
    fisher.LABELS = "data"
    fisher.LABEL_NOISE = 0.02
    # Leave out a calibration image whose loss is not finite, with a warning; otherwise it is an error.
    fisher.SKIP_BROKEN_IMAGES = False
    # End once the standard error of the total traces is at most this part of them. 0: take all images.
    fisher.RELATIVE_ERROR = 0.0
    # Images after which a pass writes down what it has, so that a run that is killed goes on (three float64
    # copies of the weights for the scales). 0: never.
    fisher.SAVE_EVERY = 64
    # Random vectors of each batch for the Hessian traces of ALLOCATION.SENSITIVITY hawq_trace.
    fisher.HAWQ_PROBES = 8
    # Quantize one layer at a time on VALIDATE_IMAGES images of DATASETS.TRAIN that are not calibrated on, at
    # the widths VALIDATE_WIDTHS, and report how the losses' changes rank beside the predicted sensitivities
    # (layers x widths passes over the images).
    fisher.VALIDATE = False
    fisher.VALIDATE_IMAGES = 128
    fisher.VALIDATE_WIDTHS = (2, 3, 4)
