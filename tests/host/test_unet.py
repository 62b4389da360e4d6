import comfy.ldm.modules.attention

from ale_edit.host.attention.unet import cross_attention_layers
from ale_edit.tests.host.flow_models import flow_model
from ale_edit.tests.host.runs import generate, plain, with_option


def test_every_cross_attention_layer_is_found_under_the_key_that_comfyui_calls_it_by(model, clip):
    called: set[tuple[str, int, int]] = set()

    def note(n, context, value, options):
        called.add((*options["block"], options["block_index"]))
        return n, context, value

    noting = with_option(model, lambda m: m.set_model_attn2_patch(note))
    generate(noting, plain(clip, "a"), plain(clip, ""), steps=1)
    layers = cross_attention_layers(model.model.diffusion_model)
    assert layers.keys() == called
    assert ("middle", 0, 0) in layers and len(layers) == 10


def test_the_layers_are_the_attn2_modules(model):
    layers = cross_attention_layers(model.model.diffusion_model)
    modules = dict(model.model.diffusion_model.named_modules())
    expected = {id(m) for name, m in modules.items() if name.endswith("attn2")}
    assert {id(layer) for layer in layers.values()} == expected
    attention = comfy.ldm.modules.attention.CrossAttention
    assert all(isinstance(layer, attention) for layer in layers.values())


def test_flux_has_none():
    assert cross_attention_layers(flow_model("Flux.1").model.diffusion_model) == {}
