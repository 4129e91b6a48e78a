"""Calls of the command line that are wrong, each of which must end in one line that says why.

`python -m tests.commands.bad_calls` makes all of them and prints a table; `make test` a sample.
"""

from __future__ import annotations

import argparse
import importlib
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ascend_passes.__main__ import COMMANDS, NEGATIVE, UNEXPECTED, WRONG_USE, main
from tests.commands import folders

LONG = "x" * 5000
NO_MODEL = ("run", "models/nothing")
LOAD_SECONDS = 2.0
"""What the rule files of a folder get here; a user's get more."""
PATIENCE = 120
"""Seconds until a call counts as one without end: a busy machine loads models slowly."""
MEMORY = 8 * 2**30
"""Bytes of address space that a call may add."""

LOADED = ("compile.option_values", "models.compare", "models.load", "verify.bench")
"""Modules that are loaded once, before the processes part."""


@dataclass(frozen=True)
class Call:
    """Words behind `ascend-passes`, in the folder that `folders.make` writes."""

    words: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    statuses: tuple[int, ...] = (WRONG_USE,)
    says: str = ""
    """A part of the line."""
    quick: bool = True
    """Whether it is for `make test`: no process of its own, no model, no waiting."""

    @property
    def command(self) -> str:
        """The command that is called; `none` for a word that is no command."""
        return self.words[0] if self.words and self.words[0] in (*COMMANDS, "bench") else "none"

    def __str__(self) -> str:
        given = [f"{name}={value[:40]}" for name, value in self.environment.items()]
        return " ".join([*given, *(repr(word[:60]) for word in self.words)])


