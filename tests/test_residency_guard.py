"""The residency guard: what it catches, what it lets pass, and that it leaves nothing behind."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import CodeType
from typing import Any, get_args

import numpy as np
import pytest
import torch
from sam2.modeling.sam2_utils import sample_box_points
from torch import Tensor

from pipeline import audit_rules
from pipeline.audit import Kind, Violation, allowed_exit, residency_guard
from pipeline.audit_calls import audited_calls
from stages.errors import ConfigError, ResidencyError
from stages.exits import named_exit
from tests import residency_cases
from tests.residency_cases import ALLOWED, ARRAY, CLASSES, MASK, NEEDS_A_GPU, OFFENCES, ONE, X
from tests.residency_models import tiny_tracker, tiny_yolo
from tests.tiny_sam2 import SIZE

MODES = [torch.enable_grad, torch.no_grad, torch.inference_mode]
Mode = Callable[[], AbstractContextManager[None]]


def lines_of(code: CodeType) -> set[int]:
    """The lines of a function and of the ones inside it."""
    own = {line for _, _, line in code.co_lines() if line is not None}
    return own.union(*(lines_of(c) for c in code.co_consts if isinstance(c, CodeType)))


def places(*steps: Callable[..., object]) -> set[str]:
    """Every `file:line` of the steps' own code."""
    codes = [step.__code__ for step in steps]
    return {f"tests/{Path(c.co_filename).name}:{line}" for c in codes for line in lines_of(c)}


@pytest.fixture(autouse=True)
def _nothing_stays_patched() -> Iterator[None]:
    yield
    assert Tensor.item is torch._C.TensorBase.item, "a guard stayed open"


# --- what is caught ------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", [*OFFENCES, *NEEDS_A_GPU])
def test_an_offence_raises_and_names_its_operation_and_line(name: str) -> None:
    step, kind, ops = {**OFFENCES, **NEEDS_A_GPU}[name]
    for mode in MODES:
        with mode(), pytest.raises(ResidencyError) as caught, residency_guard() as report:
            step()
        message = str(caught.value)
        [violation] = report.violations
        assert message == str(violation)
        assert (violation.kind, violation.op in ops) == (kind, True), message
        own = violation.where.rpartition(", called from ")[2]
        assert own in places(step, residency_cases.put, residency_cases.branch)
        assert "\n" not in message


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", OFFENCES)
def test_counting_goes_on_and_reports_the_same(name: str) -> None:
    step, kind, ops = OFFENCES[name]
    for mode in MODES:
        with mode(), residency_guard("count") as report:
            step()
        first, *_ = report.violations
        assert (first.kind, first.op in ops) == (kind, True), first
        counts = [report.count(each) for each in get_args(Kind)]
        assert sum(counts) == len(report.violations)


def test_a_violation_is_told_once_not_for_each_part_of_it() -> None:
    with residency_guard("count") as report:
        str(X)  # reads many values inside
        assert 5 not in X
        _ = X[0, 0].item()
    assert [v.op for v in report.violations] == [
        "Tensor.__repr__",
        "Tensor.__contains__",
        "Tensor.item",
    ]


def test_an_offence_is_stopped_before_it_happens() -> None:
    with pytest.raises(ResidencyError), residency_guard():
        X.cuda()  # without the guard: an error of its own where there is no GPU


@pytest.mark.parametrize("name", ALLOWED)
def test_what_stays_on_the_device_passes(name: str) -> None:
    for mode in MODES:
        with mode(), residency_guard() as report:
            ALLOWED[name]()
        assert report.violations == []


def test_a_one_hot_imported_by_name_is_judged_by_its_number_of_classes() -> None:
    imported = torch._C._nn.one_hot  # what `from torch.nn.functional import one_hot` gives
    with torch.inference_mode(), residency_guard("count") as report:
        imported(CLASSES, 3)
        assert report.violations == []
        imported(CLASSES)
    assert [v.op for v in report.violations] == ["aten.one_hot"]


def test_every_rule_has_a_case_that_breaks_it() -> None:
    broken = {op for _, _, ops in (*OFFENCES.values(), *NEEDS_A_GPU.values()) for op in ops}
    unbroken = {call.op for call in audited_calls()} - broken
    assert not unbroken


