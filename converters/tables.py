"""All key layouts by the names that cards use (`Card.table`): cards are data and import no converter."""

from bob_jax.errors import unknown_name
from converters import (
    aimv2,
    beit,
    bridge,
    clip_resnet,
    convnext,
    eva,
    hiera,
    resnet,
    sam_vit,
    stable_diffusion,
    swin_v2,
    text,
    vit,
)
from converters.rules import Table

TABLES: dict[str, Table] = {
    "timm_vit": vit.TIMM_VIT,
    "timm_vit_without_pool": vit.TIMM_VIT_WITHOUT_POOL,
    "mocov3_vit": vit.MOCOV3_VIT,
    "augreg_vit": vit.AUGREG_VIT,
    "openclip_vit": vit.OPENCLIP_VIT,
    "timm_resnet": resnet.TIMM_RESNET,
    "mocov3_resnet": resnet.MOCOV3_RESNET,
    "sscd_torchvision": resnet.SSCD_TORCHVISION,
    "sscd_classy": resnet.SSCD_CLASSY,
    "timm_clip_resnet": clip_resnet.TIMM_CLIP_RESNET,
    "timm": bridge.AS_IS,
    "as_is": bridge.AS_IS,
    "timm_clip_resnet_without_pool": clip_resnet.TIMM_CLIP_RESNET_WITHOUT_POOL,
    "openai_clip_resnet": clip_resnet.OPENAI_CLIP_RESNET,
    "timm_convnext": convnext.TIMM_CONVNEXT,
    "timm_convnext_fcmae": convnext.TIMM_CONVNEXT_FCMAE,
    "openclip_convnext": convnext.OPENCLIP_CONVNEXT,
    "facebook_convnext": convnext.FACEBOOK_CONVNEXT,
    "facebook_convnext_fcmae": convnext.FACEBOOK_CONVNEXT_FCMAE,
    "vicregl_convnext": convnext.VICREGL_CONVNEXT,
    "timm_swin_v2": swin_v2.TIMM_SWIN_V2,
    "microsoft_swin_v2": swin_v2.MICROSOFT_SWIN_V2,
    "midas_swin_v2": swin_v2.MIDAS_SWIN_V2,
    "timm_hiera": hiera.TIMM_HIERA,
    "timm_eva": eva.TIMM_EVA,
    "timm_eva_mim": eva.TIMM_EVA_MIM,
    "dinov3": eva.DINOV3,
    "timm_beit": beit.TIMM_BEIT,
    "timm_aimv2": aimv2.TIMM_AIMV2,
    "aimv2": aimv2.AIMV2,
    "diffusers_sd_v1": stable_diffusion.DIFFUSERS_V1,
    "diffusers_sd_v2": stable_diffusion.DIFFUSERS_V2,
    "compvis_sd_v1": stable_diffusion.COMPVIS_V1,
    "openclip_text": text.OPENCLIP_TEXT,
    "timm_sam_vit": sam_vit.TIMM_SAM_VIT,
    "sam_vit": sam_vit.SAM_VIT,
}


def table_of(name: str) -> Table:
    """The key layout with this name.

    Raises:
        BobError: there is none.
    """
    if name not in TABLES:
        raise unknown_name("table", name, TABLES)
    return TABLES[name]