OPTIONS = (
    ("", "unknown option"),
    ("=", "unknown option"),
    ("flashcom=1", "Did you mean 'flashcomm'"),
    (LONG, "unknown option"),
    ("flashcomm", "write flashcomm=VALUE"),
    ("flashcomm=", "write 1 or 0"),
    ("flashcomm=2", "write 1 or 0"),
    ("flashcomm=maybe", "write 1 or 0"),
    ("strict=-1", "write 1 or 0"),
    ("flashcomm_tokens=", "whole number"),
    ("flashcomm_tokens=many", "whole number"),
    ("flashcomm_tokens=1.5", "whole number"),
    ("flashcomm_tokens=-2", "at least -1"),
    ("flashcomm_tokens=99999999999", "at most"),
    (f"prefetch_tokens={'9' * 5000}", "whole number"),
    ("prefetch_tokens=-1", "at least 0"),
    ("gate_up_prefetch_size=-1", "at least 0"),
    ("down_prefetch_size=1e9", "whole number"),
    ("capture_limit=1000000000000", "at most 65536"),
    ("capture_limit=-5", "at least 0"),
    ("capture_sizes=abc", "1,2,4,8"),
    ("capture_sizes=0", "1,2,4,8"),
    ("capture_sizes=-1", "1,2,4,8"),
    ("capture_sizes=1,,2", "1,2,4,8"),
    ("capture_sizes=²", "1,2,4,8"),
    ("capture_sizes=1;2", "1,2,4,8"),
    ("capture_sizes=600", "capture_limit"),
    (f"capture_sizes={'9' * 5000}", "1,2,4,8"),
    ("cudagraph_mode=full", "valid values: NONE"),
    ("cudagraph_mode=PIECEWISE", "valid values: NONE"),
    ("capture_warm_up=now", "valid values: lazy"),
    ("executor=fast", "valid values: auto"),
    ("executor=inducter", "Did you mean 'inductor'"),
    ("soc=", "known chips"),
    ("soc=foo", "known chips"),
    ("soc=910B", "known chips"),
    ("soc=Ascend310P", "known chips"),
    ("profile=", "neither one of"),
    ("profile=nope", "neither one of"),
    ("profile=atlas-800-a4", "Did you mean 'atlas-800-a3'"),
    ("profile=/dev/zero", "is no file"),
    ("profile=/proc/kmsg", "bytes"),
    ("profile=/", "is no file"),
    ("profile=dangling", "no such file"),
    ("profile=loop", "no such file"),
    (f"profile={LONG}", "neither one of"),
    *((f"profile=profiles/{name}.json", "profile") for name in (*folders.PROFILES, "binary")),
    ("rules=swiglu", "must start with + or -"),
    ("rules=-nonsense", "does not exist"),
    ("rules=-swiglo", "Did you mean 'swiglu'"),
    ("rules=-", "does not exist"),
    ("rules=--swiglu", "does not exist"),
    (f"rules=-{LONG}", "does not exist"),
    ("passes=-nonsense", "Valid names"),
    ("passes=-fold_constnts", "Did you mean 'fold_constants'"),
    ("passes=prefetch", "must start with + or -"),
    ("passes=-sequence_parallel.csot", "Did you mean 'sequence_parallel.cost'"),
    ("expect=swiglu", "name=count pairs"),
    ("expect=", "name=count pairs"),
    ("expect==", "name=count pairs"),
    ("expect=swiglu=x", "name=count pairs"),
    ("expect=swiglu=-1", "at least 0"),
    ("expect=swiglu=1=2", "counts 'swiglu=1', which is no rule and no pass"),
    ("expect=swiglo=1", "Did you mean 'swiglu'"),
    ("expect=nope=0", "no rule and no pass"),
    ("expect=gated=1", "It is the family of swiglu"),
    ("rule_path=/absent", "is no folder"),
    ("rule_path=/etc", "no rule files"),
    ("rule_path=a_file", "is no folder"),
    ("rule_path=loop", "is no folder"),
    ("rule_path=dangling", "is no folder"),
    ("rule_path=rules/empty", "no rule files"),
    ("rule_path=rules/directory", "no rule files"),
    ("rule_path=rules/twin", "have one name"),
    ("rule_path=rules/recognition", "is named as the recognition swiglu is"),
    ("rule_path=rules/exits", "SystemExit: 7"),
    ("rule_path=rules/syntax", "SyntaxError"),
    ("rule_path=rules/raises", "ValueError"),
    ("rule_path=rules/divides", "ZeroDivisionError"),
    ("rule_path=rules/recursion", "RecursionError"),
    ("rule_path=rules/imports", "ModuleNotFoundError"),
    ("rule_path=rules/nothing", "must end in `rule"),
    ("rule_path=rules/number", "must end in `rule"),
    ("rule_path=rules/binary", "mine.py"),
    ("rule_path=rules/unsized", "declare it as Annotated"),
    ("rule_path=rules/no_replacement", "mine.py"),
    ("dump=a_file", "is no folder"),
    ("dump=/dev/null", "is no folder"),
    (f"dump={LONG}", "dump"),
)
"""`NAME=VALUE` -> a part of the line that refuses it."""
VARIABLES = (
    ("ASCEND_PASSES_RULES", "-nonsense"),
    ("ASCEND_PASSES_RULES", "swiglu"),
    ("ASCEND_PASSES_PASSES", "-nonsense"),
    ("ASCEND_PASSES_PATH", "/absent"),
    ("ASCEND_PASSES_PATH", "rules/exits"),
    ("ASCEND_PASSES_PATH", "rules/empty:rules/sound"),
    ("VLLM_ASCEND_ENABLE_FLASHCOMM1", "maybe"),
    ("ASCEND_PASSES_FLASHCOMM_TOKENS", "many"),
    ("ASCEND_PASSES_FLASHCOMM_TOKENS", "-7"),
    ("VLLM_ASCEND_ENABLE_MATMUL_REDUCE_SCATTER", "2"),
    ("ASCEND_PASSES_MATMUL_REDUCE_SCATTER_TOKENS", "1e3"),
    ("VLLM_ASCEND_ENABLE_MATMUL_ALLREDUCE", "enabled"),
    ("VLLM_ASCEND_ENABLE_PREFETCH_MLP", "?"),
    ("VLLM_ASCEND_ENABLE_DENSE_OPTIMIZE", "no!"),
    ("ASCEND_PASSES_PREFETCH_TOKENS", "0x10"),
    ("VLLM_ASCEND_MLP_GATE_UP_PREFETCH_SIZE", "18MiB"),
    ("VLLM_ASCEND_MLP_DOWN_PREFETCH_SIZE", "-18"),
    ("ASCEND_PASSES_CUDAGRAPH_MODE", "FULLL"),
    ("ASCEND_PASSES_CAPTURE_SIZES", "abc"),
    ("ASCEND_PASSES_CAPTURE_LIMIT", "many"),
    ("ASCEND_PASSES_CAPTURE_WARM_UP", "never"),
    ("ASCEND_PASSES_EXECUTOR", "fast"),
    ("ASCEND_PASSES_SOC", "foo"),
    ("ASCEND_PASSES_PROFILE", "nope"),
    ("ASCEND_PASSES_PROFILE", "/dev/zero"),
    ("ASCEND_PASSES_EXPECT", "swiglu"),
    ("ASCEND_PASSES_EXPECT", "nope=1"),
    ("ASCEND_PASSES_STRICT", "strict"),
    ("ASCEND_PASSES_EXPLAIN", "yes please"),
    ("ASCEND_PASSES_DUMP", "a_file"),
    ("ASCEND_PASSES_OFF", "of"),
)
NUMBERS = ("", "0", "-1", "-0", "1.5", "1e3", "ten", "0x10", "10000000000000", "1" + "0" * 20)
"""Numbers that no count can be."""
WORDS: tuple[tuple[tuple[str, ...], str], ...] = (
    ((), "COMMAND"),
    (("lst",), "Did you mean 'list'"),
    (("LIST",), "does not exist"),
    (("",), "does not exist"),
    ((LONG,), "does not exist"),
    (("-x",), "required"),
    (("--option", "flashcomm=1"), ""),
    (("bench",), "BENCHMARK"),
    (("bench", "compil"), "Did you mean 'compile'"),
    (("bench", "all"), "does not exist"),
    (("bench", "comm", "extra"), "unrecognized"),
    (("bench", "comm", "--json"), "unrecognized"),
    (("bench", "comm", "--profile"), "expected one argument"),
    (("bench", "compile", "--layers"), "expected at least one argument"),
    (("bench", "compile", "extra"), "unrecognized"),
    (("run",), "directory"),
    (("run", ""), "the name is empty"),
    (("run", "a", "b"), "unrecognized"),
    (("run", LONG), "names no file or folder"),
    (("run", "models/nothing", "--shapes", "both"), "valid: auto"),
    (("run", "models/nothing", "--shapes", "dynamc"), "Did you mean 'dynamic'"),
    (("run", "models/nothing", "--tokns", "3"), "unrecognized"),
    (("run", "models/nothing", "--dtype", "float12"), ""),
    (("run", "models/nothing", "--option"), "expected one argument"),
    (("explain",), "directory"),
    (("explain", ""), "the name is empty"),
    (("explain", "models/nothing", "--tokens", "3"), "unrecognized"),
    (("explain", "models/nothing", "--layer", "-1"), "at least 0"),
    (("explain", "models/nothing", "--layer", "one"), "whole number"),
    (("explain", "models/nothing", "--layer", "1", "--kernels"), "not allowed with"),
    (("explain", "models/nothing", "--diff", "--kernels"), "not allowed with"),
    (("explain", "models/nothing", "--htlm", "x"), "Did you mean '--html'"),
    (("explain", "models/nothing", "--html", ""), "the name is empty"),
    (("explain", "models/nothing", "--html", "rules"), "is no file"),
    (("explain", "models/nothing", "--html", "/proc/x"), "cannot be written"),
    (("explain", "models/nothing", "--write-expect", "/absent/x"), "cannot be written"),
    (("run", "models/nothing", "--html", "loop"), "cannot be written"),
    (("demo", "--html", "/proc/x"), "cannot be written"),
    (("compare",), "old, new"),
    (("compare", "a_file"), "new"),
    (("compare", "a_file", "a_file"), "holds no JSON"),
    (("compare", "absent", "absent"), "is no file"),
    (("compare", "rules", "rules"), "is no file"),
    (("compare", "loop", "dangling"), "is no file"),
    (("compare", "/dev/zero", "/dev/zero"), "is no file"),
    (("compare", "", ""), "the name is empty"),
    (("compare", "profiles/binary.json", "a_file"), "holds no JSON"),
    (("compare", "models/nothing/config.json", "a_file"), "is no file"),
    (("compare", "version_99.json", "a_file"), "write it again"),
    (("compare", "half_a_report.json", "a_file"), "write it again"),
    (("explain", "Qwen/Qwen3-0.6B"), "hf download Qwen/Qwen3-0.6B --local-dir Qwen3-0.6B"),
    (("run", "models/nothing/config.json"), "is no directory"),
    (("run", "a_file"), "is no directory; give a local Hugging Face model's folder. Its own"),
    (("run", "--model", "models/nothing"), "unrecognized arguments: --model"),
    (("explain", "models/without_weights", "--dtype", "bfloat61"), "Did you mean 'bfloat16'"),
    (("explain", "x", "--html", "new", "--write-expect", "new"), "name two"),
    (("explain", "x", "--json", "--kernels"), "leave --diff, --kernels and --layer away"),
    (("explain", "x", "--json", "--layer", "0"), "leave --diff, --kernels and --layer away"),
    (("show", "gated"), "It is the family of swiglu"),
    (("check", "rotary"), "It is the family of rotary_mul"),
    (("bench", "peer"), "Did you mean 'peers'"),
    (("bench", "peers", "extra"), "unrecognized"),
    (("bench", "peers", "--plot", "x.pdf"), ".png"),
    (("bench", "peers", "--plot", "/absent/x.png"), "cannot be written"),
    (("bench", "peers", "--dtype", "float61"), "Did you mean 'bfloat16'"),
    (("bench", "peers", "--device", "tpu"), "none of cpu"),
    (("bisect",), "model"),
    (("bisect", "absent"), "is no directory"),
    (("bisect", "absent", "--bound", "many"), "no relative difference"),
    (("bisect", "absent", "--bound", "nan"), "no relative difference"),
    (("bisect", "absent", "--bound", "-1"), "no relative difference"),
    (("bisect", "absent", "--bound", "inf"), "no relative difference"),
    (("bisect", "absent.py:build"), "is no file"),
    (("bisect", "functions.py"), "functions.py:FUNCTION"),
    (("bisect", "functions.py:bild"), "Did you mean 'build'"),
    (("bisect", "functions.py:"), "It has build, raises, one, number, unfit"),
    (("bisect", "functions.py:build", "--dtype", "float32"), "cast the model in the function"),
    (("bisect", "functions.py:raises"), "raised ValueError: mine; mend it"),
    (("bisect", "functions.py:one"), "must return a model and a tuple"),
    (("bisect", "functions.py:number"), "must return a model and a tuple"),
    (("bisect", "functions.py:unfit"), "fails uncompiled too (RuntimeError"),
    (("bisect", "rules/syntax/mine.py:build"), "raised SyntaxError"),
    (("bisect", "rules/divides/mine.py:build"), "raised ZeroDivisionError"),
    (("bisect", "models/nothing", "--option", "nope=1"), "unknown option"),
    (("completion",), "shell"),
    (("completion", "fish"), "valid: bash, zsh"),
    (("list", "swiglu"), "unrecognized"),
    (("list", "--jsn"), "unrecognized"),
    (("show",), "rule"),
    (("show", ""), "there is no rule"),
    (("show", "swigl"), "Did you mean 'swiglu'"),
    (("show", "../swiglu"), "there is no rule"),
    (("show", LONG), "there is no rule"),
    (("show", "swiglu", "rms_norm"), "unrecognized"),
    (("show", "mine", "--option", "rule_path=rules/pattern_raises"), "raised KeyError"),
    (("show", "mine", "--option", "rule_path=rules/pattern_exits"), "raised SystemExit"),
    (("show", "mine", "--option", "rule_path=rules/replacement_raises"), "raised NameError"),
    (("check", ""), "leave it away"),
    (("check", "absent_rule"), "there is no rule"),
    (("check", "swiglo"), "write './swiglo'"),
    (("check", "swiglo", "--bench"), "write './swiglo'"),
    (("check", "."), "there is no rule"),
    (("check", ".."), "there is no rule"),
    (("check", "/absent/"), "is no folder"),
    (("check", "./a_file"), "is no folder"),
    (("check", "rules/empty"), "no rule files"),
    (("check", "./rules/exits"), "SystemExit: 7"),
    (("check", "./rules/syntax"), "SyntaxError"),
    (("check", "./rules/nothing"), "must end in `rule"),
    (("check", f"./{LONG}"), ""),
    (("check", "swiglu", "--limit", "0"), "seconds above 0"),
    (("check", "swiglu", "--limit", "-1"), "seconds above 0"),
    (("check", "swiglu", "--limit", "nan"), "seconds above 0"),
    (("check", "swiglu", "--limit", "inf"), "seconds above 0"),
    (("check", "swiglu", "--limit", "soon"), "seconds above 0"),
    (("check", "swiglu", "rms_norm"), "unrecognized"),
    (("new",), "rule"),
    *(
        (("new", name), "cannot name a rule")
        for name in ("", "Not-A-Name", "_x", "__init__", "x_", "a__b", "1x", "a.b", "a/b", "../x")
    ),
    *((("new", name), "cannot name a rule") for name in ("é", "x y", "-", "x\n", "x.py", "x\x1b")),
    *((("new", name), "a word of Python") for name in ("class", "import", "match", "lambda")),
    *((("new", name), "a name of Python's") for name in ("list", "typing", "random", "print")),
    *((("new", name), "a package") for name in ("ascend_passes", "torch", "npu", "numpy")),
    *((("new", name), "a pass") for name in ("prefetch", "fold_constants", "recognize")),
    (("new", "swiglu"), "a recognition"),
    (("new", "add_rms_norm"), "exists"),
    (("new", "mine", "--kind", "recognize"), "--folder"),
    (("new", "add_rms_norm", "--folder", "mine"), "exists"),
    (("new", "rms_norm", "--folder", "mine"), "a recognition"),
    (("new", "x" * 300, "--folder", "mine"), "up to 80 letters"),
    (("new", "mine", "--folder", ""), "the name is empty"),
    (("new", "mine", "--folder", LONG), "names no file or folder"),
    (("new", "mine", "--folder", "a:b"), "rule_path"),
    (("new", "mine", "--folder", "a_file"), "exists"),
    (("new", "mine", "--folder", "a_file/x"), "cannot be written"),
    (("new", "mine", "--folder", "/proc/x"), "cannot be written"),
    (("new", "mine", "--folder", "/sys"), "cannot be written"),
    (("new", "mine", "--folder", "/dev/null"), "exists"),
    (("new", "mine", "--folder", "loop"), ""),
    (("new", "mine", "--folder", "dangling"), ""),
    (("new", "mine", "--folder", "rules/sound"), "exists"),
    (("new", "mine", "--kind", "both"), "valid: recognize, fuse"),
    (("new", "mine", "--kind", "fus"), "Did you mean 'fuse'"),
    (("demo", "--model", "qwen3"), "valid: qwen3-float32"),
    (("demo", "--model", "qwen3-float16"), "Did you mean"),
    (("demo", "--model"), "expected one argument"),
    (("demo", "extra"), "unrecognized"),
    (("doctor", "extra"), "unrecognized"),
    (("doctor", "--npu"), ""),
    (("doctor", "--no-npu", "3"), "unrecognized"),
    (("doctor", "--json=1"), "explicit argument"),
    (("tune", "--profile", "atlas-800-a2"), "--plot"),
    (("tune", "--profile", "nope", "--plot", "x.png"), "neither one of"),
    (("tune", "--profile", "/dev/zero", "--plot", "x.png"), "is no file"),
    (("tune", "--profile", "atlas-800-a2", "--plot", "x.pdf"), ".png"),
    (("tune", "--profile", "atlas-800-a2", "--plot", "/absent/x.png"), "cannot be written"),
    (("tune", "--profile", "atlas-800-a2", "--plot", ""), "the name is empty"),
    (("tune", "--plot", "/proc/x.png", "--out", "x.json"), "cannot be written"),
    (("tune", "--out", "/nonexistent/x"), "cannot be written"),
    (("tune", "--out", "/proc/x"), "cannot be written"),
    (("tune", "--out", "/dev/full"), "is no file"),
    (("tune", "--out", "/"), "is no file"),
    (("tune", "--out", ""), "the name is empty"),
    (("tune", "--out", "loop"), "cannot be written"),
    (("tune", "--out", LONG), "names no file or folder"),
    (("tune", "--device", "tpu"), "none of cpu"),
    (("tune", "--device", ""), "none of cpu"),
    (("tune", "--device", "npu"), "there is no npu device"),
    (("tune", "extra"), "unrecognized"),
    (("tune", "--against", "nope"), "neither one of"),
    (("tune", "--against", "atlas-800-a4"), "Did you mean 'atlas-800-a3'"),
    (("tune", "--against", ""), "neither one of"),
)
COUNTS = (
    ("run", "models/nothing", "--batch"),
    ("run", "models/nothing", "--prompt-length"),
    ("run", "models/nothing", "--tokens"),
    ("explain", "models/nothing", "--batch"),
    ("bench", "compile", "--layers"),
    ("bench", "compile", "--repeats"),
    ("bench", "comm", "--ranks"),
    ("bench", "peers", "--layers"),
    ("bench", "peers", "--heads"),
    ("bench", "peers", "--rounds"),
    ("tune", "--ranks"),
    ("tune", "--model-ranks"),
)
DEVICES = ("", "tpu", "npu", "npu:0", "meta", "cpu:99", "cpu:", "CPU", "cud", "cuda:-1", "cuda:x")


