"""Which cells go to one machine."""

from bob_jax import grid
from bob_jax.launch.chains import chains
from configs import digits, retrieval


def of(config) -> list[list[str]]:
    """The chains, each cell as BACKBONE DATASET PROTOCOL SEED."""
    found = chains(grid.cells(config))
    return [[f"{cell.backbone} {cell.dataset} {cell.protocol_name} {cell.seed}" for cell in chain] for chain in found]


def test_cells_with_the_same_features_are_together_and_a_fine_tuned_backbone_is_alone():
    config = digits.get_config(
        "vit_nano8_random,vit_micro8_random,dataset=digits,protocol=knn+linear_probe+finetune,seed=0+1"
    )
    one, two = "vit_nano8_random digits", "vit_micro8_random digits"
    frozen = ("knn 0", "knn 1", "linear_probe 0", "linear_probe 1")
    assert of(config) == [
        [f"{one} {each}" for each in frozen],
        [f"{one} finetune 0"],
        [f"{one} finetune 1"],
        [f"{two} {each}" for each in frozen],
        [f"{two} finetune 0"],
        [f"{two} finetune 1"],
    ]


def test_a_head_stands_before_all_that_judge_it_in_one_chain():
    config = digits.get_config("vit_nano8_random,dataset=digits_c+digits_from_print,protocol=ood,head=finetune")
    assert of(config) == [
        [
            "vit_nano8_random digits finetune 0",
            "vit_nano8_random digits_c ood_finetune 0",
        ],
        [
            "vit_nano8_random printed_digits finetune 0",
            "vit_nano8_random digits_from_print ood_finetune 0",
        ],
    ]


def test_the_judges_of_a_frozen_head_share_its_features_with_the_other_cells_of_its_data():
    config = digits.get_config("vit_nano8_random,dataset=digits+digits_c+digits_retrieval,protocol=knn+ood+retrieval")
    assert of(config) == [
        [
            "vit_nano8_random digits knn 0",
            "vit_nano8_random digits linear_probe 0",
            "vit_nano8_random digits_c ood_linear_probe 0",
        ],
        ["vit_nano8_random digits_retrieval retrieval 0"],
    ]


def test_low_data_variants_have_the_test_images_in_common():
    config = digits.get_config("vit_nano8_random,dataset=digits+digits@5shot,protocol=knn,seed=0+1")
    (chain,) = of(config)
    assert len(chain) == 4


def test_several_questions_of_one_folder_of_images_are_together():
    config = retrieval.get_config("vit_b16_clip,dataset=roxford5k_medium+roxford5k_hard+cub_retrieval")
    assert sorted(map(len, of(config))) == [1, 2]
