import pytest

from jaxdd.core.training import Recipe
from jaxdd.core.unroll import Unroll
from jaxdd.experts import ExpertsConfig
from jaxdd.experts.trajectories import Window
from jaxdd.influence import InfluenceConfig
from jaxdd.methods import Optimizer, Weighting, dc, infmatch


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
