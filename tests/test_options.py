import dataclasses

import pytest

from ascend_passes.options import OptionError, Options, switched_on


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    for field in dataclasses.fields(Options):
        monkeypatch.delenv(field.metadata["environment"], raising=False)


def test_every_option_says_what_it_is():
    for field in dataclasses.fields(Options):
        assert field.metadata["environment"].isupper()
        assert field.metadata["sentence"].endswith((".", ")."))


def test_environment_variables_are_unique():
    names = [field.metadata["environment"] for field in dataclasses.fields(Options)]
    assert len(set(names)) == len(names)


def test_an_unknown_option_names_the_nearest_and_all():
    with pytest.raises(OptionError, match="Did you mean 'flashcomm'") as caught:
        Options.read({"flashcom": True})
    assert all(field.name in str(caught.value) for field in dataclasses.fields(Options))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"flashcomm": "yes"}, "must be a bool"),
        ({"flashcomm": 1}, "must be a bool"),
        ({"capture_limit": True}, "must be a int"),
        ({"capture_limit": -1}, "at least 0"),
        ({"flashcomm_tokens": -2}, "at least -1"),
        ({"executor": "fast"}, "valid values: auto, eager"),
        ({"expect": 3}, "dict of rule name to count"),
    ],
)
def test_a_wrong_value_says_what_is_right(given, reason):
    with pytest.raises(OptionError, match=reason):
        Options.read(given)


def test_the_environment_is_read_and_arguments_win(monkeypatch):
    monkeypatch.setenv("VLLM_ASCEND_ENABLE_FLASHCOMM1", "1")
    monkeypatch.setenv("ASCEND_PASSES_EXPECT", "swiglu=2, rms_norm=5")
    assert Options.read().flashcomm
    assert dict(Options.read().expect) == {"swiglu": 2, "rms_norm": 5}
    assert not Options.read({"flashcomm": False}).flashcomm


@pytest.mark.parametrize(
    ("variable", "text", "reason"),
    [
        ("VLLM_ASCEND_ENABLE_FLASHCOMM1", "maybe", "write 1 or 0"),
        ("ASCEND_PASSES_CAPTURE_LIMIT", "many", "write a whole number"),
        ("ASCEND_PASSES_EXPECT", "swiglu", "name=count pairs"),
        ("ASCEND_PASSES_EXECUTOR", "fast", "valid values"),
    ],
)
def test_a_wrong_environment_names_the_variable(monkeypatch, variable, text, reason):
    monkeypatch.setenv(variable, text)
    with pytest.raises(OptionError, match=f"{variable}.*{reason}"):
        Options.read()


def test_the_last_switch_that_fits_wins():
    assert switched_on("swiglu", "")
    assert not switched_on("swiglu", "-swiglu")
    assert switched_on("swiglu", "-*,+swiglu")
    assert not switched_on("rms_norm", "-*, +swiglu")
    with pytest.raises(OptionError, match="must start with"):
        switched_on("swiglu", "swiglu")
