"""The audit below Python: every operator that a watched thread calls."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch._C import DispatchKey
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.audit_rules import full_name, judge, runs_whole
from pipeline.audit_state import Session, joined, quiet, violate, watching

_COMPOSITE = DispatchKey.CompositeImplicitAutograd


@contextmanager
def watched(sessions: tuple[Session, ...]) -> Iterator[None]:
    """Put what this thread does in the block under `sessions`."""
    with joined(sessions) as new:
        if not new:
            yield
            return
        mode = _CompilerAuditMode if "torch._dynamo" in sys.modules else _AuditMode
        with mode():  # type: ignore[no-untyped-call]
            yield


class _AuditMode(TorchDispatchMode):
    """Judges each operator before it runs. Modes are per thread."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """If True, torch imports its compiler at the first operator: seconds, for nothing."""
        return False

    def __torch_dispatch__(
        self,
        func: OpOverload[Any, Any],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        if not watching():
            return func(*args, **kwargs)
        kind = judge(func, args, kwargs)
        if kind is not None:
            violate(str(func._overloadpacket), kind)
            with quiet():
                return func(*args, **kwargs)
        if _is_composite(func):
            # Under inference_mode the parts of a composite never reach a mode by themselves. The
            # C++ kernel is asked for by its key: `decompose` prefers Python decompositions, which
            # round differently.
            with self:
                return func._op_dk(_COMPOSITE, *args, **kwargs)
        return func(*args, **kwargs)


class _CompilerAuditMode(_AuditMode):
    """The same once torch's compiler is loaded, which else would compile the audit itself.

    Compiled functions run eagerly under it, as under every mode.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return True

    __torch_dispatch__ = _AuditMode.__torch_dispatch__


@cache
def _is_composite(func: OpOverload[Any, Any]) -> bool:
    if func.namespace == "prim" or runs_whole(func):  # prim: attributes of a fake tensor
        return False
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(full_name(func), _COMPOSITE))
