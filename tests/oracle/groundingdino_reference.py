"""Runs in an environment with groundingdino-py's source and transformers 4: saves a GroundingDINO
with random weights as it is published, and what the original code computes with it.

Arguments: the source folder, the name of one of its configs, BERT's vocabulary, and where to write.
"""

import sys
from importlib import import_module
from pathlib import Path

import torch

SIDE = 288
SEED = 3  # no two of the best 900 cells score alike to float32's last digit, as with seed 0
CAPTION = "a cat. red-colored paprika. dog."


def main(source: str, kind: str, vocabulary: str, out: Path) -> None:
    sys.path.insert(0, source)
    network = import_module("groundingdino.models.GroundingDINO.groundingdino")
    transformer = import_module("groundingdino.models.GroundingDINO.transformer")
    build_model = import_module("groundingdino.models").build_model
    inverse_sigmoid = import_module("groundingdino.util.misc").inverse_sigmoid
    config_class = import_module("groundingdino.util.slconfig").SLConfig
    from transformers import BertConfig, BertModel, BertTokenizer

    torch.manual_seed(SEED)
    bert = out / "bert"
    BertModel(BertConfig()).save_pretrained(bert)
    BertTokenizer(vocabulary).save_pretrained(bert)
    config = config_class.fromfile(f"{source}/groundingdino/config/{kind}.py")
    config.device, config.text_encoder_type = "cpu", str(bert)
    model = build_model(config).eval()
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 or "bias_table" in name:
                parameter += torch.randn(parameter.shape, generator=draws) * 0.02
            if "bbox_embed" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=draws) * 0.05)
    weights = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    weights["module.label_enc.weight"] = torch.zeros(2001, 256)  # as in the published files
    weights["module.bert.embeddings.position_ids"] = torch.arange(512)[None]
    torch.save({"model": weights}, out / "checkpoint.pth")

    # transformers cuts boxes off at 1e-5 of the border, the original at 1e-3: the one difference
    def narrow(x, eps=1e-3):
        return inverse_sigmoid(x, eps=1e-5)

    for module in (network, transformer):
        vars(module)["inverse_sigmoid"] = narrow
    torch.set_default_dtype(torch.float64)  # the scores that choose cells go through a new tensor
    pixels = torch.randn(1, 3, SIDE, SIDE, generator=draws, dtype=torch.float64)
    with torch.no_grad():
        made = model.double()(pixels, captions=[CAPTION])
    torch.save(
        {
            "pixels": pixels,
            "ids": torch.tensor([model.tokenizer(CAPTION)["input_ids"]]),
            "logits": made["pred_logits"],
            "boxes": made["pred_boxes"],
        },
        out / "answers.pt",
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]))
