"""All key layouts by the names that cards use (`Card.table`): cards are data and import no converter."""

from bob_jax.errors import unknown_name
from converters import bridge, clip_resnet, resnet, vit
from converters.rules import Table

TABLES: dict[str, Table] = {
    "timm_vit": vit.TIMM_VIT,
    "timm_vit_without_pool": vit.TIMM_VIT_WITHOUT_POOL,
    "mocov3_vit": vit.MOCOV3_VIT,
    "augreg_vit": vit.AUGREG_VIT,
    "openclip_vit": vit.OPENCLIP_VIT,
    "timm_resnet": resnet.TIMM_RESNET,
    "mocov3_resnet": resnet.MOCOV3_RESNET,
    "timm_clip_resnet": clip_resnet.TIMM_CLIP_RESNET,
    "timm": bridge.AS_IS,
    "as_is": bridge.AS_IS,
    "openai_clip_resnet": clip_resnet.OPENAI_CLIP_RESNET,
}


def table_of(name: str) -> Table:
    """The key layout with this name.

    Raises:
        BobError: there is none.
    """
    if name not in TABLES:
        raise unknown_name("table", name, TABLES)
    return TABLES[name]
