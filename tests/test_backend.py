"""`torch.compile(model, backend="ascend_dense")`: options, faults, recompilation, reports."""

from __future__ import annotations

import dataclasses
import functools
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import ascend_passes
from ascend_passes import OptionError, Options, Report, backend
from ascend_passes.compile import pipeline
from ascend_passes.compile.pipeline import ExpectationError
from ascend_passes.compile.stages import Stage
from ascend_passes.engine.registry import find, rules
from ascend_passes.engine.rule import RuleError
from ascend_passes.engine.template import outline, template
from ascend_passes.passes.constants.float_inputs import MOST_VALUES

H = 64


@pytest.fixture(autouse=True)
def fresh(monkeypatch) -> Iterator[None]:
    for field in dataclasses.fields(Options):
        monkeypatch.delenv(field.metadata["environment"], raising=False)
    torch._dynamo.reset()
    ascend_passes.reset()
    yield
    torch._dynamo.reset()


class Norm(nn.Module):
    """RMSNorm as Hugging Face writes it."""

    def __init__(self, eps: float = 1e-6, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(H, dtype=dtype) + 0.5)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


class Block(nn.Module):
    """Residual add, norm, SwiGLU."""

    def __init__(self, eps: float = 1e-6) -> None:
        super().__init__()
        self.norm = Norm(eps)
        self.gate, self.up, self.down = (nn.Linear(H, H, bias=False) for _ in range(3))

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        total = x + residual
        y = self.norm(total)
        return total + self.down(nn.functional.silu(self.gate(y)) * self.up(y))


FIRED = {"rms_norm": 1, "add_rms_norm": 1, "swiglu_unpacked": 1}


def rows(count=5, dtype=torch.float32):
    return torch.randn(count, H, dtype=dtype), torch.randn(count, H, dtype=dtype)


def compiled(model, dynamic=None, **options):
    return torch.compile(model, backend="ascend_dense", dynamic=dynamic, options=options or None)


@torch.no_grad()
def agrees(step, model, *inputs):
    torch.testing.assert_close(step(*inputs), model(*inputs), atol=1e-5, rtol=1e-5)


def fired(report):
    return {name: report.fired.get(name, 0) for name in FIRED}


@pytest.mark.parametrize("dynamic", [None, True, False])
def test_the_entry_point_fuses_and_agrees(dynamic):
    model = Block()
    step = compiled(model, dynamic)
    for count in (5, 9, 1, 12):
        agrees(step, model, *rows(count))
    reports = ascend_passes.reports()
    assert all(fired(report) == FIRED for report in reports)
    assert not any(report.errors for report in reports)
    expected = {
        None: 3,
        True: 2,
        False: 4,
    }  # one row is a kind of its own; None learns at the second
    assert len(reports) <= expected[dynamic]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"flashcom": True}, "unknown option 'flashcom'. Did you mean 'flashcomm'"),
        ({"capture_limit": "many"}, "capture_limit' must be a int"),
        ({"executor": "fast"}, "valid values: auto, eager"),
        ({"rules": "swiglu"}, r"must start with \+ or -"),
    ],
)
def test_a_bad_option_is_an_error_that_says_what_is_right(options, reason):
    with pytest.raises(Exception, match=reason) as caught:
        compiled(Block(), **options)(*rows())
    assert caught.type.__name__ == "OptionError" or "OptionError" in str(caught.value)


def test_modes_are_refused():
    with pytest.raises(Exception, match="ascend_dense has no modes"):
        torch.compile(Block(), backend="ascend_dense", mode="reduce-overhead")(*rows())


def test_environment_variables_reach_the_backend(monkeypatch):
    monkeypatch.setenv("ASCEND_PASSES_RULES", "-swiglu_unpacked")
    model = Block()
    agrees(compiled(model), model, *rows())
    (report,) = ascend_passes.reports()
    assert fired(report) == {**FIRED, "swiglu_unpacked": 0}
    monkeypatch.setenv("ASCEND_PASSES_CAPTURE_LIMIT", "many")
    with pytest.raises(Exception, match="ASCEND_PASSES_CAPTURE_LIMIT is 'many'"):
        compiled(Block())(*rows())


def test_off_leaves_the_graph_as_it_is(monkeypatch):
    monkeypatch.setenv("ASCEND_PASSES_OFF", "1")
    model, inputs = Block(), rows()
    with torch.no_grad():
        assert torch.equal(compiled(model)(*inputs), model(*inputs))
    (report,) = ascend_passes.reports()
    assert not report.fired
    assert report.graph_before == report.graph_after
    assert "ASCEND_PASSES_OFF" in report.notes[0]


