"""The harness sees each kind of difference: what a compiler might do wrong is done on purpose."""

from __future__ import annotations

import contextlib

import pytest
import torch

from tests.soundness import literal
from tests.soundness.call import Call
from tests.soundness.case import Scenario
from tests.soundness.copies import copied
from tests.soundness.judge import as_near, differences, stable
from tests.soundness.observe import Record, bits, message
from tests.soundness.programs import Program


def function(x):
    x.add_(1)
    y = x.exp()
    return y, y.clone(), torch.zeros(3, 4), x


def kept(results, x):
    return results


def other_value(results, x):
    return results[0] + 1e-6, *results[1:]


def other_sign_of_zero(results, x):
    return *results[:2], -results[2], results[3]


def other_dtype(results, x):
    return *results[:2], results[2].double(), results[3]


def other_shape(results, x):
    return *results[:2], results[2][None], results[3]


def other_strides(results, x):
    return *results[:2], results[2].t().contiguous().t(), results[3]


def one_memory(results, x):
    return results[0], results[0], *results[2:]


def one_memory_as_a_view(results, x):
    return results[0], results[0].detach(), *results[2:]


def argument_copied(results, x):
    return *results[:3], x.clone()


def argument_written(results, x):
    x.data.mul_(2)
    return *results[:3], x


def no_gradient(results, x):
    return results[0].detach(), *results[1:]


def other_error(results, x):
    raise ValueError("refused")


def random_number_used(results, x):
    torch.rand(1)
    return results


def kept_between_calls(results, x):
    return *results[:2], CONSTANT, results[3]


CONSTANT = torch.zeros(3, 4)
FOUND = {
    kept: set(),
    other_value: {"values"},
    other_sign_of_zero: {"values"},
    other_dtype: {"dtype", "values"},
    other_shape: {"shape", "strides"},
    other_strides: {"strides"},
    one_memory: {"shared memory", "same object", "values"},
    one_memory_as_a_view: {"shared memory", "values"},
    argument_copied: {"shared memory", "same object"},
    argument_written: {"values"},
    no_gradient: {"gradient"},
    other_error: {"raises", "message"},
    random_number_used: {"values"},
    kept_between_calls: {"shared memory", "same object", "values"},
}


def facts(sabotage, gradients: bool) -> dict:
    """What is recorded of the function under a compiler that spoils results."""

    def compile(step):
        def spoilt(x):
            return sabotage(step(x * 1 if gradients else x), x)

        return spoilt

    record, numbers = Record(), torch.Generator().manual_seed(1)
    x = torch.rand(3, 4, generator=numbers).requires_grad_(gradients)
    with stable():
        Call(function, (x, (), {}), gradients).run(compile, record)
    return record.facts


@pytest.mark.parametrize("sabotage", FOUND)
def test_each_kind_of_difference_is_found(sabotage):
    gradients = sabotage is no_gradient
    good = facts(kept, gradients)
    found = {fault.kind for fault in differences(good, good, facts(sabotage, gradients))}
    assert found >= FOUND[sabotage]
    assert found or sabotage is kept


def test_what_eager_gives_is_no_fault():
    """Nor is what `aot_eager` gives."""
    eager, theirs = {"a | values": 1}, {"a | values": 2}
    assert not differences(eager, theirs, {"a | values": 1})
    assert not differences(eager, theirs, {"a | values": 2})
    assert differences(eager, theirs, {"a | values": 3})
    assert differences(eager, theirs, {})