@pytest.mark.parametrize("name", sorted([*audit_rules._OWN_RULES, *audit_rules._READS]))
def test_every_ruled_operator_exists(name: str) -> None:
    namespace, _, rest = name.partition("::")
    packet, _, overload = rest.partition(".")
    found = getattr(getattr(torch.ops, namespace), packet)
    assert not overload or overload in found.overloads()


# --- where it was --------------------------------------------------------------------------


def test_a_line_of_a_library_comes_with_the_line_that_called_it() -> None:
    masks = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    with residency_guard("count") as report:
        sample_box_points(masks)  # this line
    line = lines_with("sample_box_points(masks)  # this line")
    made = [v for v in report.violations if v.op == "torch.tensor"]
    assert made
    for violation in made:
        library, _, project = violation.where.partition(", called from ")
        assert library.startswith("sam2/modeling/sam2_utils.py:")
        assert project == f"tests/{Path(__file__).name}:{line}"


def lines_with(text: str) -> int:
    source = Path(__file__).read_text().splitlines()
    return 1 + next(number for number, line in enumerate(source) if text in line)


def test_a_violation_is_frozen() -> None:
    violation = Violation("Tensor.item", "d2h", "a.py:1")
    with pytest.raises(AttributeError):
        violation.op = "other"  # type: ignore[misc]
    assert str(violation) == "Tensor.item copies to the host, at a.py:1"


# --- threads -------------------------------------------------------------------------------


def read(value: Tensor = ONE) -> object:
    return value.item()


def swallow() -> None:
    try:
        read()
    except ResidencyError:
        return


def in_thread(step: Callable[[], object]) -> None:
    thread = threading.Thread(target=step)
    thread.start()
    thread.join()


@pytest.mark.parametrize("step", [read, swallow, lambda: X[MASK], lambda: torch.tensor([1])])
@pytest.mark.parametrize("mode", MODES)
def test_a_helper_thread_is_watched(step: Callable[[], object], mode: Mode) -> None:
    with pytest.raises(ResidencyError, match=Path(__file__).name), mode(), residency_guard():
        in_thread(step)


class Helper(threading.Thread):
    """A thread with a `run` of its own."""

    def run(self) -> None:
        X.tolist()


def test_a_thread_class_and_a_thread_of_a_thread_are_watched() -> None:
    with residency_guard("count") as report:
        helper = Helper()
        helper.start()
        helper.join()
        in_thread(lambda: in_thread(read))
    assert [v.op for v in report.violations] == ["Tensor.tolist", "Tensor.item"]


def test_a_pool_call_is_watched_and_its_error_reaches_the_caller() -> None:
    def ask(pool: ThreadPoolExecutor) -> None:
        future: Future[object] = pool.submit(read)
        with pytest.raises(ResidencyError, match=r"Tensor\.item"):
            future.result()

    with ThreadPoolExecutor(1) as pool, pytest.raises(ResidencyError), residency_guard():
        ask(pool)


def test_a_pool_call_keeps_its_arguments_and_result() -> None:
    with ThreadPoolExecutor(1) as pool, residency_guard():
        assert pool.submit(pow, 2, 5, mod=7).result() == 4
        assert list(pool.map(abs, [-1, 2])) == [1, 2]


def test_a_pool_serves_others_unwatched() -> None:
    with ThreadPoolExecutor(1) as pool:
        with residency_guard("count") as report:
            pool.submit(read, CLASSES[0]).result()  # starts the worker
            other: list[object] = []
            outside = submit_from_outside(pool, other)
            outside()
        assert pool.submit(read).result() == 1
    assert other == [1]
    assert len(report.violations) == 1


def submit_from_outside(pool: ThreadPoolExecutor, results: list[object]) -> Callable[[], None]:
    """A thread that no guard watches hands the pool a read."""

    def submit() -> None:
        results.append(pool.submit(read).result())

    def start() -> None:
        with named_exit("outside"):  # a thread started in an exit is not watched
            in_thread(submit)

    return start


def test_a_thread_that_ran_before_is_not_disturbed() -> None:
    go, done = threading.Event(), threading.Event()
    seen: list[object] = []

    def egress() -> None:
        go.wait(10)
        seen.extend([X.tolist(), ONE.item(), np.asarray(X).sum(), bool(ONE), X[MASK].cpu()])
        done.set()

    thread = threading.Thread(target=egress)
    thread.start()
    with residency_guard() as report:
        go.set()
        assert done.wait(10)
    thread.join()
    assert len(seen) == 5
    assert report.violations == []


