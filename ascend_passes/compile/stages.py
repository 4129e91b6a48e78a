"""The path of a graph: every stage, in the order in which every entrance runs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import fx

from ascend_passes.engine.normalize import normalize
from ascend_passes.engine.registry import rules
from ascend_passes.engine.rewrite import Accept, rewrite
from ascend_passes.engine.rule import Rule
from ascend_passes.frontends.experts import experts
from ascend_passes.frontends.quantized_decomposed import find_zero_points, quantized_decomposed
from ascend_passes.frontends.quantized_experts import quantized_experts
from ascend_passes.frontends.vllm_operators import vllm_operators
from ascend_passes.ir.graph import Context
from ascend_passes.meaning.recognize import by_meaning
from ascend_passes.passes.constants.float_inputs import specialize_scalars
from ascend_passes.passes.constants.fold import fold_constants
from ascend_passes.passes.constants.merge_equal import merge_equal
from ascend_passes.passes.decode_attention import rewrite_decode_attention
from ascend_passes.passes.deduplicate import deduplicate
from ascend_passes.passes.flashcomm.join_gathers import join_gathers
from ascend_passes.passes.flashcomm.sequence_parallel import sequence_parallel
from ascend_passes.passes.grouped_attention import grouped_attention
from ascend_passes.passes.matmul_collective.all_reduce_norm import fuse_norms
from ascend_passes.passes.matmul_collective.matmul_collective import matmul_collective
from ascend_passes.passes.merge_products import merge_products
from ascend_passes.passes.prefetch import prefetch
from ascend_passes.passes.qk_norm_rope import fuse_packed_heads
from ascend_passes.passes.quantize_before_gather import quantize_before_gather
from ascend_passes.passes.rope.hoist import hoist_rope, share_tables
from ascend_passes.passes.row_views import row_views
from ascend_passes.passes.unrounded_gain import unrounded_gain
from ascend_passes.passes.writes.eliminate_zeros import eliminate_zeros
from ascend_passes.passes.writes.reinplace import reinplace
from ascend_passes.report.value import Report
from ascend_passes.verify.validate import refuse_difference


@dataclass(frozen=True)
class Stage:
    """One step of the path of a graph."""

    name: str
    """What option `passes` switches, and what a report counts and times."""
    run: Callable[[fx.Graph, Context], Report]
    """Changes the graph in place."""
    does: str = ""
    """One sentence, for the documentation."""
    reads_content: bool = False
    """Whether it may rest on what parameters hold, see `passes/constants/facts.py`."""


def recognize(graph: fx.Graph, context: Context) -> Report:
    """Bring every spelling to its NPU operator, by meaning and by the user's own rules."""
    accept = acceptance(context)
    found = by_meaning(graph, context, accept)
    chosen = [rule for rule in rules(context.options) if recognizes(rule)]
    return found + rewrite(graph, chosen, context, accept)


def fuse(graph: fx.Graph, context: Context) -> Report:
    """Join operators; the user's recognize rules take part, since a fused graph can show new
    spellings."""
    return rewrite(graph, rules(context.options), context, acceptance(context))


def acceptance(context: Context) -> Accept | None:
    """What has to agree with a replacement: nothing, or a comparison under `validate`."""
    if not context.options.validate:
        return None
    return lambda found, emission: refuse_difference(found, emission, context)


def recognizes(rule: Rule) -> bool:
    """Whether a rule brings a spelling to an operator."""
    return rule.kind == "recognize"


