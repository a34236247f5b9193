# SPDX-License-Identifier: Apache-2.0
import functools
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import typer
from typer.testing import CliRunner

from genaccel.eval.results import to_json
from genaccel.eval.speed import SideFailedError, compare_speed, main
from genaccel.sampling import costs

MIB = 2**20


class Clock:
    """A clock that only moves when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(costs, "time", clock)
    return clock


def _nothing() -> None:
    pass


def test_times_and_ratios_are_exact(clock: Clock) -> None:
    durations = {"slow": iter([9, 9, 4, 8, 12, 16, 20]), "fast": iter([9, 9, 2, 2, 2, 8, 5])}

    def side(name: str) -> Callable[[], None]:
        def run() -> None:
            clock.now += next(durations[name])

        return run

    compared = compare_speed(
        {"slow": side("slow"), "fast": side("fast")}, warm_up=1, count_flops=False, device="cpu"
    )
    slow, fast = compared.sides
    assert slow.seconds == (4, 8, 12, 16, 20)
    assert (slow.lower_quartile_seconds, slow.median_seconds, slow.upper_quartile_seconds) == (
        8,
        12,
        16,
    )
    assert slow.speedup == slow.speedup_lower_quartile == slow.speedup_upper_quartile == 1
    # The ratios of the rounds are 2, 4, 6, 2, 4.
    assert (fast.speedup_lower_quartile, fast.speedup, fast.speedup_upper_quartile) == (2, 4, 4)


def test_a_machine_that_slows_down_does_not_change_the_ratio(clock: Clock) -> None:
    drift = 1.0

    def side(work: float) -> None:
        nonlocal drift
        clock.now += work * drift
        drift *= 1.2

    compared = compare_speed(
        {"two": lambda: side(2), "one": lambda: side(1)}, repeats=20, device="cpu"
    )
    # Each is the later one in half of the rounds.
    assert compared.sides[1].speedup == pytest.approx(2, rel=0.04)
    assert compared.sides[1].speedup_lower_quartile == pytest.approx(2 / 1.2)
    assert compared.sides[1].speedup_upper_quartile == pytest.approx(2 * 1.2)


def test_sides_are_called_in_turn_and_as_often_as_promised() -> None:
    calls: list[str] = []
    sides = {name: functools.partial(calls.append, name) for name in "abc"}
    compare_speed(sides, repeats=4, warm_up=2, device="cpu")
    untimed = 2 + 1 + 1
    assert Counter(calls) == dict.fromkeys("abc", untimed + 4)
    timed = calls[3 * untimed :]
    rounds = ["".join(timed[i : i + 3]) for i in range(0, 12, 3)]
    assert rounds == ["abc", "cba", "bca", "acb"]


def test_flops_are_those_of_the_operations_that_the_counter_knows() -> None:
    layer = torch.nn.Linear(32, 16, bias=False)
    x = torch.rand(8, 32)
    compared = compare_speed(
        {"twice": lambda: (layer(x), layer(x)), "once": lambda: layer(x), "none": lambda: x + 1},
        repeats=1,
    )
    assert [side.flops for side in compared.sides] == [2 * 8192, 8192, None]
    assert [side.flop_ratio for side in compared.sides] == [1, 2, None]
    uncounted = compare_speed({"once": lambda: layer(x)}, repeats=1, count_flops=False)
    assert uncounted.sides[0].flops is None


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak")
@pytest.mark.parametrize("pieces", [1, 64])
def test_peak_memory_on_a_cpu_is_the_rise_of_one_call(pieces: int) -> None:
    held = torch.ones(32 * MIB // 4)  # is there before the call, and does not count

    def allocate(size: int) -> float:
        parts = [torch.ones(size // pieces // 4) for _ in range(pieces)]
        return float(sum(part[0] for part in parts) + held[0])

    compared = compare_speed(
        {"large": lambda: allocate(64 * MIB), "small": lambda: allocate(16 * MIB)},
        warm_up=2,  # leaves memory behind in malloc
        repeats=1,
        device="cpu",
    )
    large, small = (side.peak_bytes for side in compared.sides)
    assert large is not None
    assert small is not None
    assert 62 * MIB < large < 72 * MIB
    assert 14 * MIB < small < 24 * MIB


@pytest.mark.cuda
def test_a_gpu_is_noticed_and_its_memory_counted() -> None:
    compared = compare_speed(
        {"large": lambda: torch.ones(64 * MIB // 4, device="cuda"), "small": _nothing},
        repeats=2,
    )
    assert compared.device == f"cuda:{torch.cuda.current_device()}"
    large, small = (side.peak_bytes for side in compared.sides)
    assert large is not None
    assert small is not None
    assert large - small == 64 * MIB
    assert all(second > 0 for side in compared.sides for second in side.seconds)
    assert compared.to_record()["settings"]["clock"] == "torch.cuda.Event"


def test_quality_is_measured_on_the_outputs() -> None:
    compared = compare_speed(
        {"two": lambda: 2.0, "tensor": lambda: torch.tensor(3.0)},
        repeats=1,
        quality=lambda output: {"square": output**2, "worst": math.inf},
    )
    assert [side.quality["square"] for side in compared.sides] == [4.0, 9.0]
    content = json.loads(to_json(compared.to_record()))
    assert content["sides"][0]["quality"] == {"square": 4.0, "worst": "Infinity"}
    assert content["metrics"]["square"]["title"] == "square"


def test_quality_must_have_the_same_names_everywhere() -> None:
    with pytest.raises(ValueError, match="same names for all sides, got a: 1; b: 2"):
        compare_speed({"a": lambda: 1, "b": lambda: 2}, quality=lambda output: {str(output): 0})


def test_quality_must_be_numbers_by_name() -> None:
    with pytest.raises(
        SideFailedError, match=r"examining 'a' failed: .*numbers by name, got float"
    ):
        compare_speed({"a": _nothing}, quality=lambda output: 3.0)


def test_an_exception_says_whose_it_is_and_where() -> None:
    def broken() -> None:
        torch.zeros(2) @ torch.zeros(3)

    with pytest.raises(
        SideFailedError,
        match=r"warming up 'bad' failed: RuntimeError: .*\(test_speed.py, line \d+\)",
    ) as caught:
        compare_speed({"good": _nothing, "bad": broken})
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_side_that_cannot_be_counted_can_still_be_timed() -> None:
    def uncountable() -> None:
        if torch.utils._python_dispatch._get_current_dispatch_mode() is not None:
            raise NotImplementedError("no modes")

    with pytest.raises(SideFailedError, match=r"no modes .*count_flops=False \(--no-flops\)"):
        compare_speed({"a": uncountable}, repeats=1)
    compare_speed({"a": uncountable}, repeats=1, count_flops=False)


def test_an_interrupt_is_not_the_fault_of_a_side() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare_speed({"a": interrupted})


async def _coroutine() -> None:
    pass


def _generator() -> Generator[int]:
    yield 1


def _needs_arguments(x: int, *, y: int, z: int = 0) -> None:
    pass


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sides": {}}, "at least one function"),
        ({"sides": {"a": 3}}, "side 'a' must be a function, got int"),
        ({"sides": {"a": _coroutine}}, "'a' is a coroutine or a generator"),
        ({"sides": {"a": _generator}}, "'a' is a coroutine or a generator"),
        ({"sides": {"a": _needs_arguments}}, "'a' needs x, y, but"),
        ({"repeats": 0}, "repeats must be at least 1, got 0"),
        ({"warm_up": -1}, "warm_up must be at least 0, got -1"),
        ({"device": "meta"}, "device must be cpu, cuda or cuda:<number>, got 'meta'"),
        ({"device": "gpu"}, "device must be cpu, cuda or cuda:<number>, got 'gpu'"),
        ({"device": "cuda:99"}, "device cuda:99 is not here"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare_speed(**{"sides": {"a": _nothing}, **arguments})


SCRIPT = """
import torch
import neighbour
print("loading")
loaded = []
loaded.append(1)
layer = torch.nn.Linear(16, 16)
x = torch.rand(4, 16)
number = 3
def baseline():
    print("running")
    return layer(layer(x))
