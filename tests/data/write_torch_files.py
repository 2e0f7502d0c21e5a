"""Write the files in this folder that stand for what peers publish: `python write_torch_files.py`, with torch."""

import collections
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent


def main():
    base = torch.arange(24.0).reshape(2, 3, 4)
    everything = {
        "plain": base,
        "transposed": base.transpose(0, 2),
        "sliced": base[:, 1:, ::2],
        "expanded": torch.tensor([[1.0, 2.0, 3.0]]).expand(4, 3),
        "float64": torch.tensor([0.1, -2.0], dtype=torch.float64),
        "float16": torch.tensor([0.5, -2.0], dtype=torch.float16),
        "bfloat16": torch.tensor([0.5, -2.0, 1.0], dtype=torch.bfloat16),
        **{str(kind)[6:]: torch.tensor([0, 1, 2], dtype=kind) for kind in (torch.int64, torch.int32, torch.int16)},
        "int8": torch.tensor([-1, 1], dtype=torch.int8),
        "uint8": torch.tensor([0, 255], dtype=torch.uint8),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(0.25),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "numpy": [np.float64(1.5), np.arange(6.0).reshape(2, 3), np.array([[1, 2], [3, 4]], np.int32).T],
        "python": [1, 2.5, -3, 2**70, "text", None, True, (1, (2, 3)), collections.OrderedDict(a=1), base.shape],
    }
    torch.save(everything, HERE / "torch_zip.pt")
    torch.save(everything, HERE / "torch_legacy.pt", _use_new_zipfile_serialization=False)
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(4, 3, 4, 4, generator=generator) for _ in range(2)]
    labels = torch.tensor([0, 0, 1, 1])
    accuracies = {"ConvNet": [np.float64(0.5), np.float64(0.25)]}
    data = [[image, labels] for image in images]
    torch.save({"data": data, "accs_all_exps": accuracies}, HERE / "res_DC_CIFAR10_ConvNet_2ipc.pt")


if __name__ == "__main__":
    main()
