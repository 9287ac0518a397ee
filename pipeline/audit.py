"""The residency audit: proof that a step neither copies to the host nor waits for the device.

    with residency_guard():
        packet = chain(frame)          # raises ResidencyError on the first offence

It needs no GPU: on the CPU every tensor stands for one on the device, and what would copy or wait
there is caught here. A warm-up run belongs before the guard, since caches (anchors, position
encodings) are filled from the host once per shape.

What it cannot see: on the CPU, a `copy_` between a host and a device tensor and a factory call
that forgot its device (`pipeline.fake_cuda` does, also without a GPU); waits inside CUDA kernels
other than those that `audit_rules` names (`cuda_sync_debug` does); `torch.Event.synchronize`, a
method of an immutable type (`torch.cuda.Event` is watched); data shared through `data_ptr`; and
threads that ran before and take work from a queue: those open a guard of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from pipeline.audit_dispatch import watched
from pipeline.audit_patches import patched
from pipeline.audit_state import Kind, ResidencyReport, Session, Violation
from pipeline.audit_where import raised_at
from stages.errors import ConfigError, ResidencyError
from stages.exits import named_exit as allowed_exit

__all__ = ["Kind", "ResidencyReport", "Violation", "allowed_exit", "residency_guard"]

SyncDebug = Literal["default", "warn", "error"]

_SYNC_MESSAGE = "called a synchronizing CUDA operation"


@contextmanager
def residency_guard(
    on_violation: Literal["raise", "count"] = "raise",
    *,
    cuda_sync_debug: SyncDebug = "default",
) -> Iterator[ResidencyReport]:
    """Watch this thread, and the threads and pool calls that it starts, until the block ends.

    `raise`: the first violation raises `ResidencyError` before it happens, naming the operation
    and the line; one that a helper thread or an `except` swallowed raises at the end of the
    block. `count`: the report collects them and the step goes on. Copies inside `allowed_exit`
    (`stages.exits.named_exit`) are free and counted by name. Guards nest, and other threads are
    not disturbed.

    `cuda_sync_debug` other than "default" also sets `torch.cuda.set_sync_debug_mode`, which is
    process-global: nothing else may use the GPU meanwhile. "error" makes a synchronising CUDA
    call a violation. Raises `ConfigError` where there is no GPU.
    """
    session = Session(raises=on_violation == "raise")
    found = session.report.violations
    try:
        with _sync_debug(session, cuda_sync_debug), patched(), watched((session,)):
            yield session.report
    except ResidencyError:
        raise
    except Exception as error:
        session.close()
        if session.raises and found:
            raise ResidencyError(str(found[0])) from error
        raise
    finally:
        session.close()
    if session.raises and found:
        raise ResidencyError(str(found[0]))


@contextmanager
def _sync_debug(session: Session, mode: SyncDebug) -> Iterator[None]:
    if mode == "default":
        yield
        return
    if not torch.cuda.is_available():
        raise ConfigError(f'cuda_sync_debug: got "{mode}" without a GPU, expected "default"')
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    except RuntimeError as error:
        if _SYNC_MESSAGE not in str(error):
            raise
        violation = Violation("a CUDA call", "sync", raised_at(error.__traceback__))
        session.record(violation)
        raise ResidencyError(str(violation)) from error
    finally:
        torch.cuda.set_sync_debug_mode(before)