def accelerated():
    return layer(x)
def times_loaded():
    return len(loaded)
def value(output):
    return {"mean": output.mean() if isinstance(output, torch.Tensor) else output}
def wants(argument):
    pass
def broken():
    return 1 / 0
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "neighbour.py").write_text("")
    path = tmp_path / "torch.py"  # must not take the place of the real one
    path.write_text(SCRIPT)
    return path


def _run(*arguments: object) -> SimpleNamespace:
    app = typer.Typer()
    app.command()(main)
    path = list(sys.path)
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert sys.path == path
    message = " ".join(result.stderr.replace("│", " ").split())
    return SimpleNamespace(code=result.exit_code, out=result.stdout, error=message)


def test_the_command_prints_one_json_object(script: Path) -> None:
    result = _run(
        f"base={script}:baseline",
        f"{script}:accelerated",
        "--quality",
        f"{script}:value",
        "--repeats",
        "3",
        "--label",
        "run 1",
        "--json",
    )
    assert result.code == 0
    content = json.loads(result.out)
    assert content["genaccel_eval"] == 1
    assert (content["kind"], content["label"]) == ("speed", "run 1")
    assert content["environment"]["torch"] == torch.__version__
    assert content["settings"]["device"] == "cpu"
    assert [side["name"] for side in content["sides"]] == ["base", "accelerated"]
    assert [side["flops"] for side in content["sides"]] == [4096, 2048]
    assert [len(side["seconds"]) for side in content["sides"]] == [3, 3]
    assert content["sides"][0]["quality"].keys() == {"mean"}
    for key in ("median_seconds", "speedup", "flops", "flop_ratio", "peak_bytes"):
        assert key in content["metrics"]
        assert key in content["sides"][0]
    assert "running" in result.error


