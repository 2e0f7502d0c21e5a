import os
from importlib.metadata import version

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of the tests' time is compilation of programs that run once. Compile them quickly: LLVM does not optimize, and
# XLA emits fusions in one piece, by its older, faster way where it still has that.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    + " --xla_cpu_parallel_codegen_split_count=1"
    + (" --xla_cpu_use_fusion_emitters=false" if version("jaxlib").startswith("0.10.") else "")
)

import jax
import jax.numpy as jnp
import numpy as np
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_legacy_prng_key", "error")

# Programs compiled before, by another worker, in another session or another clone, are read back.
cache = os.environ.get("JAXDD_TEST_CACHE") or os.path.expanduser("~/.cache/jaxdd/tests")
jax.config.update("jax_compilation_cache_dir", os.path.abspath(cache))  # some tests change the folder
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

from jaxdd import classification, data, models  # noqa: E402
from jaxdd.models import MLP, ConvNet  # noqa: E402
from jaxdd.types import Examples  # noqa: E402

SLOW = {
    "test_compiled_once": [
        "test_another_seed_compiles_nothing[mtt]",
        "test_another_seed_compiles_nothing[infmatch, released]",
    ],
    "test_formation": [
        "test_a_method_on_stored_images_is_that_on_what_they_make[dc]",
        "test_a_method_on_stored_images_is_that_on_what_they_make[ncfm]",
    ],
    "test_cafe": [
        "test_a_network_that_has_settled_is_replaced[0.5-True]",
        "test_networks_are_trained_until_they_move[2.0]",
        "test_objective_is_that_of_explicit_loops",
    ],
    "test_retrieval": [
        "test_each_encoder_learns_at_its_own_rate_and_is_trained_at_it",
        "test_covariances_are_matched_as_printed",
        "test_projections_are_those_of_ridge_regression_and_are_matched",
    ],
    "test_stages": [
        "test_items_of_earlier_sets_are_constants",
        "test_networks_begin_where_the_earlier_set_leaves_them",
        "test_a_dry_run_of_stages_counts_them",
    ],
    "test_linear_gradient": ["test_features_are_computed_once_and_are_those_of_the_backbone"],
    "test_main": [
        "test_compiled_programs_are_kept_for_the_next_start[here-True]",
        "test_compiled_programs_are_kept_for_the_next_start[none-False]",
    ],
    "test_hosts": [
        "test_processes_compute_what_one_does[dm]",
        "test_processes_compute_what_one_does[infmatch]",
        "test_processes_compute_what_one_does[dc]",
        "test_four_processes_on_disks_of_their_own",
        "test_all_stop_where_one_is_asked_to_and_another_number_goes_on",
        "test_a_lost_process_ends_the_others_in_time",
        "test_a_process_that_is_not_there_is_an_error_in_time",
    ],
    "test_rat_bptt": [
        "test_an_adaptive_step_uses_the_window_that_its_norms_give",
        "test_gradient_is_that_of_a_loop_by_hand[2-adam]",
        "test_gradient_is_that_of_a_loop_by_hand[4-adam]",
        "test_gradient_is_that_of_a_loop_by_hand[2-sgd]",
        "test_gradient_is_that_of_a_loop_by_hand[4-sgd]",
        "test_the_gradient_does_not_depend_on_how_it_is_stored",
        "test_memory_is_that_of_the_window_however_long_the_training",
        "test_large_gradients_are_cut_to_twice_their_running_mean",
        "test_stages_follow_the_outer_steps",
    ],
    "test_report": [
        "test_a_large_set_makes_a_small_page",
    ],
    "test_initial": [
        "test_noise_of_a_users_own_is_a_start_like_any_other",
        "test_items_of_several_are_stored_as_one",
        "test_it_begins_with_the_given_set",
    ],
    "test_memory": [
        "test_step_is_measured_by_its_compiled_program",
        "test_dry_run_writes_nothing_and_tells_memory_and_time",
    ],
    "test_autodiff": [
        "test_finite_difference_hvp_in_float32_is_good_to_a_thousandth",
        "test_hvp_is_the_dense_hessian_times_the_vector",
        "test_hessian_form_is_the_dense_bilinear_form",
    ],
    "test_notebooks": ["test_notebook_runs"],
    "test_infmatch": [
        "test_two_pass_gradient_is_that_of_autodiff_and_of_finite_differences[second_order]",
        "test_displacements_against_true_retraining",
        "test_two_pass_gradient_is_that_of_autodiff_and_of_finite_differences[published]",
        "test_two_pass_gradient_is_that_of_autodiff_and_of_finite_differences[unroll]",
        "test_two_pass_gradient_is_that_of_autodiff_and_of_finite_differences[first_order]",
        "test_residual_is_the_printed_formula_with_dense_hessians[first_order]",
        "test_residual_is_the_printed_formula_with_dense_hessians[unroll]",
        "test_residual_is_the_printed_formula_with_dense_hessians[published]",
    ],
    "test_sharing": [
        "test_a_step_is_shared[mtt, learned labels, mini-batch]",
        "test_a_step_is_shared[datm]",
        "test_a_step_is_shared[ncfm]",
        "test_a_step_is_shared[ncfm, adversarial]",
        "test_a_step_is_shared[infmatch, released]",
        "test_a_step_is_shared[ddpp]",
        "test_a_step_is_shared[iadd]",
        "test_a_step_is_shared[infmatch, unroll]",
        "test_a_step_is_shared[infmatch, windows]",
        "test_a_step_is_shared[dc, real network]",
        "test_a_step_is_shared[dc]",
        "test_a_step_is_shared[mtt]",
        "test_a_step_is_shared[dc, weighted]",
        "test_a_step_is_shared[dm, weighted by the implicit score]",
        "test_real_batches_are_split_where_items_are_few[infmatch]",
        "test_real_batches_are_split_where_items_are_few[dc]",
        "test_networks_are_evaluated_side_by_side",
        "test_chunks_of_influence_are_shared[bracket]",
        "test_chunks_of_influence_are_shared[second_order]",
        "test_chunks_of_influence_are_shared[endpoint]",
        "test_retraining_without_each_example_is_shared",
    ],
    "test_run": [
        "test_a_checkpoint_beyond_the_last_step_is_refused",
        "test_the_stages_in_a_notebook",
        "test_a_stopped_run_says_how_to_continue_and_does",
        "test_the_highest_accuracy_selects_whatever_the_step[script1-0]",
    ],
    "test_residency": ["test_host_and_device_give_the_same_bytes[iadd]"],
    "test_app_evaluate": ["test_the_recipes_learning_rate_gives_way_to_a_learned_one_only[0.05-0.2]"],
    "test_network": ["test_a_network_comes_back_from_its_folder[batch]"],
    "test_app_influence": [
        "test_experts_that_keep_their_start_are_judged_where_they_were_last_seen",
        "test_a_run_of_iwd_shows_which_labels_it_doubts",
        "test_idc_is_compared_with_as_many_pixels_as_it_stores",
    ],
    "test_config": [
        "test_every_preset_fits_together_at_its_full_size[digits_rat_bptt]",
        *(
            f"test_two_steps_of_every_file[digits_{method}]"
            for method in ("infmatch", "iadd", "dc", "dm", "ncfm", "mtt")
        ),
        *(
            f"test_every_preset_fits_together_at_its_full_size[cifar10_{method}:ipc={ipc}]"
            for method in ("mtt", "iadd", "datm", "dc", "dm", "random", "cafe", "idc")
            for ipc in (1, 50)
        ),
        *(
            f"test_every_preset_fits_together_at_its_full_size[cifar10_{method}]"
            for method in (
                "iadd",
                "datm",
                "dc_iwd",
                "random",
                "dc",
                "dc_iwd:ipc=50",
                "dc_iwd:ipc=1",
                "iadd:ipc=1,network=resnet18",
                "dc_iwd:ipc=1,network=resnet10",
            )
        ),
        *(
            f"test_every_preset_fits_together_at_its_full_size[cifar10_{name}]"
            for name in ("infmatch", "mtt", "dm", "rat_bptt", "cafe", "idc", "ncfm")
        ),
        *(
            f"test_help_documents_every_field[{name}]"
            for name in ("dc", "ddpp", "coresets", "ncfm", "dm", "mtt", "datm", "cafe")
        ),
        *(
            f"test_every_preset_fits_together_at_its_full_size[{data}_{method}]"
            for data, methods in (
                (
                    "fashion_mnist",
                    ("mtt", "iadd", "ddpp", "datm", "dc", "dc_iwd", "infmatch", "rat_bptt", "cafe", "idc"),
                ),
                ("digits", ("mtt", "iadd", "ddpp", "datm", "dc", "dc_iwd", "infmatch")),
            )
            for method in methods
        ),
    ],
    "test_own_task": [
        "test_gradient_of_trajectory_matching_is_that_of_finite_differences",
        "test_it_is_distilled_and_evaluated[infmatch]",
        "test_it_is_distilled_and_evaluated[mtt]",
    ],
    "test_table": ["test_the_coreset_is_the_better_one_on_validation"],
    "test_weighting": [
        "test_scores_are_kept_per_example_and_refreshed",
        "test_infinite_temperature_is_the_base_bit_for_bit[dc]",
        "test_explicit_score_is_the_slope_of_the_objective_and_pairs_with_per_example_gradients",
    ],
    "test_ncfm": [
        "test_objective_is_the_printed_formula[adversarial]",
        "test_a_step_descends_the_objective",
        "test_objective_is_the_printed_formula[augmented]",
        "test_the_sampler_opposes_the_set",
    ],
    "test_iadd": [
        "test_low_rank_weights_are_products_of_factors",
        "test_inspection_shows_the_weights_by_tensor",
        "test_collapse_is_measured_and_told",
    ],
    "test_unroll": [
        f"test_segmented_scan_is_scan[{segment}-{length}]"
        for segment in (None, 1, 4, 7)
        for length in (1, 2, 7, 16, 50)
        if segment not in (None, 4) or length in (2, 16, 50)
    ],
    "test_models": [
        "test_bfloat16_is_computed_between_float32_and_float32[convnet (width 4, depth 2)]",
        "test_gradient_through_unrolled_training_and_its_derivative[changes1]",
        *(f"test_hessian_vector_product_against_differences_of_gradients[changes{case}]" for case in (2, 3, 4)),
        *(f"test_convnet_computes_what_numpy_and_scipy_do[changes{case}]" for case in (1, 2, 4, 6)),
        "test_derivatives_at_constant_images_are_finite[max-patches]",
        "test_logits_are_linear_in_the_features[config2]",
    ],
    "test_influence": [
        "test_divergence_is_an_error_with_advice",
        "test_an_adjoint_that_grows_is_told",
        "test_every_solver_agrees_with_a_dense_solve[lissa]",
        "test_many_targets_are_as_many_single_ones[leave_one_out]",
        "test_the_mean_of_many_targets_is_the_pooled_one_whatever_the_chunks[sgd_influence]",
        "test_lissa_on_batches_comes_near_the_solution",
        "test_hessians_of_some_examples_stand_for_all",
        *(f"test_correlation_with_retraining_of_a_small_network[{damping}]" for damping in (0.002, 0.1, 0.5)),
        *(f"test_many_targets_are_as_many_single_ones[{name}]" for name in ("endpoint", "bracket")),
        *(
            f"test_the_mean_of_many_targets_is_the_pooled_one_whatever_the_chunks[{name}]"
            for name in ("endpoint", "bracket", "leave_one_out")
        ),
    ],
    "test_augment": [
        "test_siamese_transforms_batches_of_any_size_alike[color_crop_cutout_flip_scale_rotate]",
        "test_vmap_scan_and_jit_agree_with_single_calls",
        *(
            f"test_siamese_transforms_batches_of_any_size_alike[{name}]"
            for name in ("color", "crop", "cutout", "rotate", "scale", "flip")
        ),
        *(f"test_discrete_operations_draw_every_choice_equally_often[{name}-shape1]" for name in ("crop", "cutout")),
    ],
    "test_networks": [
        "test_logits_are_those_of_numpy[resnet (width 2)-shape1-<lambda>]",
        "test_logits_are_those_of_numpy[resnet (depth 10, width 2)-shape0-<lambda>]",
        "test_logits_are_those_of_numpy[alexnet (width 4)-shape6-alexnet_by_hand]",
        "test_logits_are_those_of_numpy[vgg (width 2)-shape3-vgg_by_hand]",
    ],
    "test_dm": ["test_objective_is_that_of_explicit_features[mlp-scale_flip]"],
    "test_dc": [
        "test_the_recipe_of_the_networks_training_reaches_it",
        "test_loops_are_those_written_by_hand",
        "test_loops_are_those_written_by_hand[real]",
        "test_objective_is_that_of_explicit_per_layer_gradients[dsa]",
        "test_objective_is_that_of_explicit_per_layer_gradients[idc]",
        "test_a_step_descends_the_objective[2-learned]",
    ],
    "test_mtt": [
        "test_gradient_agrees_with_finite_differences[chord]",
        "test_gradient_agrees_with_finite_differences[full]",
        "test_the_nearest_step_is_matched[full]",
        *(
            f"test_gradient_agrees_with_finite_differences[{case}]"
            for case in ("steps", "truncated to all", "auto", "datm", "ddpp depth", "ddpp threshold")
        ),
        *(
            f"test_gradient_agrees_with_finite_differences[iadd {case}]"
            for case in ("none", "mean_one", "log_barrier", "ratio", "per_tensor", "low_rank")
        ),
        "test_gradient_agrees_with_finite_differences[segmented]",
        "test_gradient_agrees_with_finite_differences[nearest]",
        "test_the_nearest_step_is_matched[segmented]",
        "test_gradient_agrees_with_finite_differences[three pairs, augmented]",
        "test_gradient_agrees_with_finite_differences[iadd per start, two pairs]",
    ],
    "test_fused_features": [
        "test_a_step_descends_the_objective",
        "test_objective_is_that_of_the_released_code[settings1]",
    ],
    "test_methods": [
        "test_state_keeps_its_structure_and_stays_finite[rat_bptt adaptive, two students]",
        "test_state_keeps_its_structure_and_stays_finite[ncfm adversarial]",
        "test_eight_devices_compute_what_one_does[ncfm adversarial]",
        "test_eight_devices_compute_what_one_does[infmatch second_order]",
        "test_eight_devices_compute_what_one_does[dc weighted, explicit]",
        "test_a_diverging_student_stops_the_run[jaxdd.methods.iadd]",
        "test_infmatch_caches_gradients_of_the_real_data",
        "test_eight_devices_compute_what_one_does[infmatch first_order, augmented]",
        "test_eight_devices_compute_what_one_does[rat_bptt adaptive, two students]",
        "test_objective_is_the_loss_of_a_step_and_sees_the_instance_weights[ncfm]",
        *(
            f"test_state_keeps_its_structure_and_stays_finite[{case}]"
            for case in ("infmatch first_order, augmented", "ddpp quantile", "mtt learned labels", "dc")
        ),
        *(
            f"test_a_set_is_distilled_with_every_network[{network}-{method}]"
            for network in (
                "convnet",
                "mlp",
                "resnet10",
                "resnet18, batch",
                "resnet34, group",
                "vgg11",
                "alexnet",
                "lenet",
                "vit",
            )
            for method in ("mtt", "iadd, low rank", "infmatch", "dc", "dm", "cafe")
        ),
        "test_eight_devices_compute_what_one_does[datm]",
        "test_eight_devices_compute_what_one_does[ddpp quantile]",
        "test_eight_devices_compute_what_one_does[iadd bounded]",
    ],
}
"""By file: long tests of cases beside one that the fast set keeps."""
SLOW_CASES = {"dc weighted, implicit, select", "dc idc", "datm", "ddpp threshold", "iadd mean_one", "iadd log_barrier"}
SLOW_CASES |= {"iadd per_tensor", "iadd ratio", "infmatch published, cached, mini-batch", "mtt truncated, mini-batch"}
SLOW_CASES |= {"mtt tesla, three pairs", "infmatch learned labels", "ddpp depth", "iadd per start, two pairs"}
SLOW_CASES |= {"rat_bptt"}
SLOW_CASES |= {"infmatch unroll", "dc dsa, learned labels", "iadd none", "iadd low_rank"}
"""Cases of the contract suite, test_methods, that the fast set leaves out."""