MERGE_EQUAL = Stage(
    "merge_equal",
    merge_equal,
    "parameters of equal content share an input where that makes two computations one",
    reads_content=True,
)
DEDUPLICATE = Stage("deduplicate", deduplicate, "what is computed twice is computed once")
NORMALIZE = Stage(
    "normalize",
    lambda graph, context: normalize(graph, context.options.strict),
    "equal graphs get one form: schema order, no negative dims, no views, casts or clones that do "
    "nothing",
)
STAGES = (
    Stage(
        "specialize_scalars",
        specialize_scalars,
        "float arguments of a dynamic compile become numbers, which operators can take",
    ),
    NORMALIZE,
    Stage(
        "share_tables",
        share_tables,
        "rotary tables of equal content become one, so that their lookups can",
        reads_content=True,
    ),
    Stage("vllm_operators", vllm_operators, "vLLM's own operators become NPU operators"),
    Stage(
        "find_zero_points",
        find_zero_points,
        "zero points that are zero are known to be, since the NPU's matmul takes symmetric weights",
        reads_content=True,
    ),
    Stage(
        "quantized_decomposed",
        quantized_decomposed,
        "torch.ao's quantize operators become NPU operators and plain arithmetic",
    ),
    Stage(
        "experts",
        experts,
        "the choice of experts, rows in their order, products and the weighted sum become NPU "
        "operators",
    ),
    # Before `recognize`, so that each rotation finds the shared lookup and not one of its own.
    Stage("hoist_rope", hoist_rope, "a rotary lookup that every layer repeats is done once"),
    MERGE_EQUAL,
    DEDUPLICATE,
    Stage(
        "recognize",
        recognize,
        "every spelling of RMSNorm, SwiGLU, rotary embedding, quantize and quantized matmul "
        "becomes the one NPU operator for it",
    ),
    # Behind `recognize`, which finds the rows' quantization; before `fuse`, which joins it to what
    # made the rows.
    Stage(
        "quantized_experts",
        quantized_experts,
        "products of experts whose int8 rows and weights were read back as floats multiply int8",
    ),
    # Again: spellings that differed are one operator by now.
    MERGE_EQUAL,
    DEDUPLICATE,
    # Before `fuse`, whose larger operators the gather could not sink through.
    Stage(
        "sequence_parallel",
        sequence_parallel,
        "FlashComm: all_reduce becomes reduce_scatter and all_gather, and the gather sinks through "
        "row-wise operators; zero rows are appended where few bytes move",
    ),
    Stage(
        "quantize_before_gather",
        quantize_before_gather,
        "rows that vllm-ascend's own FlashComm gathers are quantized first, beside their norm",
    ),
    Stage(
        "row_views",
        row_views,
        "views move behind operators that work on rows, so that these stand beside what made the "
        "rows",
    ),
    # Before `fuse`, which would turn both rotations in place.
    Stage(
        "qk_norm_rope",
        fuse_packed_heads,
        "norm and rotation of query and key heads read the packed projection as one kernel, in "
        "CUDA graphs of known sizes; with other sizes, and on an NPU with triton-ascend, where "
        "`passes` asks for it",
    ),
    Stage(
        "fuse",
        fuse,
        "small rules feed each other until none fires: add and RMSNorm, then that and quantize",
    ),
    Stage(
        "unrounded_gain",
        unrounded_gain,
        "a gain of one plus a weight stays unrounded where fusing gained nothing by rounding it",
    ),
    # Behind `fuse`, which joins the norm to its residual; what it refuses is left to the next.
    Stage(
        "matmul_all_reduce_norm",
        fuse_norms,
        "a matmul, the sum over ranks and the norm behind it become vllm-ascend's one operator",
    ),
    Stage(
        "matmul_collective",
        matmul_collective,
        "a matmul and the collective beside it become one operator that overlaps them",
    ),
    Stage(
        "join_gathers",
        join_gathers,
        "rows and scales of one quantize are gathered by one collective, on CUDA",
    ),
    Stage(
        "grouped_attention",
        grouped_attention,
        "attention of one token reads shared key and value heads where they lie, not repeated for "
        "each query head",
    ),
    # Behind `grouped_attention`, whose rows it takes.
    Stage(
        "decode_attention",
        rewrite_decode_attention,
        "attention of one token becomes one operator that is split over the length, on CUDA where "
        "`passes` asks for it",
    ),
    Stage(
        "eliminate_zeros",
        eliminate_zeros,
        "zeroed buffers that are overwritten before they are read become empty ones",
    ),
    Stage("prefetch", prefetch, "weights are read into L2 behind other work"),
    # Behind all that looks for products: `matmul_collective` takes them one by one, and `prefetch`
    # finds an MLP by them.
    Stage(
        "merge_products",
        merge_products,
        "products that read the same rows become one operator with a list of weights, on an NPU "
        "where `passes` asks for it",
    ),
    Stage(
        "reinplace",
        reinplace,
        "KV-cache writes that AOTAutograd made functional write in place again",
    ),
    # Last, so that it moves what the other stages have made of the parameters.
    Stage(
        "fold_constants",
        fold_constants,
        "what is computed from parameters alone is computed once, where whoever runs the graph can "
        "keep it",
    ),
)