def test_an_expectation_that_is_met_passes_and_one_that_is_not_raises():
    model = Block()
    agrees(compiled(model, expect={"add_rms_norm": 1}), model, *rows())
    torch._dynamo.reset()
    with torch.no_grad(), pytest.raises(Exception, match="add_rms_norm fired 1 times, expected 2"):
        compiled(model, expect={"add_rms_norm": 2})(*rows())


class Shared(Block):
    """The norm's inner value has another user, so the rule refuses a whole match."""

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.norm.weight * (x * scale) + scale


def test_strict_raises_what_is_otherwise_reported():
    model = Shared()
    with torch.no_grad():
        agrees(compiled(model), model, *rows())
        (report,) = ascend_passes.reports()
        assert "rsqrt has 2 users" in report.misses[0].reason
        torch._dynamo.reset()
        with pytest.raises(Exception, match=r"rms_norm at .*rsqrt has 2 users"):
            compiled(model, strict=True)(*rows())


def broken_stage(monkeypatch, name):
    """Replace a stage by one that edits the graph and then raises."""

    def run(graph, context):
        call = next(node for node in graph.nodes if node.op == "call_function")
        call.replace_all_uses_with(graph.find_nodes(op="placeholder")[0])
        raise RuntimeError("broken on purpose")

    stages = [Stage(s.name, run) if s.name == name else s for s in pipeline.STAGES]
    monkeypatch.setattr(pipeline, "STAGES", tuple(stages))


@pytest.mark.parametrize("name", sorted({stage.name for stage in pipeline.STAGES}))
def test_a_pass_that_raises_is_left_out_and_reported(monkeypatch, name):
    broken_stage(monkeypatch, name)
    model = Block()
    agrees(compiled(model), model, *rows())
    (report,) = ascend_passes.reports()
    assert report.errors == (f"{name} failed and was left out: RuntimeError: broken on purpose",)
    if name not in ("recognize", "fuse", "normalize"):
        assert fired(report)["add_rms_norm"] == 1


def test_all_passes_that_raise_leave_the_graph_as_it_was(monkeypatch):
    def run(graph, context):
        raise RuntimeError("broken on purpose")

    stages = tuple(Stage(stage.name, run) for stage in pipeline.STAGES)
    monkeypatch.setattr(pipeline, "STAGES", stages)
    report = ascend_passes.explain(Block(), *rows())
    assert len(report.errors) == len({stage.name for stage in stages})
    assert not report.fired.get("rms_norm")
    assert calls(report.graph_before) == calls(report.graph_after)


def calls(code):
    return [
        line.split("torch.ops.")[1].split("(")[0]
        for line in code.splitlines()
        if "torch.ops." in line
    ]


def test_a_pass_that_raises_is_an_error_under_strict(monkeypatch):
    broken_stage(monkeypatch, "fuse")
    with torch.no_grad(), pytest.raises(Exception, match="broken on purpose"):
        compiled(Block(), strict=True)(*rows())


def test_several_models_in_one_process_keep_their_own_weights_and_options():
    one, other = Block(), Block(eps=1e-2)
    first = compiled(one)
    second = compiled(other, rules="-add_rms_norm")
    for count in (5, 5):
        inputs = rows(count)
        agrees(first, one, *inputs)
        agrees(second, other, *inputs)
    assert [fired(r)["add_rms_norm"] for r in ascend_passes.reports()] == [1, 0]


@pytest.mark.skipif(
    not hasattr(torch.compiler, "_compile_session_context"),
    reason="torch before 2.13 cannot tell which thread compiles; see docs/how-it-works.md",
)
def test_two_threads_compile_and_call_one_model():
    model = Block()
    step = compiled(model, dynamic=True)
    failures = []

    def work(seed):
        generator = torch.Generator().manual_seed(seed)
        try:
            with torch.no_grad():
                for count in (5, 6, 7):
                    x, residual = (torch.randn(count, H, generator=generator) for _ in range(2))
                    for _ in range(3):
                        torch.testing.assert_close(
                            step(x, residual), model(x, residual), atol=1e-5, rtol=1e-5
                        )
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


@torch.no_grad()
def test_a_changed_epsilon_counts_under_dynamic_sizes():
    model = Norm(eps=1e-6)
    step = compiled(model, dynamic=True)
    x = torch.randn(5, H) * 0.1
    agrees(step, model, x)
    before = step(x)
    for eps in (0.5, 1e-3, 1e-6):
        model.eps = eps
        agrees(step, model, x)
    assert torch.equal(step(x), before)
    assert all(report.fired["rms_norm"] == 1 for report in ascend_passes.reports())