def every_call() -> Iterator[Call]:
    """All of them."""
    yield from (Call(words, says=says) for words, says in WORDS)
    for text, says in OPTIONS:
        for words in (("list",), ("show", "swiglu"), ("check", "swiglu"), NO_MODEL, ("demo",)):
            yield Call((*words, "--option", text), says=says)
    for name, value in VARIABLES:
        yield Call(("list",), {name: value})
        yield Call(("explain", "models/nothing"), {name: value})
    for words in COUNTS:
        yield from (Call((*words, number)) for number in NUMBERS)
    for command in ("run", "explain"):
        for device in (*DEVICES, *(() if torch.cuda.is_available() else ("cuda", "cuda:0"))):
            yield Call((command, "models/nothing", "--device", device), says="--device")
        for seed in ("-1", "1" + "0" * 30, "x", "", "1.0"):
            yield Call((command, "models/nothing", "--seed", seed), says="--seed")
    yield from (Call(("demo", "--seed", seed), says="--seed") for seed in ("-1", "1" + "0" * 30))
    for ranks in ("3", "5", "128"):
        yield Call(("bench", "comm", "--ranks", ranks), says="none of 2, 4, 8")
    for name in ("nope", "/dev/zero", *(f"profiles/{name}.json" for name in folders.PROFILES)):
        yield Call(("bench", "comm", "--profile", name), says="profile")
    yield from model_calls()
    yield from slow_calls()


