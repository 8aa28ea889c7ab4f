"""Writes mobileclip.json, the reference numbers of src/compute/tests/parity/mobileclip.rs: features, text embeddings and logits of OpenCLIP for
generated weights, pictures and prompts. The networks run in f64.

    python mobileclip.py     # needs torch, timm and open_clip_torch

Two towers are tiny and have the branches of training: one as in MobileCLIP-S0 to -S2, one as in MobileCLIP2-S3 and -S4. The tower of
MobileCLIP2-S0 has its own size and one convolution in the place of branches.
"""

import json
import pathlib
from functools import partial

import open_clip
import timm
import torch
from open_clip.model import CustomTextCLIP
from timm.layers import LayerNorm2d
from timm.models.fastvit import FastVit, RepConditionalPosEnc
from timm.utils import reparameterize_model

from generate import parameter, uniform

HERE = pathlib.Path(__file__).parent
VERSIONS = {"torch": torch.__version__, "timm": timm.__version__, "open_clip_torch": open_clip.__version__}
# The numbers of tokens in a vocabulary of words; the last one ends a text.
START, END, CONTEXT = 14, 15, 8
PROMPTS = [[[1, 2, 3], [4, 3]], [[5, 6]], [[7, 8, 9, 10], [1, 11]]]
EMBEDDING = 48

POSITIONS = partial(RepConditionalPosEnc, spatial_shape=(7, 7))
SMALL = {
    "layers": (1, 2, 1, 2),
    "embed_dims": (16, 32, 64, 128),
    "mlp_ratios": (3, 3, 3, 3),
    "se_downsamples": (False, False, True, True),
    "pos_embs": (None, None, None, POSITIONS),
    "token_mixers": ("repmixer", "repmixer", "repmixer", "attention"),
    "lkc_use_act": True,
}
SMALL_2 = {
    "layers": (1, 1, 1, 1, 1),
    "embed_dims": (16, 32, 32, 64, 128),
    "mlp_ratios": (4, 4, 4, 4, 4),
    "downsamples": (False, True, True, True, True),
    "se_downsamples": (False,) * 5,
    "pos_embs": (None, None, None, POSITIONS, POSITIONS),
    "token_mixers": ("repmixer", "repmixer", "repmixer", "attention", "attention"),
    "lkc_use_act": True,
    "norm_layer": partial(LayerNorm2d, eps=1e-5),
    "stem_use_scale_branch": False,
}


def numbers(tensor):
    return [float(f"{x:.9g}") for x in tensor.flatten().tolist()]


def filled(model):
    names = [name for name in model.state_dict() if not name.endswith("num_batches_tracked")]
    shapes = {name: tuple(model.state_dict()[name].shape) for name in names}
    model.load_state_dict({name: torch.from_numpy(parameter(name, shapes[name])) for name in names}, strict=False)
    return model.double().eval(), [[name, list(shapes[name])] for name in names]


def pictures(side):
    return torch.from_numpy(uniform("input", (2, 3, side, side), -2.0, 2.0)).double()


def small(tower, no_causal_mask):
    vision = {"timm_model_name": "fastvit_mci0", "timm_pool": "avg", "timm_proj": None, "image_size": 64}
    text = {"context_length": CONTEXT, "vocab_size": 16, "width": 32, "heads": 4, "layers": 2}
    text["no_causal_mask"] = no_causal_mask
    model = CustomTextCLIP(embed_dim=EMBEDDING, vision_cfg=vision, text_cfg=text)
    model.visual.trunk = FastVit(num_classes=EMBEDDING, **tower)
    model, tensors = filled(model)
    unit = torch.nn.functional.normalize
    with torch.no_grad():
        features = model.encode_image(pictures(64), normalize=True)
        rows = []
        for prompts in PROMPTS:
            ids = [[START, *prompt, END] for prompt in prompts]
            ids = torch.tensor([text + [0] * (CONTEXT - len(text)) for text in ids])
            rows.append(unit(model.encode_text(ids, normalize=True).mean(0), dim=-1))
        rows = torch.stack(rows)
        logits = model.logit_scale.exp() * features @ rows.T
    report("small", features)
    return {
        "tensors": tensors,
        "no_causal_mask": no_causal_mask,
        "scale": model.logit_scale.exp().item(),
        "features": numbers(features),
        "rows": numbers(rows),
        "logits": numbers(logits),
    }


def real():
    model = reparameterize_model(timm.create_model("fastvit_mci0", num_classes=512).eval())
    model, tensors = filled(model)
    with torch.no_grad():
        features = torch.nn.functional.normalize(model(pictures(256)), dim=-1)
    report("fastvit_mci0", features)
    return {"tensors": tensors, "features": numbers(features)}


def report(name, features):
    print(f"{name}: largest {features.abs().max():.3f}, between pictures {(features[0] - features[1]).norm():.3f}")


value = {"versions": VERSIONS, "prompts": PROMPTS, "small": [small(SMALL, True), small(SMALL_2, False)], "real": real()}
(HERE / "mobileclip.json").write_text(json.dumps(value, separators=(",", ":")) + "\n")