def bits(tensor):
    return tensor.view(torch.int32)


@torch.no_grad()
def test_a_float_that_keeps_changing_compiles_a_few_times_only():
    run = lambda x, t: torch.softmax(x / t, -1)  # noqa: E731
    step = compiled(run, dynamic=True)
    x = torch.randn(5, H)
    for index in range(12):
        t = 0.5 + index / 8
        assert torch.equal(bits(step(x, t)), bits(run(x, t)))
    assert len(ascend_passes.reports()) == MOST_VALUES + 1


@torch.no_grad()
def test_an_epsilon_beside_a_float_that_keeps_changing_still_fuses():
    model = Norm()
    run = lambda x, t: model(x / t)  # noqa: E731
    step = compiled(run, dynamic=True)
    x = torch.randn(5, H)
    for index in range(8):
        torch.testing.assert_close(step(x, 0.5 + index), run(x, 0.5 + index), atol=1e-5, rtol=1e-5)
    assert len(ascend_passes.reports()) <= MOST_VALUES + 1
    assert all(report.fired["rms_norm"] == 1 for report in ascend_passes.reports())


@pytest.mark.parametrize("dynamic", [None, True])
@torch.no_grad()
def test_floats_are_told_apart_by_their_bits(dynamic):
    run = lambda x, t: 1 / (x * t)  # noqa: E731
    step = compiled(run, dynamic=dynamic)
    x = torch.tensor([1.0, -2.0, 3.0])
    values = [0.5, 0.0, -0.0, float("nan"), float("inf"), float("nan"), -0.0, 0.0, 0.25, 2.0]
    for t in values:
        got, wanted = step(x, t), run(x, t)
        assert torch.equal(got.isnan(), wanted.isnan())
        assert torch.equal(bits(got.nan_to_num()), bits(wanted.nan_to_num())), t
    assert len(ascend_passes.reports()) <= MOST_VALUES + 3


class Twins(nn.Module):
    """Two norms of equal gains, which the compiled graph reads once."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = Norm(), Norm()
        self.other.weight.data = self.one.weight.data.clone()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.one(x), self.other(x)


def test_parameters_of_equal_content_may_part():
    model, x = Twins(), torch.randn(5, H)
    step = compiled(model)
    with torch.no_grad():
        agrees(step, model, x)
        assert ascend_passes.reports()[0].fired["merge_equal"] == 1
        model.other.weight.add_(1)
        agrees(step, model, x)
        model.one.weight.mul_(3)
        agrees(step, model, x)
        model.one.weight = nn.Parameter(torch.rand(H))
        agrees(step, model, x)


class Folded(nn.Module):
    """A gain that is computed from a parameter, as in Gemma."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(H))

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + self.weight.float())


def test_folded_values_follow_their_parameters():
    model, x = Folded(), torch.randn(5, H)
    step = compiled(model)
    with torch.no_grad():
        agrees(step, model, x)
        assert ascend_passes.reports()[0].fired["fold_constants"] == 1
        for change in (lambda w: w.add_(1), lambda w: w.zero_(), lambda w: w.copy_(torch.rand(H))):
            change(model.weight)
            agrees(step, model, x)
        model.load_state_dict({"weight": torch.rand(H)})
        agrees(step, model, x)


class Quantized(nn.Module):
    """A norm whose rows are quantized with a scale of another dtype."""

    def __init__(self, scale_dtype: torch.dtype) -> None:
        super().__init__()
        self.norm = Norm(dtype=torch.float16)
        self.scale = nn.Parameter(torch.rand(1).to(scale_dtype) + 0.1, requires_grad=False)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        y = self.norm(x + residual)
        return torch.ops.npu.npu_quantize(y, self.scale, None, torch.qint8, -1, True)


def test_half_precision_rows_with_bfloat16_scales_are_refused_with_the_reason():
    inputs = rows(dtype=torch.float16)
    report = ascend_passes.explain(Quantized(torch.bfloat16), *inputs)
    assert report.fired["add_rms_norm"] == 1
    assert not any(name.startswith("add_rms_norm_quant") for name in report.fired)
    (miss,) = [miss for miss in report.misses if miss.rule.startswith("add_rms_norm_quant")]
    assert miss.reason == "gamma is float16 but scale is bfloat16; they must be alike"


