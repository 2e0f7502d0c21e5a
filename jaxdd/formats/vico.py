"""Sets of DC, DSA and DM: `res_DC_CIFAR10_ConvNet_10ipc.pt`, of the code at github.com/VICO-UoE/DatasetCondensation.

A dict `{"data": [[images, labels] of each experiment], "accs_all_exps": …}`, images `[C·ipc, K, H, W]` float32
standardized by the constants of that code, labels `[C·ipc]` int64, in the order of the classes.
"""

from jaxdd.core.distilled import Card, Distilled
from jaxdd.data import Dataset
from jaxdd.errors import SettingError
from jaxdd.formats.base import File, Reader, Reading, array_of, as_images, as_set, classes_of, source_of, standardized


def _matches(file: File) -> bool:
    return isinstance(file.saved, dict) and isinstance(file.saved.get("data"), list)


def read(file: File, asked: Reading, data: Dataset | None) -> tuple[Distilled, Card]:
    """Read one experiment; `read.experiment` says which."""
    if not _matches(file):
        raise SettingError("it is no dict with a list of experiments under 'data'")
    experiments = file.saved["data"]
    if asked.experiment >= len(experiments):
        raise SettingError(f"read.experiment is {asked.experiment}, and it holds {len(experiments)}, numbered from 0")
    pair = experiments[asked.experiment]
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise SettingError(f"its experiment {asked.experiment} is no pair of images and labels")
    images, labels = as_images(pair[0]), array_of(pair[1], "labels")
    source = source_of(file.path, asked, data, classes_of(labels))
    provenance = {"format": "dc", "file": file.path.name, "experiment": asked.experiment}
    normalization = standardized(source, asked, "vico")
    return as_set(images, labels, source, normalization, lr=asked.lr, provenance=provenance)


READERS = {"dc": Reader("DC, DSA and DM: res_METHOD_DATASET_MODEL_Nipc.pt", _matches, read)}
