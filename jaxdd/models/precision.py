"""Networks in lower precision: their parameters and what they are given stay as they are."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxdd.settings import check_value
from jaxdd.types import Array, Model, Params, PyTree

Precision = Literal["auto", "float32", "tf32", "bfloat16"]

_PRODUCTS = {"float32": "float32", "tf32": "tensorfloat32"}


def in_precision(model: Model, precision: Precision) -> Model:
    """Make a network compute in a precision.

    Args:
        model: the network.
        precision: `auto` leaves products to the device: float32 on CPUs, TF32 on recent NVIDIA GPUs, bfloat16 on TPUs.
            `float32` and `tf32` ask XLA for matrix products and convolutions at least as exact; a CPU computes both in
            float32. `bfloat16` rounds parameters and inputs on their way in, computes in it, normalization included,
            and hands back the type that they had: parameters, their updates and the distilled set stay in float32.

    Returns:
        The network; its derivatives of any order are taken in the same precision. [our choice]

    Raises:
        SettingError: if it is another word.
    """
    check_value("precision", precision, Precision)
    if precision == "auto":
        return model
    within = _rounded if precision == "bfloat16" else _with_products(_PRODUCTS[precision])
    others: dict[str, Any] = {
        name: within(f) for name, f in model._asdict().items() if f is not None and name != "init"
    }
    return model._replace(**others)


def _with_products(name: str) -> Callable[[Callable[[Params, PyTree], Any]], Callable[[Params, PyTree], Any]]:
    def within(function: Callable[[Params, PyTree], Any]) -> Callable[[Params, PyTree], Any]:
        def called(params: Params, inputs: PyTree) -> Any:
            with jax.default_matmul_precision(name):
                return function(params, inputs)

        return called

    return within


def _rounded(function: Callable[[Params, PyTree], Any]) -> Callable[[Params, PyTree], Any]:
    def called(params: Params, inputs: PyTree) -> Any:
        given = jnp.result_type(*filter(_is_real, jax.tree.leaves((params, inputs))))
        outputs = function(_cast(params, jnp.bfloat16), _cast(inputs, jnp.bfloat16))
        return _cast(outputs, given)

    return called


def _cast(tree: PyTree, dtype: jax.typing.DTypeLike) -> PyTree:
    return jax.tree.map(lambda x: x.astype(dtype) if _is_real(x) else x, tree)


def _is_real(x: Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)
