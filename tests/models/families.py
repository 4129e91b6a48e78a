"""Which operators become of transformers' families: `python -m tests.models.families [--write]`.

Every causal language model of transformers that can be made small from its configuration is
compiled for one prompt. Norms are counted by hooks on modules that are named as RMSNorms, rotated
tensors by wrapping the modeling files' own `apply_rotary...` functions, so that what is counted is
not what recognition says. `--write` puts the table into docs/models.md.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
SECONDS, BATCH = 60, 10
"""For one family, most of which take 2 to 4, and families of one process."""
TOKENS = 17
MOST_PARAMETERS = 60_000_000
FIELDS = {
    **dict.fromkeys(("vocab_size", "padded_vocab_size"), 256),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "n_embed"), 128),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "d_ff", "ffn_hidden_size"), 256),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "multi_query_group_num"), 2),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx"), 128),
    **dict.fromkeys(("head_dim", "kv_channels"), 32),
    **dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size"), 64),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "top_k"), 2),
    **{"n_group": 1, "topk_group": 1, "q_lora_rank": 64, "kv_lora_rank": 32},
    **{"qk_rope_head_dim": 32, "qk_nope_head_dim": 32, "v_head_dim": 32, "pad_token_id": 0},
    **{
        "bos_token_id": 1,
        "eos_token_id": 2,
        "first_k_dense_replace": 1,
        "hidden_size_per_layer_input": 32,
    },
    **{"vocab_size_per_layer_input": 256, "rotary_dim": 16, "num_kv_shared_layers": 0},
}
"""Configuration fields, under all their names, that make a model small."""
NORMS = re.compile(r"RMSNorm|L2Norm")
ROTATES = re.compile(r"^apply_rotary|^apply_multimodal_rotary|^rotate_|^apply_rotary_emb$")


def small_config(kind: str) -> Any:
    """A family's configuration with its sizes made small."""
    from transformers import CONFIG_MAPPING

    config = CONFIG_MAPPING[kind]()
    config = getattr(config, "text_config", None) or config
    given = {name: number for name, number in FIELDS.items() if is_settable(config, name)}
    if is_settable(config, "layer_types") and isinstance(config.layer_types, list):
        kinds = list(dict.fromkeys(config.layer_types))
        given["layer_types"] = (kinds * 2)[:2]
    for name, number in given.items():
        if isinstance(getattr(config, name), (list, tuple)) and name != "layer_types":
            given[name] = [number] * given.get("num_hidden_layers", 2)
    if hasattr(config, "kv_lora_rank"):  # latent attention has no groups of heads
        given["num_key_value_heads"] = given["num_attention_heads"]
    made = type(config)(**given)
    for name, number in given.items():
        with contextlib.suppress(Exception):
            setattr(made, name, number)
    return made


def is_settable(config: Any, name: str) -> bool:
    """Whether a configuration has a field, one for all layers, that can be written."""
    computed = getattr(type(config), name, None)
    if isinstance(computed, property) and computed.fset is None:
        return False
    try:
        return hasattr(config, name)
    except Exception:  # Gemma 4 raises an error of its own for what differs by layer
        return False


def is_norm(module: torch.nn.Module) -> bool:
    """Whether a module is named as an RMSNorm, and only wraps no other that is."""
    inside = [one for one in module.modules() if NORMS.search(type(one).__name__)]
    return inside == [module]


def counted_norms(model: torch.nn.Module, counts: collections.Counter[str]) -> None:
    """Count each call of a module that is named as an RMSNorm and gives rows like those that it
    got, in the model's dtype: some give the root alone, or rows in float32."""

    def count(_: torch.nn.Module, given: Any, result: torch.Tensor) -> None:
        alike = result.shape == given[0].shape and result.dtype == model.dtype
        counts.update(norms=int(alike))

    for module in model.modules():
        if is_norm(module):
            module.register_forward_hook(count)


def executed(run: Callable[[], Any]) -> collections.Counter[str]:
    """NPU operator -> how often a compiled model calls it, whose layers may share a graph."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        run()
    return collections.Counter(
        {
            event.key.removeprefix("npu::"): event.count
            for event in seen.key_averages()
            if event.key.startswith("npu::")
        }
    )


def counted_rotations(model: torch.nn.Module, counts: collections.Counter[str]) -> None:
    """Count the tensors that a modeling file's own functions rotate."""
    files = {type(module).__module__ for module in model.modules()}
    for name in (name for name in files if "modeling" in name):
        module = sys.modules[name]
        for function in [key for key in vars(module) if key.startswith("apply_rotary")]:
            setattr(module, function, counting(getattr(module, function), counts))


def counting(function: Any, counts: collections.Counter[str]) -> Any:
    """A rotating function that counts what it gives."""

    @functools.wraps(function)
    def counted(*given: Any, **named: Any) -> Any:
        results = function(*given, **named)
        several = isinstance(results, (tuple, list))
        counts.update(rotations=len(results) if several else 1)
        return results

    return counted