def test_a_helper_that_outlives_the_guard_is_free_again() -> None:
    go = threading.Event()
    seen: list[object] = []
    thread = threading.Thread(target=lambda: (go.wait(10), seen.append(read())))
    with residency_guard() as report:
        thread.start()
    go.set()
    thread.join()
    assert seen == [1]
    assert report.violations == []


def test_guards_of_two_threads_do_not_end_each_other() -> None:
    opened, close = threading.Event(), threading.Event()
    reports: list[int] = []

    def other() -> None:
        with residency_guard("count") as report:
            opened.set()
            close.wait(10)
            read()
        reports.append(len(report.violations))

    thread = threading.Thread(target=other)
    thread.start()
    assert opened.wait(10)
    with residency_guard("count") as mine:
        read()
    close.set()
    thread.join()
    assert len(mine.violations) == 1
    assert reports == [1]


# --- the end of a guard --------------------------------------------------------------------


def test_a_swallowed_violation_raises_at_the_end() -> None:
    with pytest.raises(ResidencyError, match=r"Tensor\.item"), residency_guard():
        swallow()


def test_an_error_that_hides_a_violation_becomes_its_cause() -> None:
    def stage() -> None:
        try:
            read()
        except ResidencyError as error:
            raise ValueError("stage failed") from error

    with pytest.raises(ResidencyError) as caught, residency_guard():
        stage()
    assert isinstance(caught.value.__cause__, ValueError)


def test_other_errors_pass_through() -> None:
    with pytest.raises(KeyError, match="x"), residency_guard():
        raise KeyError("x")


def snapshot() -> dict[tuple[str, str], object]:
    owners = {call.owner for call in audited_calls()} | {threading.Thread, ThreadPoolExecutor}
    return {
        (owner.__name__, name): value for owner in owners for name, value in vars(owner).items()
    }


@pytest.mark.parametrize("error", [None, KeyError, ResidencyError, KeyboardInterrupt])
def test_nothing_stays_patched(error: type[BaseException] | None) -> None:
    before, inside = snapshot(), {}
    ending = nullcontext() if error is None else pytest.raises(error)
    with ending, residency_guard("count"), residency_guard("count"):
        inside.update(snapshot())
        if error is not None:
            raise error
    after = snapshot()
    assert inside.keys() != before.keys()
    assert after.keys() == before.keys()
    assert all(after[key] is before[key] for key in before)
    assert Tensor.item is torch._C.TensorBase.item
    assert bool(ONE)
    assert range(ONE) == range(1)
    assert np.asarray(X).shape == (3, 4)


# --- nesting and exits ---------------------------------------------------------------------


def test_nested_guards_each_see_it_once() -> None:
    with residency_guard("count") as outer:
        read()
        with residency_guard("count") as inner:
            read()
            X.nonzero()
    assert [v.op for v in inner.violations] == ["Tensor.item", "aten.nonzero"]
    assert [v.op for v in outer.violations] == ["Tensor.item", "Tensor.item", "aten.nonzero"]


@pytest.mark.parametrize("modes", [("raise", "count"), ("count", "raise")])
def test_a_nested_guard_cannot_soften_another(modes: tuple[Any, Any]) -> None:
    with (
        pytest.raises(ResidencyError),
        residency_guard(modes[0]) as outer,
        residency_guard(modes[1]) as inner,
    ):
        read()
    assert len(outer.violations) == len(inner.violations) == 1


def test_a_guard_can_be_used_again_as_a_decorator() -> None:
    guarded = residency_guard()(lambda value: value + 1)
    assert guarded(1) == 2
    assert guarded(2) == 3
    with pytest.raises(ResidencyError):
        residency_guard()(read)()


@pytest.mark.parametrize("mode", MODES)
def test_a_named_exit_is_free_and_counted(mode: Mode) -> None:
    with mode(), residency_guard() as report:
        for _ in range(2):
            with named_exit("header"):
                read()
                X[MASK].cpu()
        with allowed_exit("upload"), named_exit("prompt"):
            torch.from_numpy(ARRAY)
        _ = X + 1
    assert report.violations == []
    assert report.exits == {"header": 2, "upload": 1, "prompt": 1}


