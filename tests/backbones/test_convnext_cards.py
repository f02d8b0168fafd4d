"""ConvNeXt's cards: the paper's competitors are there, and each trap that shapes do not protect from is avoided."""

import pytest

from bob_jax.backbones import zoo
from bob_jax.backbones.card import CLIP_MEAN, IMAGENET_MEAN
from converters.references import timm_name

CARDS = {name: zoo.card(name) for name in zoo.names(architecture="convnext")}
PRETRAINED = {name: card for name, card in CARDS.items() if card.source}


def test_the_papers_backbones_and_their_twins_are_there():
    wanted = (
        "convnext_t_in1k convnext_b_in1k convnext_b_in22k convnext_xl_in22k_ft_in1k convnext_xl_vicregl "
        "convnext_s_in1k convnext_s_in22k_ft_in1k convnext_b_in22k_ft_in1k convnext_t_random convnext_s_random "
        "convnext_b_random convnext_xl_random convnextv2_t_random convnext_nano_random"
    )
    assert set(wanted.split()) <= set(CARDS)


def test_trap_bare_names_of_timm_changed_their_meaning():
    assert CARDS["convnext_t_in1k"].source.hub == "timm/convnext_tiny.fb_in1k"
    assert CARDS["convnext_b_in22k"].source.hub == "timm/convnext_base.fb_in22k"
    assert CARDS["convnextv2_b_fcmae"].source.hub == "timm/convnextv2_base.fcmae"


def test_trap_fcmae_encoders_and_they_alone_have_no_final_norm():
    plain = {name for name, card in CARDS.items() if card.arguments.get("final_norm") == "plain"}
    assert plain == {name for name, card in CARDS.items() if card.method == "fcmae"}
    assert plain == {f"convnextv2_{size}_fcmae" for size in "afpntblh"}
    for name in plain:
        assert CARDS[name].table == "timm_convnext_fcmae"
    assert zoo.skeleton("convnextv2_a_fcmae").fc_norm is None


def test_trap_vicregl_norms_before_it_pools_and_has_no_layer_scale():
    card = CARDS["convnext_xl_vicregl"]
    assert card.arguments["final_norm"] == "before_pool" and card.arguments["layer_scale"] is None
    assert card.preprocessing.interpolation == "bilinear" and card.data == "ImageNet-22k"
    others = {card.arguments.get("final_norm") for card in CARDS.values()} - {"before_pool"}
    assert others == {None, "plain"}


def test_trap_v2_has_response_norms_and_no_layer_scale():
    for name, card in CARDS.items():
        v2 = name.startswith("convnextv2")
        assert card.arguments.get("grn", False) == v2, name
        assert ("layer_scale" in card.arguments) == (v2 or "vicregl" in name), name


def test_trap_no_card_uses_the_larger_test_size_of_timm():
    sizes = {name: card.preprocessing.input_size for name, card in CARDS.items() if "clip" not in name}
    assert set(sizes.values()) == {224, 256, 32}
    assert {name for name, size in sizes.items() if size == 256} == {
        name for name in sizes if name.endswith(("dinov3", "eupe"))
    }
    assert "288" in CARDS["convnext_t_in22k_ft_in1k"].notes


def test_trap_clip_statistics_and_the_feature_before_the_projection():
    for name, card in PRETRAINED.items():
        if name.endswith("_glyphs"):  # ours
            continue
        assert card.preprocessing.mean == (CLIP_MEAN if "clip" in name else IMAGENET_MEAN), name
        assert card.feature_dim == card.arguments["widths"][-1], name
    assert CARDS["convnext_b_clip"].feature_dim == 1024 and CARDS["convnext_b_clip"].preprocessing.crop_pct == 1.0


def test_trap_dinov3_is_squashed_and_pooled_by_its_authors_mean():
    for size in "tsbl":
        card = CARDS[f"convnext_{size}_dinov3"]
        assert (card.preprocessing.crop_mode, card.pooling) == ("squash", "mean")
        assert card.licence == "dinov3-license"


@pytest.mark.parametrize("name", ["convnextv2_p_fcmae", "convnext_b_clip"])
def test_timm_builds_the_same_architecture(name):
    expected = {
        "convnextv2_p_fcmae": ("convnextv2_pico", {}),
        "convnext_b_clip": ("convnext_base", {}),
    }
    assert timm_name(CARDS[name]) == expected[name]
