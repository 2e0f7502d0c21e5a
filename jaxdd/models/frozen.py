"""A network that stays as it is but for a new last layer: linear probes of a backbone."""

from typing import cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd.errors import SettingError
from jaxdd.models.layers import Linear
from jaxdd.types import Array, Model, Params


def frozen(network: Model, params: Params, image_shape: tuple[int, int, int], num_classes: int) -> Model:
    """Freeze a network and put a new linear layer on its features.

    `logits = φ(x; params) W + b`, W and b alone being the parameters of what is returned: experts, distillation,
    influence and evaluation are then about heads on φ. For networks that `jaxdd train` wrote, in a file `networks.py`,
    as `--model networks.py:probe`:

        def probe(image_shape, num_classes):
            network = jaxdd.Network.load("network")
            return jaxdd.models.frozen(network.model, network.params, image_shape, num_classes)

    Args:
        network: the backbone, whose `features` are used.
        params: its parameters, running statistics included where it has them.
        image_shape: `(H, W, K)` of the images that it will see.
        num_classes: number of logits C.

    Returns:
        The network. Its parameters are `{"linear": {"kernel": [F, C], "bias": [C]}}`, first drawn as in PyTorch; its
        `head` computes logits from features.

    Raises:
        SettingError: if the network makes no features `[B, F]` of such images.
    """
    constant = jax.tree.map(np.asarray, params)
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.result_type(float))
    shape = jax.eval_shape(network.features, constant, images).shape
    if len(shape) != 2:
        raise SettingError(f"the network's features of an image are {shape[1:]}, and a vector [F] is needed")

    layer = Linear(num_classes)

    def init(key: Array) -> Params:
        return {"linear": layer.lazy_init(key, jax.ShapeDtypeStruct(shape, jnp.result_type(float)))["params"]}

    def features(params: Params, inputs: Array) -> Array:
        del params
        return network.features(constant, inputs)

    def head(params: Params, features: Array) -> Array:
        return cast(Array, layer.apply({"params": params["linear"]}, features))

    return Model(init, lambda params, inputs: head(params, features(params, inputs)), features, head=head)