def test_the_command_prints_a_table(script: Path) -> None:
    result = _run(f"{script}:baseline", f"{script}:accelerated", "--device", "cpu")
    assert result.code == 0
    fast = next(line for line in result.out.splitlines() if line.split()[:1] == ["accelerated"])
    assert "2.00x" in fast
    assert f"torch {torch.__version__}" in result.out
    assert "A FLOP ratio is not a speed-up" in result.out


def test_a_file_is_loaded_once_for_all_its_functions(script: Path) -> None:
    target = f"{script}:times_loaded"
    result = _run(f"a={target}", f"b={target}", "--quality", f"{script}:value", "--json")
    assert [side["quality"] for side in json.loads(result.out)["sides"]] == [{"mean": 1.0}] * 2
    assert result.error.count("loading") == 1


def test_modules_are_found_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_sides_for_a_test.py").write_text("def one():\n    return 1\n")
    monkeypatch.chdir(tmp_path)
    assert _run("my_sides_for_a_test:one", "--no-flops").code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["{}:missing"], 2, "has no 'missing'; it has accelerated, baseline, broken"),
        (["{}:number"], 2, "number must be a function, got int"),
        (["{}:wants"], 2, "side 'wants' needs argument, but sides are called without arguments"),
        (["{}.not/here.py:f"], 2, "here.py is not a file"),
        (["no_such_module:f"], 2, "no_such_module cannot be imported: ModuleNotFoundError"),
        (["{}"], 2, "must look like file.py:function or package.module:function"),
        (["=baseline"], 2, "has no name before its ="),
        (["{0}:baseline", "{0}:baseline"], 2, "two sides are called 'baseline'"),
        (["{}:baseline", "--device", "tpu"], 2, "device must be cpu, cuda"),
        (["{}:baseline", "--repeats", "0"], 2, "Invalid value for '--repeats'"),
        (["{}:broken"], 1, "'broken' failed: ZeroDivisionError: division by zero (torch.py, line"),
    ],
)
def test_errors_of_the_command(script: Path, arguments: list[str], code: int, message: str) -> None:
    result = _run(*(argument.format(script) for argument in arguments))
    assert result.code == code
    assert result.out == ""
    assert message in result.error
    assert "Traceback" not in result.error


@pytest.mark.parametrize("statement", ["import no_such_package", "raise SystemExit(2)", "x ="])
def test_a_file_that_does_not_load(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "sides.py"
    path.write_text(statement)
    before = set(sys.modules)
    result = _run(f"{path}:f")
    assert result.code == 2
    assert "sides.py cannot be imported: " in result.error
    assert not [name for name in set(sys.modules) - before if "sides" in name]