def test_what_has_no_reference_is_compared_as_far_as_it_goes():
    one, near, far = (bits(torch.tensor(n)) for n in (1.0, 1.0 + 1e-7, 1.1))
    assert not differences({"a | values": one}, {}, {"a | values": near})
    assert differences({"a | values": one}, {}, {"a | values": far})
    apart, shared = {"a | shared memory": ()}, {"a | shared memory": (("x", "y"),)}
    ours, theirs = {"a | values": one}, {"a | values": far}
    assert not differences(apart, {**shared, **theirs}, {**apart, **ours})
    assert differences(apart, {**apart, **theirs}, {**apart, **ours})
    refused = {"a | raises": "RuntimeError", "a, copies | values": near}
    assert not differences(refused, theirs, ours)
    assert differences({"a | raises": "RuntimeError"}, theirs, ours)
    assert differences({**refused, "a, copies | values": far}, {"a | values": near}, ours)


def test_values_of_a_recognized_operator_are_held_against_float64():
    exact = torch.linspace(-1, 1, 41, dtype=torch.float64)
    theirs = exact + 0.01 * torch.cos(torch.arange(41.0))
    one_far, all_wrong = exact + 0.002, exact * 1.02
    one_far[7] += 0.1

    def judged(ours) -> bool:
        return as_near(*(bits(it) for it in (ours, theirs, exact)))

    assert judged(theirs) and judged(2 * exact - theirs)
    assert not judged(one_far) and not judged(all_wrong) and not judged(exact[:40])
    assert not judged(torch.full_like(exact, float("nan")))


def test_a_refused_gradient_has_that_of_copies_beside_it():
    def gradients_of(function) -> dict:
        record, x = Record(), torch.tensor([0.5]).requires_grad_()
        Call(function, (x, (), {}), True).run(lambda step: step, record)
        return record.facts

    name = "gradients, result 0 written, copies | gradients[0] | values"
    written = gradients_of(lambda x: x.exp())
    assert "gradients, result 0 written | raises" in written
    plain = gradients_of(lambda x: x.exp().clone())
    assert name not in plain
    assert written[name] == plain[name.replace(", copies", "")]


def test_messages_differ_in_more_than_the_names_of_nodes():
    def text(node: str, rest: str = "is at version 1") -> str:
        return message(RuntimeError(f"modified: [Tensor [3]]{node} {rest}"))

    assert text(", which is output 0 of torch::autograd::CopySlices,") == text("")
    assert text("", "is at version 2") != text("")
    views = (f"Output {at} is a view and its base was modified" for at in ("0 of Split", "1 of F"))
    assert len({message(RuntimeError(view)) for view in views}) == 1


def test_copies_share_memory_as_the_originals():
    base = torch.arange(12.0)
    tree = (base[2:8].view(2, 3).t(), [base[4:], base, base], {"k": torch.ones(2)})
    view, (tail, whole, same), _ = copied(tree)
    assert whole is same and whole is not base
    assert view.stride() == (1, 3) and view.storage_offset() == 2
    whole.zero_()
    assert not view.any() and not tail.any() and base.any()


def test_the_file_of_a_fault_runs(capsys):
    program = Program(("r = op(x, *args, **kwargs)",), ("r", "r"))
    inputs = (torch.rand(2, 3).t().requires_grad_(), (), {})
    exec(literal.script(["op = torch.exp"], program.source, inputs, None, True), {})
    shown = capsys.readouterr().out
    assert shown.count("memory of [0, 1]") == 4 and shown.count("gradients [tensor(") == 2
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("sweep", ["past", "aliasing", "errors", "weights"])
def test_the_file_of_a_function_has_all_that_it_uses(sweep):
    from tests.soundness.sweeps import named_cases

    for name, case in named_cases(sweep).items():
        text = case.build(0).source().split("\nfor backend")[0]
        space: dict = {}
        exec(text, space)
        if name in space and name != "anomaly":  # of which autograd prints
            with contextlib.suppress(RuntimeError, IndexError, TypeError):
                space[name](lambda function: function)


def test_a_program_becomes_smaller():
    program = Program(("a = x", "b = a"), ("a", "b"))
    assert {len(p.lines) + len(p.returned) for p in program.smaller()} == {3}
    assert isinstance(Scenario(lambda *_: None, str).smaller(), list)