def model_calls() -> Iterator[Call]:
    """Folders that hold no model; what a library says of some is not for a line of ours."""
    for name in ("/absent", "dangling", "loop", "models/nothing", "models/config_folder"):
        yield from (Call((command, name)) for command in ("run", "explain"))
    for name in (*folders.CONFIGS, *folders.TEXTS, *folders.WEIGHTS):
        for command in ("run", "explain"):
            yield Call((command, f"models/{name}"), statuses=(WRONG_USE, UNEXPECTED), quick=False)


def slow_calls() -> Iterator[Call]:
    """Rules that do not end, and rules that are wrong."""
    for name in ("loops", "sleeps", "catches"):
        path = f"rule_path=rules/{name}"
        yield Call(("list", "--option", path), says="did not end", quick=False)
        yield Call(("run", "models/nothing", "--option", path), says="did not end", quick=False)
        yield Call(("check", f"./rules/{name}"), says="did not end", quick=False)
    looping = ("check", "./rules/pattern_loops", "--limit", "2")
    yield Call(looping, says="did not end", quick=False)
    yield Call((*looping, "--bench"), says="did not end", quick=False)
    shown = ("show", "mine", "--option", "rule_path=rules/pattern_loops")
    yield Call(shown, says="did not end", quick=False)
    yield Call(("check", "./rules/pattern_exits"), says="SystemExit", quick=False)
    for name in ("pattern_raises", "replacement_raises", "where_raises"):
        yield Call(("check", f"./rules/{name}"), statuses=(NEGATIVE,), quick=False)


