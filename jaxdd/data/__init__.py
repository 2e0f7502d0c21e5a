"""Data: from a name, a folder or arrays to uint8 splits on the host, and from there to normalised batches."""

from jaxdd.data import sampling
from jaxdd.data.dataset import DataConfig, Dataset, from_arrays, load
from jaxdd.data.normalisation import ZCA, Standardise
from jaxdd.data.sampling import RealSet
from jaxdd.data.splits import Split

__all__ = [
    "DataConfig",
    "Dataset",
    "RealSet",
    "Split",
    "Standardise",
    "ZCA",
    "from_arrays",
    "load",
    "sampling",
]
