"""Data: from a name, a folder or arrays to uint8 splits on the host, and from there to normalized batches."""

from jaxdd.core import sampling
from jaxdd.core.normalization import ZCA, Standardize
from jaxdd.core.sampling import RealSet
from jaxdd.data.dataset import Data, DataConfig, Dataset, check_data, from_arrays, load
from jaxdd.data.splits import Split

__all__ = [
    "ZCA",
    "Data",
    "DataConfig",
    "Dataset",
    "RealSet",
    "Split",
    "Standardize",
    "check_data",
    "from_arrays",
    "load",
    "sampling",
]
