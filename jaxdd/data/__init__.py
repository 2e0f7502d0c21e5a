"""Data: from a name, a folder or arrays to uint8 splits on the host, and from there to normalized batches."""

from jaxdd.data import sampling
from jaxdd.data.dataset import Data, DataConfig, Dataset, from_arrays, load
from jaxdd.data.normalization import ZCA, Standardize
from jaxdd.data.sampling import RealSet
from jaxdd.data.splits import Split

__all__ = [
    "Data",
    "DataConfig",
    "Dataset",
    "RealSet",
    "Split",
    "Standardize",
    "ZCA",
    "from_arrays",
    "load",
    "sampling",
]