def status_of(call: Call) -> int | str:
    """The exit status of a call in this process, in its folder and environment; or `traceback`."""
    before = dict(os.environ)
    os.environ.update(call.environment)
    try:
        return main(call.words)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
        return "traceback"
    finally:
        os.environ.clear()
        os.environ.update(before)


def shorten_limits() -> None:
    """Let rule files end sooner than a user's."""
    for name in ("arguments", "check", "show"):
        module = importlib.import_module(f"ascend_passes.cli.{name}")
        module.LOAD_SECONDS = LOAD_SECONDS  # type: ignore[attr-defined]


def fault(call: Call, status: int | str, out: str, err: str) -> str:
    """What is wrong with the answer to a call; nothing where it is right."""
    if "Traceback" in err or status == "traceback":
        return "traceback"
    if status not in call.statuses:
        return f"status {status}"
    if NEGATIVE in call.statuses:
        return "" if "raised" in out else "no reason"
    lines = err.splitlines()
    said = [line for line in lines if line.startswith("error: ")]
    if len(said) != 1 or said[0] != lines[-1] or len(said[0]) > 1700 or not said[0].isprintable():
        return "not one line at the end"
    return "" if call.says in said[0] else f"does not say {call.says!r}"


def in_a_process(call: Call, root: Path) -> tuple[int | str, str, str]:
    """Status, stdout and stderr of a call in a process of its own; `no end` after `PATIENCE`."""
    texts = [root / "out.txt", root / "err.txt"]
    process = os.fork()
    if process == 0:
        for number, path in enumerate(texts, start=1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        torch.set_num_threads(1)
        status = status_of(call)
        sys.stdout.flush()
        os._exit(status if isinstance(status, int) else 99)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        ended, code = os.waitpid(process, os.WNOHANG)
        if ended:
            status = os.waitstatus_to_exitcode(code)
            out, err = (path.read_text(errors="replace") for path in texts)
            return ("traceback" if status == 99 else status), out, err
        time.sleep(0.02)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return "no end", "", ""


def run_all(only: str) -> int:
    """Make every call, print what is wrong and a table; 1 where something is."""
    for name in LOADED:
        importlib.import_module(f"ascend_passes.{name}")
    shorten_limits()
    rows: dict[str, Counter[str]] = defaultdict(Counter)
    with tempfile.TemporaryDirectory(prefix="bad-calls-") as name:
        root = Path(name)
        folders.make(root)
        os.chdir(root)
        for call in every_call():
            if only and call.command != only:
                continue
            status, out, err = in_a_process(call, root)
            wrong = fault(call, status, out, err)
            rows[call.command].update(["calls", f"status {status}", *(["faults"] if wrong else [])])
            if wrong:
                print(f"{wrong}: {call}\n    {err.strip()[-300:]}", flush=True)
        if (root / "RAN").exists():
            print("code of the current folder was run")
            rows["none"]["faults"] += 1
        os.chdir("/")
    print_table(rows)
    return 1 if any(row["faults"] for row in rows.values()) else 0


def print_table(rows: Mapping[str, Counter[str]]) -> None:
    """Calls, statuses and faults of each command."""
    total = sum(rows.values(), Counter())
    columns = ["calls", *sorted(key for key in total if key.startswith("status")), "faults"]
    print("command  " + "  ".join(columns))
    for command, row in (*sorted(rows.items()), ("all", total)):
        cells = (f"{row[column]:>{len(column)}}" for column in columns)
        print(f"{command:<9}" + "  ".join(cells))


if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--only", default="", help="calls of this command alone")
    sys.exit(run_all(words.parse_args().only))