def pytest_itemcollected(item):
    """Mark slow tests."""
    file = item.path.stem
    case = getattr(item, "callspec", None) and item.callspec.params.get("name")
    if {item.name, item.originalname} & set(SLOW.get(file, ())) or (file == "test_methods" and case in SLOW_CASES):
        item.add_marker(pytest.mark.slow)


@pytest.fixture
def x64():
    """Compute in float64 for the length of a test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def toy():
    """Build the task of a small network, and a batch of eight examples of three classes, in a given precision."""

    def build(dtype, *, name="convnet", norm="instance", activation="gelu"):
        # A smooth activation: finite differences of a ReLU network are off wherever a unit switches.
        kinds = {"convnet": ConvNet(width=4, depth=1, norm=norm, activation=activation)}
        config = kinds.get(name) or MLP(width=4, depth=1, activation=activation)
        model = models.build(config, (4, 4, 1), 3)
        key = jax.random.key(7)
        examples = Examples(
            inputs=jax.random.normal(key, (8, 4, 4, 1), dtype),
            targets=jax.nn.one_hot(jnp.arange(8) % 3, 3, dtype=dtype),
            weights=jnp.full((8,), 1 / 8, dtype),
            indices=jnp.arange(8),
        )
        return classification(model, 3), examples

    return build


@pytest.fixture(scope="session")
def stripes():
    """A dataset that is learned in seconds: 8×8 images of three classes, stripes of three directions in noise."""
    rng = np.random.default_rng(0)
    pattern = np.zeros((3, 8, 8))
    pattern[0, ::2], pattern[1, :, ::2] = 1, 1
    pattern[2] = np.indices((8, 8)).sum(0) % 4 < 2

    def draw(count):
        labels = np.arange(count) % 3
        noisy = 128 * pattern[labels] + rng.normal(64, 40, (count, 8, 8))
        return noisy.clip(0, 255).astype(np.uint8), labels

    return data.from_arrays(*draw(240), *draw(90), name="stripes", validation=0.2)