def measured(kind: str, dtype: torch.dtype) -> dict[str, Any]:
    """What becomes of one family."""
    from transformers import AutoModelForCausalLM

    import ascend_passes

    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = small_config(kind)
    with torch.device("meta"):
        sizes = [one.numel() for one in AutoModelForCausalLM.from_config(config).parameters()]
    if sum(sizes) > MOST_PARAMETERS:
        return {"family": kind, "error": "it cannot be made small by its configuration"}
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    ids = torch.randint(3, 200, (1, TOKENS))
    with torch.no_grad():
        plain = model(ids, use_cache=False).logits
        run = functools.partial(torch.compile(model, backend="ascend_dense"), ids, use_cache=False)
        compiled = run().logits
        calls = executed(run)
        counts: collections.Counter[str] = collections.Counter()
        counted_norms(model, counts)
        counted_rotations(model, counts)
        model(ids, use_cache=False)
    fired: collections.Counter[str] = collections.Counter()
    left: list[tuple[str, str]] = []
    for report in ascend_passes.reports():
        fired.update(report.fired)
        left += [(miss.rule, f"{miss.place.module}: {miss.reason}") for miss in report.misses]
    wide = {name: n for name, n in fired.items() if name.endswith("_of_widened_rows")}
    apart = (compiled.double() - plain.double()).norm() / plain.double().norm()
    return {
        "family": kind,
        "graphs": len(ascend_passes.reports()),
        "norms": sum(number for name, number in calls.items() if "norm" in name)
        - sum(wide.values()),
        "of norms": counts["norms"],
        "rotations": calls["npu_rotary_mul"] + 2 * calls["npu_apply_rotary_pos_emb"],
        "of rotations": counts["rotations"],
        "gates": sum(number for name, number in calls.items() if "swiglu" in name),
        "gates left": sum(rule == "gated" and "geglu" not in reason for rule, reason in left),
        "wide": wide,
        "apart": float(apart),
        "left": [line for line in left if line[0] in ("rms_norm", "rotary", "gated")],
        "errors": [error for report in ascend_passes.reports() for error in report.errors],
    }


def every_family() -> tuple[str, ...]:
    """transformers' families with a causal language model."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return tuple(sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))


def rows(families: list[str], dtype: str) -> Iterator[dict[str, Any]]:
    """A row for each family; processes are shared by some, which imports cost more than."""
    for start in range(0, len(families), BATCH):
        batch = families[start : start + BATCH]
        command = [sys.executable, "-m", "tests.models.families", "--here", *batch]
        try:
            done = subprocess.run(
                [*command, "--dtype", dtype],
                capture_output=True,
                text=True,
                timeout=SECONDS * len(batch),
                check=False,
            )
            lines, error = done.stdout, (done.stderr.strip().splitlines() or ["it ended"])[-1]
        except subprocess.TimeoutExpired as late:
            lines, error = (late.stdout or b"").decode(), f"it takes over {SECONDS} s"
        found = [json.loads(line) for line in lines.splitlines() if line.startswith("{")]
        known = {row["family"] for row in found}
        yield from found
        yield from ({"family": kind, "error": error[:200]} for kind in batch if kind not in known)


def measure_here(families: list[str], dtype: torch.dtype) -> None:
    """Print a row for each family, in this process."""
    import ascend_passes

    for kind in families:
        torch._dynamo.reset()
        ascend_passes.reset()
        try:
            row = measured(kind, dtype)
        except (
            Exception
        ) as error:  # a configuration that cannot be small, or a model that needs more
            row = {"family": kind, "error": f"{type(error).__name__}: {error}"[:200]}
        print(json.dumps(row), flush=True)


def main() -> int:
    """0; 1 where a compiled model failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*")
    parser.add_argument("--here", action="store_true", help="measure in this process")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--write", action="store_true", help="write docs/models.md")
    parser.add_argument("--log", type=Path, help="keep rows here; those that are there stay")
    given = parser.parse_args()
    if given.here:
        measure_here(given.families, getattr(torch, given.dtype))
        return 0
    found = kept_rows(given.log)
    known = {row["family"] for row in found}
    wanted = [kind for kind in given.families or every_family() if kind not in known]
    for row in rows(wanted, given.dtype):
        found.append(row)
        print(json.dumps(row), flush=True)
        if given.log is not None:
            with given.log.open("a") as file:
                file.write(json.dumps(row) + "\n")
    found.sort(key=lambda row: row["family"])
    if given.write:
        PAGE.write_text(page(found, given.dtype))
    return int(any(row.get("errors") for row in found))


def kept_rows(log: Path | None) -> list[dict[str, Any]]:
    """The rows of an earlier run, but for families that it could not make."""
    lines = log.read_text().splitlines() if log is not None and log.exists() else []
    return [row for row in map(json.loads, lines) if "error" not in row]


def whole(made: list[dict[str, Any]], name: str) -> str:
    """How many became operators of how many there are; some models spell more than they name."""
    of = sum(row[f"of {name}"] for row in made)
    return f"{sum(min(row[name], row[f'of {name}']) for row in made)} of {of}"


def page(found: list[dict[str, Any]], dtype: str) -> str:
    """The documentation's page."""
    made = [row for row in found if "error" not in row]
    gates = sum(row["gates"] for row in made)
    norms, rotations = (whole(made, name) for name in ("norms", "rotations"))
    left = sum(row["gates left"] for row in made)
    lines = [
        "# Models",
        "",
        "<!-- Written by `python -m tests.models.families --write`; do not edit. -->",
        "",
        f"{len(made)} families of transformers, made small from their configurations, two layers",
        f"each, in {dtype}, a prompt of {TOKENS} tokens. Norms are counted by hooks on modules,",
        "where they give rows of the model's dtype, rotated tensors in the modeling files' own",
        "functions, and operators in a profile of the compiled model.",
        "",
        f"RMSNorm {norms}, rotations {rotations},",
        f"SwiGLU {gates}; {left} other gates look like one and are another function.",
        "",
        "| family | graphs | norms | rotations | gates | apart from eager | left |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in made:
        reasons = "; ".join(dict.fromkeys(reason for _, reason in row["left"][:2]))
        lines.append(
            f"| {row['family']} | {row['graphs']} | {row['norms']} of {row['of norms']} | "
            f"{row['rotations']} of {row['of rotations']} | {row['gates']} | "
            f"{row['apart']:.1e} | {reasons} |"
        )
    other = [row for row in found if "error" in row]
    lines += ["", f"Not made here: {', '.join(row['family'] for row in other)}.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