def test_after_a_named_exit_the_guard_watches_again() -> None:
    with residency_guard("count") as report:
        with pytest.raises(KeyError), named_exit("header"):
            raise KeyError
        read()
    assert [v.op for v in report.violations] == ["Tensor.item"]


def test_exits_of_helpers_count_and_exits_of_others_do_not() -> None:
    def leave() -> None:
        with named_exit("egress"):
            read()

    with residency_guard() as report:
        in_thread(leave)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(leave).result()
    leave()
    assert report.exits == {"egress": 2}


def test_without_a_guard_an_exit_does_nothing() -> None:
    with named_exit("header") as entered:
        assert read() == 1
    assert entered is None


# --- the libraries on the hot path ---------------------------------------------------------


def test_sam2_in_steady_state_is_resident_and_unchanged(tmp_path: Path) -> None:
    step = tiny_tracker(tmp_path)
    picture, boxes = torch.rand(1, 3, SIZE, SIZE), torch.rand(2, 4) * SIZE
    for mode in MODES:
        with mode():
            free = step(picture, boxes)
            with residency_guard():
                guarded = step(picture, boxes)
            assert torch.equal(free, guarded)


@pytest.mark.parametrize("mode", MODES)
def test_an_end_to_end_yolo_fills_its_caches_once_and_is_resident(mode: Mode) -> None:
    network = tiny_yolo()
    picture = torch.rand(1, 3, 64, 96)
    with mode():
        with residency_guard("count") as cold:
            free = network(picture)[0]
        with residency_guard() as warm:
            guarded = network(picture)[0]
        assert free.shape == (1, 4, 6)
        assert torch.equal(free, guarded)
    assert warm.violations == []
    assert cold.violations
    for violation in cold.violations:
        assert violation.where.startswith("ultralytics/utils/tal.py:")
        assert f", called from tests/{Path(__file__).name}:" in violation.where


@pytest.mark.timeout(240)  # the first use of the compiler imports it: seconds, more under load
@pytest.mark.parametrize("mode", MODES)
def test_a_compiled_function_runs_eagerly_and_is_watched(mode: Mode) -> None:
    torch._dynamo.reset()

    def resident(value: Tensor) -> Tensor:
        return value * 2 + value.sum()

    def offends(value: Tensor) -> Tensor:
        return value[value > 0]

    with mode():
        fine = torch.compile(resident, backend="eager")
        with residency_guard():
            fine(X)
        bad = torch.compile(offends, backend="eager")
        with residency_guard("count") as report:
            bad(X)
            bad(X)
    # And nothing else: the compiler must not compile the audit, whose own reads would be told.
    assert [v.op for v in report.violations] == ["aten.index", "aten.index"]
    assert {v.where for v in report.violations} <= places(offends)


# --- CUDA's own debug mode -----------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_sync_debug_without_a_gpu_is_refused_in_one_line() -> None:
    message = r'cuda_sync_debug: got "error".*expected "default"'
    with pytest.raises(ConfigError, match=message), residency_guard(cuda_sync_debug="error"):
        pytest.fail("the block ran")


@pytest.mark.gpu
def test_sync_debug_catches_a_wait_inside_a_kernel() -> None:
    image = torch.rand(8, 8, device="cuda") + torch.eye(8, device="cuda")
    torch.linalg.cholesky(image @ image.T)
    before = torch.cuda.get_sync_debug_mode()
    with pytest.raises(ResidencyError), residency_guard(cuda_sync_debug="error"):
        torch.linalg.cholesky(image @ image.T)
    assert torch.cuda.get_sync_debug_mode() == before


@pytest.mark.gpu
def test_copies_between_the_devices_are_caught_on_a_gpu() -> None:
    device, host = X.cuda(), X.clone()
    index = torch.tensor([0, 2])
    steps: list[tuple[Callable[[], object], Kind]] = [
        (lambda: device.cpu(), "d2h"),
        (lambda: host.to(device.device), "h2d"),
        (lambda: device.clone().copy_(host), "h2d"),
        (lambda: host.clone().copy_(device), "d2h"),
        (lambda: device[index], "h2d"),
    ]
    for step, kind in steps:
        with residency_guard("count") as report:
            step()
        assert report.count(kind) == 1
