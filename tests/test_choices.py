import copy
import pickle

import pytest

from jaxdd.core.training import Recipe
from jaxdd.core.unroll import Unroll
from jaxdd.experts import ExpertsConfig
from jaxdd.experts.trajectories import Window
from jaxdd.influence import InfluenceConfig
from jaxdd.methods import Optimizer, Weighting, coresets, datm, dc, ddpp, dm, iadd, infmatch, mtt, ncfm, rat_bptt


@pytest.mark.parametrize(
    "build, field",
    [
        (Optimizer, "name"),
        (Unroll, "mode"),
        (Window, "kind"),
        (Recipe, "schedule"),
        (ExpertsConfig, "storage"),
        (infmatch.Config, "init"),
        (infmatch.Config, "labels"),
        (infmatch.Config, "estimator"),
        (infmatch.Config, "hvp"),
        (infmatch.Config, "gradient"),
        (dc.Config, "distance"),
        (Weighting, "score"),
        (Weighting, "selection"),
        (InfluenceConfig, "estimator"),
    ],
)
def test_a_name_that_is_no_choice_is_refused(build, field):
    with pytest.raises(ValueError, match=f"{field} is 'adamw'; choose one of "):
        build(**{field: "adamw"})


@pytest.mark.parametrize("method", [coresets, datm, dc, ddpp, dm, iadd, infmatch, mtt, ncfm, rat_bptt])
def test_settings_survive_pickling_and_copying(method):
    configs = [method.Config(ipc=3)]
    if "weighting" in method.Config.__dataclass_fields__:
        configs.append(method.Config(ipc=3, weighting=Weighting(temperature=3.0)))
    for config in configs:
        for again in (pickle.loads(pickle.dumps(config)), copy.deepcopy(config)):
            assert again == config and type(again) is method.Config and again.name == method.Config.name