def test_a_scale_of_a_dtype_that_the_operator_does_not_take_is_refused_with_its_limit():
    report = ascend_passes.explain(Quantized(torch.float16), *rows(dtype=torch.float16))
    (miss,) = [miss for miss in report.misses if miss.rule == "add_rms_norm_quant"]
    assert miss.reason == "npu_add_rms_norm_quant: scales1 is float16 but must be float32"


def test_a_training_graph_has_eagers_gradients():
    model, inputs = Block(), [t.requires_grad_() for t in rows()]
    model(*inputs).square().sum().backward()
    expected = [p.grad.clone() for p in (*inputs, *model.parameters())]
    for tensor in (*inputs, *model.parameters()):
        tensor.grad = None
    compiled(model)(*inputs).square().sum().backward()
    for tensor, gradient in zip((*inputs, *model.parameters()), expected, strict=True):
        torch.testing.assert_close(tensor.grad, gradient, atol=1e-4, rtol=1e-4)


def test_a_graph_without_any_candidate_is_left_alone():
    model = nn.Linear(H, H)
    agrees(compiled(model), model, rows()[0])
    (report,) = ascend_passes.reports()
    assert not report.misses and not report.errors
    assert not any(name in report.fired for name in FIRED)


RULE = """
from typing import Annotated
import torch
from torch import Tensor
from ascend_passes import Rule

def pattern(x: Annotated[Tensor, "... H"]):
    return torch.cos(torch.sin(x))

def replacement(x: Tensor):
    return torch.cos(x.sin() * 1)

rule = Rule(pattern, replacement, examples=[{"H": 16}])
"""


def test_rules_of_the_users_own_are_found(tmp_path):
    (tmp_path / "mine.py").write_text(RULE)
    report = ascend_passes.explain(
        lambda x: torch.cos(torch.sin(x)), rows()[0], options={"rule_path": str(tmp_path)}
    )
    assert report.fired["mine"] == 1


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("broken", "def pattern(x:", r"broken\.py: SyntaxError"),
        ("broken", "import no_such_module", r"broken\.py: ModuleNotFoundError"),
        ("broken", "rule = 3", r"broken\.py must end in `rule = Rule"),
        ("broken", RULE.replace('[{"H": 16}]', "[]"), "a rule needs examples"),
        ("swiglu", RULE, r"swiglu\.py is named as the recognition swiglu is"),
        ("add_rms_norm", RULE, r"add_rms_norm\.py and .*add_rms_norm\.py have one name"),
    ],
)
def test_a_rule_file_that_is_wrong_is_an_error_that_names_it(tmp_path, name, text, reason):
    (tmp_path / f"{name}.py").write_text(text)
    with torch.no_grad(), pytest.raises(Exception, match=reason) as caught:
        compiled(Block(), rule_path=str(tmp_path))(*rows())
    assert "RuleError" in f"{caught.type.__name__} {caught.value}"


def test_two_files_of_one_name_keep_their_own_text(tmp_path):
    shipped = next(rule for rule in rules(Options()) if rule.name == "add_rms_norm")
    (tmp_path / "add_rms_norm.py").write_text(f'"""Mine."""\n{RULE}')
    assert find(tmp_path)[0].summary == "Mine."
    assert dataclasses.replace(shipped).summary.startswith("Residual add")


def test_a_folder_of_rules_that_does_not_exist_is_an_error(tmp_path):
    with torch.no_grad(), pytest.raises(Exception, match="is no folder; `rule_path` names folders"):
        compiled(Block(), rule_path=str(tmp_path / "absent"))(*rows())


class Counting(Block):
    """Counts the calls of its forward in memory that the graph writes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        self.count.add_(1)
        residual.mul_(2)
        return super().forward(x, residual)


def test_explain_runs_nothing_and_returns_graphs_that_run():
    model, (x, residual) = Counting(), rows()
    kept = residual.clone()
    report = ascend_passes.explain(model, x, residual)
    assert model.count == 0
    assert torch.equal(residual, kept)
    assert fired(report) == FIRED
    assert not ascend_passes.reports()


def run(code, inputs):
    """Run a graph's Python as a user would who copied it out of a report."""
    scope = {"torch": torch, "device": torch.device, "inf": float("inf"), "nan": float("nan")}
    exec(code, scope)
    return scope["forward"](None, *inputs)


def test_the_graphs_of_a_report_are_python_that_runs():
    model, x = Norm(), rows()[0]
    report = ascend_passes.explain(model, x)
    rows_first = "pow.Tensor_Scalar(arg0_1" in report.graph_before
    inputs = (x, model.weight) if rows_first else (model.weight, x)
    for code in (report.graph_before, report.graph_after):
        (result,) = run(code, inputs)
        torch.testing.assert_close(result, model(x), atol=1e-5, rtol=1e-5)
    assert "npu_rms_norm" in report.graph_after
    assert "npu_rms_norm" not in report.graph_before


