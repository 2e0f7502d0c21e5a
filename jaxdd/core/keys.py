"""Where randomness comes from: one seed, and a root key for every stage of a run."""

import zlib

import jax

from jaxdd.types import Array


def stage_key(seed: int, stage: str) -> Array:
    """Return the root key of a stage: the seed's key folded with the checksum of the stage's name.

    Stages do not share randomness, and a stage draws the same whether or not the ones before it were resumed.
    """
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(stage.encode()))