def test_explain_of_equal_parameters_needs_no_content():
    report = ascend_passes.explain(Twins(), torch.randn(5, H))
    assert report.fired["merge_equal"] == 1
    assert not report.errors


def test_reports_are_kept_until_reset():
    model = Block()
    agrees(compiled(model, dynamic=False), model, *rows(5))
    agrees(compiled(model, dynamic=False), model, *rows(6))
    assert len(ascend_passes.reports()) == 2
    ascend_passes.reports().clear()
    assert len(ascend_passes.reports()) == 2
    ascend_passes.reset()
    assert ascend_passes.reports() == []


def test_the_dump_holds_runnable_graphs(tmp_path):
    model, inputs = Norm(), rows()[:1]
    agrees(compiled(model, dump=str(tmp_path / "graphs"), dynamic=False), model, *inputs)
    agrees(compiled(model, dump=str(tmp_path / "graphs"), dynamic=False), model, rows(7)[0])
    files = sorted(path.name for path in (tmp_path / "graphs").iterdir())
    assert [name.split("_")[0] for name in files] == ["000", "000", "001", "001"]
    for path in (tmp_path / "graphs").iterdir():
        scope: dict[str, object] = {}
        exec(compile(path.read_text(), path, "exec"), scope)
        assert callable(scope["forward"])
        assert ("npu_rms_norm" in path.read_text()) is path.name.endswith(".after.py")


def test_explain_prints_the_report(capsys):
    model = Block()
    agrees(compiled(model, explain=True), model, *rows())
    assert "fused      add_rms_norm 1 of 1, rms_norm 1 of 1" in capsys.readouterr().out


def test_errors_have_types_of_their_own():
    graph = ascend_passes.ir.trace.aot_graph(Block(), *rows())
    with pytest.raises(OptionError):
        ascend_passes.optimize(graph, [], {"no_such": 1})
    with pytest.raises(ExpectationError):
        ascend_passes.optimize(graph, [], {"expect": {"swiglu": 1}})
    with pytest.raises(RuleError):
        ascend_passes.optimize(graph, [], {"rule_path": "/no/such/folder"})


def test_a_compiler_of_somebody_elses_optimizes():
    reports = []
    outline.cache_clear()  # what rules look for is traced in a process once
    template.cache_clear()

    def compiler(gm: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        reports.append(ascend_passes.optimize(gm, inputs))
        return gm.forward

    backend = functools.partial(ascend_passes.ir.trace.compile_inference, compiler=compiler)
    model = Block()
    agrees(torch.compile(model, backend=backend), model, *rows())
    (report,) = reports
    assert not report.errors and report.fired["add_rms_norm"] == 1


def test_a_process_that_compiles_without_end_remembers_a_bounded_part(monkeypatch):
    monkeypatch.setattr(backend, "MOST_REPORTS", 5)
    monkeypatch.setattr(backend, "MOST_TEXTS", 2)
    for number in range(8):
        backend.keep_quietly(Report(notes=(str(number),), graph_before="text", graph_after="text"))
    found = ascend_passes.reports()
    assert [report.notes for report in found] == [("3",), ("4",), ("5",), ("6",), ("7",)]
    assert [bool(report.graph_before) for report in found] == [False, False, False, True, True]


BACKWARD_INSIDE = """
import torch

def loss(a):
    found = (torch.matmul(a, torch.ones(2, 2)) - 1).abs().mean()
    found.backward()
    return found.detach() * 2

a = torch.ones(2, 2, requires_grad=True)
torch.compile(loss, backend="ascend_dense")(a)
print(a.grad is not None)
"""


def test_a_backward_that_is_compiled_while_the_model_is_traced_ends():
    """Dynamo calls back before each compilation, with a lock held, and may not trace that call.

    In a process of its own, since no signal ends who waits for that lock.
    """
    ended = subprocess.run(
        [sys.executable, "-c", BACKWARD_INSIDE],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert ended.stdout.splitlines()[-1] == "True"


def test_on_a_cpu_who_watches_sees_the_operators_and_who_does_not_gets_the_same() -> None:
    compiled = torch.compile(Norm(), backend="ascend_dense")
    x = torch.randn(3, H)
    with torch.no_grad():
        direct = compiled(x)
        with torch.profiler.profile() as recorded:
            watched = compiled(x)
    assert "npu::npu_rms_norm" in {event.name for event in recorded.events()}
    assert torch.equal(direct, watched)
